import { getSystemErrorMap } from 'node:util';
import { PlatformError } from '../errors.js';

let symbols: ReadonlyMap<number, [string, string]> | undefined;

/** The symbol of a positive errno, e.g. `ENOENT`. */
export function errnoSymbol(errno: number): string {
  symbols ??= getSystemErrorMap();
  return symbols.get(-errno)?.[0] ?? `errno ${errno}`;
}

/** An error for a system call that failed with a positive errno. `what` says what was tried, e.g. `listen on /a/b`. */
export function systemError(what: string, syscall: string, errno: number, cause?: unknown): PlatformError {
  const symbol = errnoSymbol(errno);
  const reason = symbols?.get(-errno)?.[1] ?? (cause instanceof Error ? cause.message : 'failed');
  return new PlatformError(
    'ERR_PLATFORM_SYSTEM_CALL',
    `cannot ${what}: ${reason} (${symbol} from ${syscall})`,
    {
      syscall,
      errno: symbol,
      ...(cause === undefined ? {} : { cause }),
    },
  );
}

export const closedError = (what: string) =>
  new PlatformError('ERR_PLATFORM_CLOSED', `cannot ${what}: it is closed`);

/** Runs a call of the addon and turns what it throws into a PlatformError. */
export function attempt<T>(what: string | (() => string), call: () => T): T {
  try {
    return call();
  } catch (error) {
    const text = typeof what === 'string' ? what : what();
    const { syscall, errno } = error as { syscall?: unknown; errno?: unknown };
    if (typeof syscall === 'string' && typeof errno === 'number')
      throw systemError(text, syscall, errno, error);
    throw new PlatformError('ERR_PLATFORM_ARGUMENT', `cannot ${text}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
