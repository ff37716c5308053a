import type { Platform, Watch } from '../platform/platform.js';
import type { OwnedFd } from './fd-bundle.js';

/** How a ring learns that something was made available: by eventfd, by being looked at again and again, or by messages alone. */
export class VringKick {
  readonly #platform: Platform;
  readonly #kicked: () => void;
  #fd: OwnedFd | null = null;
  #polled = false;
  #watch: Watch | null = null;

  constructor(platform: Platform, kicked: () => void) {
    this.#platform = platform;
    this.#kicked = kicked;
  }

  /** The ring is to be looked at again and again, as a SET_VRING_KICK without an fd asks. */
  get polled(): boolean {
    return this.#polled;
  }

  /** Takes the fd over in place of the one before; null means none. It is not watched before `watch`. */
  replace(fd: OwnedFd | null, polled: boolean): void {
    this.close();
    this.#fd = fd;
    this.#polled = polled;
  }

  /** Kicks are told of from now on, those that wait in the fd too. Throws PlatformError. */
  watch(): void {
    if (this.#fd !== null) this.#watch ??= this.#platform.watchEventFd(this.#fd.fd, this.#kicked);
  }

  close(): void {
    this.#watch?.close();
    this.#watch = null;
    this.#fd?.close();
    this.#fd = null;
    this.#polled = false;
  }
}
