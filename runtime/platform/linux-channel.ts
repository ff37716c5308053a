import { Socket } from 'node:net';
import type { Addon } from '../../native/index.js';
import { PlatformError } from '../errors.js';
import { attempt } from './linux-errors.js';

/** See Platform.readChannel. Node's own streams poll the fd; whoever handed it over has given it up for good. */
export function readChannel(
  addon: Addon,
  fd: number,
  limit: number,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  return transfer(addon, fd, 'read', signal, (channel, done, fail) => {
    const pieces: Buffer[] = [];
    let length = 0;
    channel.on('data', (piece: Buffer) => {
      pieces.push(piece);
      length += piece.byteLength;
      if (length > limit) {
        fail(
          new PlatformError('ERR_PLATFORM_LIMIT', `channel ${fd} holds more than ${limit} bytes`, {
            syscall: 'read',
          }),
        );
      }
    });
    channel.on('end', () => done(new Uint8Array(Buffer.concat(pieces))));
  });
}

/** See Platform.writeChannel. */
export function writeChannel(
  addon: Addon,
  fd: number,
  bytes: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  return transfer<undefined>(addon, fd, 'write', signal, (channel, done, fail) => {
    channel.write(bytes, (error) => (error ? fail(error) : done(undefined)));
  });
}

/** Runs `work` over the fd, which is closed before the promise settles. */
function transfer<Result>(
  addon: Addon,
  fd: number,
  syscall: 'read' | 'write',
  signal: AbortSignal | undefined,
  work: (channel: Socket, done: (result: Result) => void, fail: (error: Error) => void) => void,
): Promise<Result> {
  return new Promise((resolve, reject) => {
    let channel: Socket;
    try {
      signal?.throwIfAborted();
      channel = new Socket({ fd, readable: syscall === 'read', writable: syscall === 'write' });
    } catch (cause) {
      attempt(`close fd ${fd}`, () => addon.fdClose(fd));
      reject(asPlatformError(fd, syscall, cause));
      return;
    }
    let settle = (): void =>
      reject(asPlatformError(fd, syscall, new Error('the channel was closed before its end')));
    // A write that is broken off is reported as done once the channel is destroyed: only the first report counts.
    const finish = (how: () => void): void => {
      if (channel.destroyed) return;
      settle = how;
      channel.destroy();
    };
    const fail = (error: unknown): void => finish(() => reject(asPlatformError(fd, syscall, error)));
    const abort = (): void => fail(signal!.reason);
    signal?.addEventListener('abort', abort, { once: true });
    channel.on('error', fail);
    channel.on('close', () => {
      signal?.removeEventListener('abort', abort);
      settle();
    });
    work(channel, (result) => finish(() => resolve(result)), fail);
  });
}

function asPlatformError(fd: number, syscall: string, cause: unknown): PlatformError {
  if (cause instanceof PlatformError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  return new PlatformError('ERR_PLATFORM_SYSTEM_CALL', `${syscall} of channel ${fd} failed: ${message}`, {
    cause,
    syscall,
    ...(code === undefined ? {} : { errno: code }),
  });
}
