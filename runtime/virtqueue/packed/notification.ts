import { EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE } from './layout.js';

/**
 * Event suppression of a packed ring (virtio 1.4, 2.8.14), one area for each side:
 *
 *   i32     desc event offset, 15 bits | wrap counter, 1 bit | flags, 2 bits | reserved, 14 bits
 *   u16     offset | wrap << 15                              | flags
 *
 * The driver's area is read as one word, so that offset and flags belong together, and the own one is written so.
 * Order: see memory-order.ts, "ask" and "re-arm".
 */
export class PackedNotification {
  readonly #size: number;
  readonly #eventIdx: boolean;
  readonly #driver: Int32Array;
  readonly #device: Int32Array;
  readonly #deviceHalves: Uint16Array;
  /** The driver's event means nothing before the first call of this run: whatever it was told before is unknown. */
  #asked = false;

  constructor(
    driver: Int32Array,
    device: Int32Array,
    deviceHalves: Uint16Array,
    size: number,
    eventIdx: boolean,
  ) {
    this.#driver = driver;
    this.#device = device;
    this.#deviceHalves = deviceHalves;
    this.#size = size;
    this.#eventIdx = eventIdx;
  }

  /**
   * Whether the driver wants a call after the used cursor went from slot `before` to slot `now`, in the lap with counter
   * `wrap`, `slots` slots on. The cursor skips the inner slots of a chain, so the event is searched in the range.
   */
  wantsCall(before: number, now: number, wrap: 0 | 1, slots: number): boolean {
    const first = !this.#asked;
    this.#asked = true;
    const word = Atomics.load(this.#driver, 0);
    const flags = (word >>> 16) & 3;
    if (flags === EVENT_DISABLE) return false;
    // 3 is reserved, and DESC is without VIRTIO_F_EVENT_IDX: a call too many harms nobody.
    if (flags !== EVENT_DESC || !this.#eventIdx) return true;
    if (first || slots >= this.#size) return true;
    const from = now <= before ? before - this.#size : before;
    const event = (word & 0x7fff) - (((word >>> 15) & 1) === wrap ? 0 : this.#size);
    return ((now - event - 1) & 0xffff) < ((now - from) & 0xffff);
  }

  /** Asks for a kick for the descriptor in slot `next`, in the lap with counter `wrap`, and later ones. Full fence. */
  enable(next: number, wrap: 0 | 1): void {
    const word = this.#eventIdx ? next | (wrap << 15) | (EVENT_DESC << 16) : EVENT_ENABLE << 16;
    Atomics.store(this.#device, 0, word);
  }

  disable(): void {
    this.#deviceHalves[1] = EVENT_DISABLE;
  }
}
