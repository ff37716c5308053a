import type { DeviceHost } from '../device/index.js';
import { PlatformError } from '../errors.js';

export type Log = DeviceHost['log'];
export type LogLevel = Parameters<Log>[0];

/** From the gravest to the most talkative. */
export const LOG_LEVELS: readonly LogLevel[] = ['error', 'warn', 'info', 'debug'];

/**
 * Structured lines in logfmt: `time=… level=warn message="an operation failed" queue=0 result=-5`. One event is one line,
 * whatever its values contain.
 */
export function createLog(limit: LogLevel, write: (line: string) => void): Log {
  const most = LOG_LEVELS.indexOf(limit);
  return (level, message, fields = {}) => {
    if (LOG_LEVELS.indexOf(level) > most) return;
    const pairs = Object.entries({ time: new Date().toISOString(), level, message, ...fields });
    write(`${pairs.map(([key, value]) => `${key}=${format(value)}`).join(' ')}\n`);
  };
}

/** An error and what caused it, in one line. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  // A chain of causes is short; one that leads back to itself must not be followed for ever.
  for (let each: unknown = error, i = 0; each !== undefined && i < 8; i++) {
    const text = each instanceof Error ? each.message : String(each);
    if (!parts.some((part) => part.toLowerCase().includes(text.toLowerCase()))) parts.push(text);
    // A system call that failed is told of by the platform; below is the errno's text once more.
    const whole = each instanceof PlatformError && each.errno !== undefined;
    each = each instanceof Error && !whole ? each.cause : undefined;
  }
  return parts.join(': ').replace(/\s*[\r\n]+\s*/g, ' ');
}

function format(value: unknown): string {
  const text =
    value instanceof Error
      ? describeError(value)
      : typeof value === 'object' && value !== null
        ? JSON.stringify(value, (_key, each: unknown) => (typeof each === 'bigint' ? String(each) : each))
        : String(value);
  return /^[^\s"=\\\p{Cc}]+$/u.test(text) ? text : JSON.stringify(text);
}
