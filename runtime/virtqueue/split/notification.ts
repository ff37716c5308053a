import { NO_INTERRUPT, NO_NOTIFY } from './layout.js';

/**
 * Which side wants to be woken (virtio 1.4, 2.7.7, 2.7.10). One of two variants, chosen when the ring starts; each uses
 * the fields of its own and leaves the other's at 0.
 *
 *   available ring, u16:  0 flags | 1 idx | 2 ring[size]        | 2 + size  used_event    (driver writes)
 *   used ring, u16:       0 flags | 1 idx | 2 ring[size], 4 each| 2 + 4 size avail_event  (device writes)
 *
 * Order: see memory-order.ts, "ask" and "re-arm". The caller fences before `wantsCall`, and loads the available index with
 * Atomics.load after `enable`.
 */
export interface SplitNotification {
  /** Whether the driver wants a call after the used index went from `before` to `now`, `count` elements on. */
  wantsCall(before: number, now: number, count: number): boolean;
  /** Asks for a kick for chain number `next` (free-running 16 bits) and later ones. Stores with release and full fence. */
  enable(next: number): void;
  disable(): void;
}

/** Without VIRTIO_F_EVENT_IDX: one flag on either side. */
export class FlagNotification implements SplitNotification {
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;

  constructor(available: Uint16Array, used: Uint16Array) {
    this.#available = available;
    this.#used = used;
  }

  wantsCall(): boolean {
    return (Atomics.load(this.#available, 0) & NO_INTERRUPT) === 0;
  }

  enable(): void {
    Atomics.store(this.#used, 0, 0);
  }

  disable(): void {
    this.#used[0] = NO_NOTIFY;
  }
}

/** With VIRTIO_F_EVENT_IDX: each side names the index that it waits for. */
export class EventNotification implements SplitNotification {
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedEvent: number;
  readonly #availableEvent: number;
  /** The driver's event means nothing before the first call of this run: whatever it was told before is unknown. */
  #asked = false;

  constructor(available: Uint16Array, used: Uint16Array, size: number) {
    this.#available = available;
    this.#used = used;
    this.#usedEvent = 2 + size;
    this.#availableEvent = 2 + 4 * size;
  }

  wantsCall(before: number, now: number, count: number): boolean {
    const first = !this.#asked;
    this.#asked = true;
    const event = Atomics.load(this.#available, this.#usedEvent);
    // An index that went all the way round passed every event.
    return first || count > 0xffff || ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  enable(next: number): void {
    this.#used[0] = 0;
    Atomics.store(this.#used, this.#availableEvent, next);
  }

  /** The event stays behind, so that the driver passes it at most once in 2^16 chains. */
  disable(): void {}
}
