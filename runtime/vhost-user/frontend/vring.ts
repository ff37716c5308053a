import type { PlatformError } from '../../errors.js';
import type { Platform, Watch } from '../../platform/platform.js';
import type { VirtqueueAreas } from '../../virtqueue/device-virtqueue.js';

/** A ring as the front-end tells the back-end of it. */
export interface VringSetup {
  readonly index: number;
  /** Descriptors. */
  readonly size: number;
  readonly areas: VirtqueueAreas;
  /** Where it stands, as SET_VRING_BASE takes it (`encodeBase`). Where it was stopped last when absent. */
  readonly base?: number;
  /** Enabled as soon as it is started; true when absent. */
  readonly enabled?: boolean;
  /** The back-end used something. */
  readonly onCall?: () => void;
  /** The back-end says that the ring is broken. */
  readonly onError?: () => void;
  /**
   * Called when a new back-end takes the place of one that is gone, before it is told of the ring: readies the ring's memory
   * and returns its base. Without it the ring goes on from where it was started or stopped last.
   */
  readonly restore?: () => number;
  /**
   * Called in place of `restore` when the new back-end goes on with what the one before had in flight: the ring's memory is
   * to stay as it is. Returns its base, where the used elements end.
   */
  readonly resume?: () => number;
}

/** What a ring notifies with: an eventfd, a message, or nothing, when the other side polls. */
export type NotificationMeans = 'eventfd' | 'inband' | 'none';

export interface Notifications {
  readonly kick: NotificationMeans;
  readonly call: NotificationMeans;
  readonly err: NotificationMeans;
}

/** One ring in the front-end: its eventfds, and what has to be said again to a new back-end. */
export class FrontendVring implements Disposable {
  readonly index: number;
  readonly notifications: Notifications;
  readonly #platform: Platform;
  readonly #fds: { readonly kick: number; readonly call: number; readonly err: number };
  #setup: VringSetup | null = null;
  #closed = false;
  readonly #watches: Watch[] = [];
  /** As SET_VRING_BASE takes it, and GET_VRING_BASE last said. */
  base = 0;
  /** Between SET_VRING_KICK and GET_VRING_BASE. */
  started = false;
  /** GET_VRING_BASE has told where it stands, and it was not started or reset since: no back-end knows better than `base`. */
  stopped = false;
  enabled = false;

  /** Throws PlatformError when there are no eventfds to be had. */
  constructor(
    platform: Platform,
    index: number,
    notifications: Notifications,
    onFailure: (error: PlatformError) => void,
  ) {
    this.#platform = platform;
    this.index = index;
    this.notifications = notifications;
    const made: number[] = [];
    const create = (means: NotificationMeans): number => {
      if (means !== 'eventfd') return -1;
      made.push(platform.createEventFd());
      return made.at(-1)!;
    };
    try {
      this.#fds = {
        kick: create(notifications.kick),
        call: create(notifications.call),
        err: create(notifications.err),
      };
      for (const [fd, notify] of [
        [this.#fds.call, () => this.called()],
        [this.#fds.err, () => this.failed()],
      ] as const) {
        if (fd >= 0) this.#watches.push(platform.watchEventFd(fd, notify, onFailure));
      }
    } catch (error) {
      for (const watch of this.#watches.splice(0)) watch.close();
      for (const fd of made) platform.closeFd(fd);
      throw error;
    }
  }

  /** -1 where there is none, and once it is closed: its number may be another file's by then. */
  get kickFd(): number {
    return this.#closed ? -1 : this.#fds.kick;
  }
  get callFd(): number {
    return this.#closed ? -1 : this.#fds.call;
  }
  get errFd(): number {
    return this.#closed ? -1 : this.#fds.err;
  }

  /** null before `prepare`. */
  get setup(): VringSetup | null {
    return this.#setup;
  }

  /** Takes over how the ring is to be started. */
  prepare(setup: VringSetup): void {
    this.#setup = setup;
    this.base = setup.base ?? this.base;
    this.enabled = setup.enabled ?? true;
  }

  called(): void {
    this.#setup?.onCall?.();
  }

  failed(): void {
    this.#setup?.onError?.();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const watch of this.#watches.splice(0)) watch.close();
    for (const fd of Object.values(this.#fds)) if (fd >= 0) this.#platform.closeFd(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
