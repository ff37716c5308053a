import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Addon, WatchEvent } from '../../native/index.js';
import { attempt, SOCKET_PATH, systemError } from './linux-errors.js';
import { LinuxSocketStream } from './linux-socket-stream.js';

/** A full backlog cannot be waited for, only tried again. */
const RETRY_MILLISECONDS = 20;

/** Connects to a Unix socket. Rejects with PlatformError or the signal's reason; then no fd is left behind. */
export async function connect(addon: Addon, path: string, signal?: AbortSignal): Promise<LinuxSocketStream> {
  signal?.throwIfAborted();
  const what = `connect to ${path}`;
  const fd = attempt(what, () => addon.socketOpen());
  try {
    for (;;) {
      const status = attempt(what, () => addon.socketConnect(fd, path), SOCKET_PATH);
      if (status === 0) break;
      if (status === -constants.errno.EINPROGRESS) {
        await writable(addon, fd, signal);
        const error = attempt(what, () => addon.socketError(fd));
        if (error === 0) break;
        throw systemError(what, 'connect', error);
      }
      await sleep(RETRY_MILLISECONDS, undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
    return new LinuxSocketStream(addon, fd);
  } catch (error) {
    addon.fdClose(fd);
    throw error;
  }
}

async function writable(addon: Addon, fd: number, signal: AbortSignal | undefined): Promise<void> {
  let watch: number | undefined;
  let abort: (() => void) | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      abort = () => reject(signal!.reason);
      signal?.addEventListener('abort', abort);
      watch = attempt(`watch socket ${fd}`, () => addon.openWatch(fd, false, () => resolve()));
      const status = addon.setWatchEvents(watch, WatchEvent.writable);
      if (status < 0) reject(systemError(`watch socket ${fd}`, 'epoll_ctl', -status));
    });
  } finally {
    signal?.removeEventListener('abort', abort!);
    if (watch !== undefined) addon.closeWatch(watch);
  }
}
