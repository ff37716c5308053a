import type { PacketMemory } from './port.js';

/** Columns of an entry of the copy table; see PacketMemory. */
export const COPY_STRIDE = 9;

/** Copies that are to be made, in the process's copy table: from the first `add` to `run` nobody else has a turn. */
export class CopyList {
  readonly entries: Int32Array;
  /** Entries written. */
  count = 0;
  readonly #copies: PacketMemory['copies'];

  constructor({ copies }: PacketMemory) {
    this.#copies = copies;
    this.entries = copies.entries;
  }

  get room(): number {
    return this.#copies.capacity - this.count;
  }

  add(fromWindow: number, fromOffset: number, toWindow: number, toOffset: number, length: number): void {
    if (this.room === 0) this.run();
    const { entries } = this;
    const entry = this.count++ * COPY_STRIDE;
    entries[entry] = fromWindow;
    entries[entry + 1] = fromOffset;
    entries[entry + 2] = toWindow;
    entries[entry + 3] = toOffset;
    entries[entry + 4] = length;
    entries[entry + 5] = 0;
  }

  /** Has `size` bytes of a header written to a place; what is beyond the twelfth is zero. */
  addHeader(window: number, offset: number, size: number, word0: number, word1: number, word2: number): void {
    this.add(window, offset, window, offset, 0);
    const { entries } = this;
    const entry = (this.count - 1) * COPY_STRIDE;
    entries[entry + 5] = size;
    entries[entry + 6] = word0;
    entries[entry + 7] = word1;
    entries[entry + 8] = word2;
  }

  run(): void {
    const { count } = this;
    this.count = 0;
    if (count > 0) this.#copies.run(count);
  }
}
