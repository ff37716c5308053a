import type { DeviceQueue } from '../../device/index.js';

/**
 * The requests that a backing works on, by token. One row a request, so nothing is allocated for one:
 *
 *   handle | type | expected bytes | status window | status offset | batch row | parts left | status
 *
 * The batch row is -1 once the batch that brought the request is gone.
 */
export class RequestSlots {
  readonly capacity: number;
  readonly rows: Int32Array;
  /** The queue that a request came from; it may have been stopped or cut off meanwhile. */
  readonly queues: (DeviceQueue | null)[];
  /** 1: the request must reach the medium before it is completed. */
  readonly stable: Uint8Array;
  readonly #free: Int32Array;
  #freeCount: number;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.rows = new Int32Array(capacity * 8);
    this.queues = new Array<DeviceQueue | null>(capacity).fill(null);
    this.stable = new Uint8Array(capacity);
    this.#free = Int32Array.from({ length: capacity }, (_, i) => capacity - 1 - i);
    this.#freeCount = capacity;
  }

  /** Slots that can be taken. */
  get free(): number {
    return this.#freeCount;
  }

  /** Takes a slot. The caller has looked at `free`. */
  take(): number {
    return this.#free[--this.#freeCount]!;
  }

  release(slot: number): void {
    this.queues[slot] = null;
    this.#free[this.#freeCount++] = slot;
  }
}

/** Columns of `RequestSlots.rows`; a row has 8. */
export const SlotColumn = {
  handle: 0,
  type: 1,
  expected: 2,
  statusWindow: 3,
  statusOffset: 4,
  row: 5,
  parts: 6,
  status: 7,
} as const;
