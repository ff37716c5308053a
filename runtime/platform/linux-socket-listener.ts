import { type Addon, WatchEvent } from '../../native/index.js';
import { attempt, errnoSymbol, systemError } from './linux-errors.js';
import { LinuxSocketStream } from './linux-socket-stream.js';
import type { SocketListener, SocketStream } from './platform.js';

/** How long accepting rests when the process has no fd or memory left: the backlog keeps the socket readable. */
const REST_MILLISECONDS = 100;
const EXHAUSTED = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM']);
/** The connection was gone before it was accepted, or there is none. */
const NOTHING = new Set(['EAGAIN', 'ECONNABORTED', 'EINTR']);

/** The socket file that a listener made; the numbers tell whether it is still the same. */
export interface SocketFile {
  readonly path: string;
  readonly device: bigint;
  readonly inode: bigint;
}

export class LinuxSocketListener implements SocketListener {
  readonly kind = 'listener';
  readonly #addon: Addon;
  readonly #fd: number;
  readonly #file: SocketFile | undefined;
  readonly #watch: number;
  #callback: ((stream: SocketStream) => void) | undefined;
  #rest: NodeJS.Timeout | undefined;
  #closed = false;

  /** Takes over the fd, unless it throws. */
  constructor(addon: Addon, fd: number, file?: SocketFile) {
    this.#addon = addon;
    this.#fd = fd;
    this.#file = file;
    this.#watch = attempt(`watch listening socket ${fd}`, () =>
      addon.openWatch(fd, false, () => this.#accept()),
    );
  }

  onConnection(callback: (stream: SocketStream) => void): void {
    this.#callback = callback;
    if (!this.#closed && this.#rest === undefined) this.#listen(true);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#rest);
    const file = this.#file;
    // The file goes first: nobody shall connect to a socket that is about to refuse.
    try {
      if (file !== undefined) {
        attempt(`remove ${file.path}`, () => this.#addon.socketUnlink(file.path, file.device, file.inode));
      }
    } finally {
      this.#addon.closeWatch(this.#watch);
      this.#addon.fdClose(this.#fd);
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #listen(on: boolean): void {
    const status = this.#addon.setWatchEvents(this.#watch, on ? WatchEvent.readable : 0);
    if (status < 0) throw systemError(`watch listening socket ${this.#fd}`, 'epoll_ctl', -status);
  }

  /** One connection a call: the poll is level-triggered, and the callback may close the listener. */
  #accept(): void {
    const fd = this.#addon.socketAccept(this.#fd);
    if (fd >= 0) {
      const stream = LinuxSocketStream.own(this.#addon, fd);
      return this.#callback!(stream);
    }
    const symbol = errnoSymbol(-fd);
    if (NOTHING.has(symbol)) return;
    const error = systemError(`accept a connection on socket ${this.#fd}`, 'accept4', -fd);
    this.#listen(false);
    if (!EXHAUSTED.has(symbol)) throw error; // an uncaughtException: nobody waits for an answer here
    process.emitWarning(`${error.message}; trying again every ${REST_MILLISECONDS} ms`, 'PlatformWarning');
    this.#rest = setTimeout(() => {
      this.#rest = undefined;
      this.#listen(true);
    }, REST_MILLISECONDS);
  }
}
