import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';
import { PlatformError } from '../errors.js';

type Entry = readonly [symbol: string, meaning?: string];

/** Symbol and meaning by positive errno: libuv's table, and the names of those that it does not know. */
const errnos: ReadonlyMap<number, Entry> = new Map<number, Entry>([
  ...Object.entries(constants.errno).map(([symbol, errno]) => [errno, [symbol]] as const),
  [15, ['ENOTBLK']] as const,
  ...[...getSystemErrorMap()].map(([errno, entry]) => [-errno, entry] as const),
]);

/** What an errno means in a certain call, where the general text would mislead. By symbol. */
export type Meanings = Readonly<Record<string, string>>;

/** Meanings in calls that take the path of a Unix socket, which has 108 bytes of room with the NUL behind it. */
export const SOCKET_PATH: Meanings = { ENAMETOOLONG: 'the path of a Unix socket has at most 107 bytes' };

/** The symbol of a positive errno, e.g. `ENOENT`. */
export const errnoSymbol = (errno: number): string => errnos.get(errno)?.[0] ?? `errno ${errno}`;

/** An error for a system call that failed with a positive errno. `what` says what was tried, e.g. `listen on /a/b`. */
export function systemError(
  what: string,
  syscall: string,
  errno: number,
  options: { cause?: unknown; meanings?: Meanings | undefined } = {},
): PlatformError {
  const symbol = errnoSymbol(errno);
  const meaning = options.meanings?.[symbol] ?? errnos.get(errno)?.[1] ?? 'the system refused';
  return new PlatformError(
    'ERR_PLATFORM_SYSTEM_CALL',
    `cannot ${what}: ${meaning} (${symbol} from ${syscall})`,
    {
      syscall,
      errno: symbol,
      ...('cause' in options ? { cause: options.cause } : {}),
    },
  );
}

export const closedError = (what: string) =>
  new PlatformError('ERR_PLATFORM_CLOSED', `cannot ${what}: it is closed`);

/** Runs a call of the addon and turns what it throws into a PlatformError. */
export function attempt<T>(what: string | (() => string), call: () => T, meanings?: Meanings): T {
  try {
    return call();
  } catch (cause) {
    const text = typeof what === 'string' ? what : what();
    const { syscall, errno } = cause as { syscall?: unknown; errno?: unknown };
    if (typeof syscall === 'string' && typeof errno === 'number') {
      throw systemError(text, syscall, errno, { cause, meanings });
    }
    throw new PlatformError('ERR_PLATFORM_ARGUMENT', `cannot ${text}: ${(cause as Error).message}`, {
      cause,
    });
  }
}
