import type { Platform } from '../platform/platform.js';

/** One file descriptor with one owner. Closing twice is harmless. */
export class OwnedFd implements Disposable {
  readonly #platform: Platform;
  #fd: number;

  constructor(platform: Platform, fd: number) {
    this.#platform = platform;
    this.#fd = fd;
  }

  /** The number, -1 once closed or released. */
  get fd(): number {
    return this.#fd;
  }

  /** Gives the number away; whoever takes it closes it. */
  release(): number {
    const fd = this.#fd;
    this.#fd = -1;
    return fd;
  }

  close(): void {
    const fd = this.release();
    if (fd >= 0) this.#platform.closeFd(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * The file descriptors that came with one message, and those that go with its reply. The first belong to the bundle from
 * the moment they are received, the others from `attach` on; what nobody takes is closed with it.
 */
export class FdBundle implements Disposable {
  readonly #platform: Platform;
  /** Received and not taken, in order. `SocketStream.receive` appends here. */
  readonly pending: number[] = [];
  #attached: OwnedFd[] = [];

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  get count(): number {
    return this.pending.length;
  }

  /** The next fd in order, which now belongs to the caller; null when none is left. */
  take(): OwnedFd | null {
    const fd = this.pending.shift();
    return fd === undefined ? null : new OwnedFd(this.#platform, fd);
  }

  /** Hands an fd over to go with the reply; it is closed when there is none. */
  attach(fd: OwnedFd): void {
    this.#attached.push(fd);
  }

  /** The attached fds, which now belong to the caller. */
  takeAttached(): OwnedFd[] {
    const fds = this.#attached;
    this.#attached = [];
    return fds;
  }

  /** Closes everything that was not taken. */
  close(): void {
    for (const fd of this.pending.splice(0)) this.#platform.closeFd(fd);
    for (const fd of this.takeAttached()) fd.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
