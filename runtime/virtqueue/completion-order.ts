/**
 * Holds completions back until those of all chains taken before are there (VIRTIO_F_IN_ORDER, 2.7.9, 2.8.11: buffers
 * are used in the order in which they were made available).
 *
 *   taken     handles in the order of their drain, a circle of `size`
 *   done      by handle: 1 once completed and held back
 *   written   by handle: what the device reported
 */
export class CompletionOrder {
  readonly #taken: Uint16Array;
  readonly #done: Uint8Array;
  readonly #written: Uint32Array;
  #first = 0;
  #count = 0;
  #held = 0;

  constructor(size: number) {
    this.#taken = new Uint16Array(size);
    this.#done = new Uint8Array(size);
    this.#written = new Uint32Array(size);
  }

  /** A chain was taken. */
  take(handle: number): void {
    const size = this.#taken.length;
    this.#taken[(this.#first + this.#count) % size] = handle;
    this.#count++;
  }

  isDone(handle: number): boolean {
    return this.#done[handle] === 1;
  }

  /** Chains that the device has completed and that wait for their predecessors. */
  get held(): number {
    return this.#held;
  }

  /** A chain was completed. */
  finish(handle: number, written: number): void {
    this.#done[handle] = 1;
    this.#held++;
    this.#written[handle] = written;
  }

  /** Handle of the oldest chain when it is completed, else -1. */
  get ready(): number {
    if (this.#count === 0) return -1;
    const handle = this.#taken[this.#first]!;
    return this.#done[handle] === 1 ? handle : -1;
  }

  /** Lets go of the oldest chain and gives what was written into it. */
  release(): number {
    const handle = this.#taken[this.#first]!;
    this.#first = (this.#first + 1) % this.#taken.length;
    this.#count--;
    this.#done[handle] = 0;
    this.#held--;
    return this.#written[handle]!;
  }
}
