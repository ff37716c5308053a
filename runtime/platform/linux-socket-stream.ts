import { constants } from 'node:os';
import { type Addon, WatchEvent } from '../../native/index.js';
import { PlatformError } from '../errors.js';
import { attempt, closedError, systemError } from './linux-errors.js';
import type { SocketStream } from './platform.js';

const WOULD_BLOCK = -constants.errno.EAGAIN;

const LOST_FDS = { EMFILE: 'too many open files, so that some of the received fds are lost' };

export class LinuxSocketStream implements SocketStream {
  readonly kind = 'stream';
  readonly fd: number;
  readonly #addon: Addon;
  readonly #watch: number;
  #readable: (() => void) | null = null;
  #writable: (() => void) | null = null;
  #hungUp: (() => void) | null = null;
  #closed = false;

  /** Takes over the fd, unless it throws. */
  constructor(addon: Addon, fd: number) {
    this.#addon = addon;
    this.fd = fd;
    this.#watch = attempt(`watch socket ${fd}`, () =>
      addon.openWatch(fd, false, (events) => this.#dispatch(events)),
    );
  }

  /** Takes over the fd in any case: it is closed when there can be no stream. */
  static own(addon: Addon, fd: number): LinuxSocketStream {
    try {
      return new LinuxSocketStream(addon, fd);
    } catch (error) {
      addon.fdClose(fd);
      throw error;
    }
  }

  receive(into: Uint8Array, fds: number[]): number {
    this.#checkOpen('receive from');
    const count = attempt(
      `receive from socket ${this.fd}`,
      () => this.#addon.socketReceive(this.fd, into, fds),
      LOST_FDS,
    );
    return count >= 0 ? count : this.#refused('receive from', 'recvmsg', count);
  }

  send(bytes: Uint8Array, fds: readonly number[]): number {
    this.#checkOpen('send to');
    if (bytes.length === 0) {
      if (fds.length === 0) return 0;
      throw new PlatformError(
        'ERR_PLATFORM_ARGUMENT',
        'fds travel with the first byte, but there are no bytes',
      );
    }
    const count = attempt(`send to socket ${this.fd}`, () => this.#addon.socketSend(this.fd, bytes, fds));
    return count >= 0 ? count : this.#refused('send to', 'sendmsg', count);
  }

  onReadable(callback: (() => void) | null): void {
    this.#readable = callback;
    this.#update();
  }

  onWritable(callback: (() => void) | null): void {
    this.#writable = callback;
    this.#update();
  }

  onHangUp(callback: (() => void) | null): void {
    this.#hungUp = callback;
    this.#update();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    // One poll may report both directions: the second must not reach whoever closed in the first.
    this.#readable = null;
    this.#writable = null;
    this.#hungUp = null;
    this.#addon.closeWatch(this.#watch);
    this.#addon.fdClose(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #update(): void {
    if (this.#closed) return;
    const events =
      (this.#readable === null ? 0 : WatchEvent.readable) |
      (this.#writable === null ? 0 : WatchEvent.writable) |
      (this.#hungUp === null ? 0 : WatchEvent.hungUp);
    const status = this.#addon.setWatchEvents(this.#watch, events);
    if (status < 0) throw systemError(`watch socket ${this.fd}`, 'epoll_ctl', -status);
  }

  /** A broken socket is reported to all: whoever reads or writes next learns the reason. */
  #dispatch(events: number): void {
    if (events < 0 || events & WatchEvent.readable) this.#readable?.();
    if (events < 0 || events & WatchEvent.writable) this.#writable?.();
    if (events < 0 || events & WatchEvent.hungUp) this.#hungUp?.();
  }

  #refused(verb: string, syscall: string, status: number): -1 {
    if (status === WOULD_BLOCK) return -1;
    throw systemError(`${verb} socket ${this.fd}`, syscall, -status);
  }

  #checkOpen(verb: string): void {
    if (this.#closed) throw closedError(`${verb} socket ${this.fd}`);
  }
}
