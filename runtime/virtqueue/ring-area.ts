import type { WindowTable } from '../platform/platform.js';
import type { MemoryPlace } from './device-virtqueue.js';
import { VirtqueueError } from '../errors.js';

/** One of a ring's three areas, checked and bound to the window that holds it. */
export class RingArea {
  readonly length: number;
  readonly #table: WindowTable;
  readonly #window: number;
  readonly #bytes: Uint8Array;
  readonly #start: number;

  /**
   * `length` in bytes; `alignment` is the specification's and is asked of the real address too.
   * Throws VirtqueueError (ERR_VIRTQ_CONFIGURATION).
   */
  constructor(
    table: WindowTable,
    place: MemoryPlace,
    length: number,
    alignment: number,
    name: string,
    queue: number,
  ) {
    table.show(place.window);
    const bytes = table.u8[place.window];
    const { offset } = place;
    if (bytes === undefined || !Number.isInteger(offset) || offset < 0 || offset + length > bytes.length) {
      throw new VirtqueueError(
        'ERR_VIRTQ_CONFIGURATION',
        queue,
        `${name}: ${length} bytes at window ${place.window}, offset ${offset}, do not lie in mapped memory`,
      );
    }
    if ((bytes.byteOffset + offset) % alignment !== 0) {
      throw new VirtqueueError(
        'ERR_VIRTQ_CONFIGURATION',
        queue,
        `${name}: must be aligned to ${alignment} bytes, is at window ${place.window}, offset ${offset}`,
      );
    }
    this.length = length;
    this.#table = table;
    this.#window = place.window;
    this.#bytes = bytes;
    this.#start = bytes.byteOffset + offset;
  }

  /** True once the window was unmapped: views of the area read as empty or as memory of nobody. */
  get lost(): boolean {
    return this.#bytes.length === 0 || this.#table.u8[this.#window] !== this.#bytes;
  }

  /** Whether losing one of the two means losing the other. */
  sharesWindow(other: RingArea): boolean {
    return this.#bytes === other.#bytes && this.#window === other.#window;
  }

  u8(): Uint8Array {
    return new Uint8Array(this.#bytes.buffer, this.#start, this.length);
  }

  u32(): Uint32Array {
    return new Uint32Array(this.#bytes.buffer, this.#start, this.length >>> 2);
  }

  u16(): Uint16Array {
    return new Uint16Array(this.#bytes.buffer, this.#start, this.length >>> 1);
  }

  i32(): Int32Array {
    return new Int32Array(this.#bytes.buffer, this.#start, this.length >>> 2);
  }
}
