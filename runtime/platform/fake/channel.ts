import { PlatformError } from '../../errors.js';
import type { SocketStream } from '../platform.js';

const PIECE = 4096;

/** See Platform.readChannel; pipes are stream sockets here. Fds that come with the bytes are nobody's: `closeFd` ends them. */
export function readChannel(
  stream: SocketStream,
  closeFd: (fd: number) => void,
  limit: number,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  return transfer(stream, signal, (ready) => {
    stream.onReadable(ready);
    return () => {
      for (;;) {
        const piece = new Uint8Array(PIECE);
        const fds: number[] = [];
        const count = stream.receive(piece, fds);
        fds.forEach(closeFd);
        if (count < 0) return null;
        if (count === 0) return { value: new Uint8Array(Buffer.concat(pieces)) };
        pieces.push(piece.subarray(0, count));
        length += count;
        if (length > limit) {
          throw new PlatformError('ERR_PLATFORM_LIMIT', `the channel holds more than ${limit} bytes`, {
            syscall: 'read',
          });
        }
      }
    };
  });
}

/** See Platform.writeChannel. */
export function writeChannel(stream: SocketStream, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
  let sent = 0;
  return transfer(stream, signal, (ready) => {
    stream.onWritable(ready);
    return () => {
      while (sent < bytes.byteLength) {
        const count = stream.send(bytes.subarray(sent), []);
        if (count < 0) return null;
        sent += count;
      }
      return { value: undefined };
    };
  });
}

function transfer<Result>(
  stream: SocketStream,
  signal: AbortSignal | undefined,
  start: (ready: () => void) => () => { value: Result } | null,
): Promise<Result> {
  return new Promise((resolve, reject) => {
    const finish = (settle: () => void): void => {
      signal?.removeEventListener('abort', abort);
      stream.close();
      settle();
    };
    const abort = (): void => finish(() => reject(signal!.reason as Error));
    const step = start(() => run());
    const run = (): void => {
      try {
        const outcome = step();
        if (outcome !== null) finish(() => resolve(outcome.value));
      } catch (error) {
        finish(() => reject(error as Error));
      }
    };
    if (signal?.aborted === true) return abort();
    signal?.addEventListener('abort', abort, { once: true });
    run();
  });
}
