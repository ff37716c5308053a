import type { BlockBacking } from '../devices/blk/backing.js';
import { CompletionList } from './completion-list.js';

/**
 * A medium that does nothing at once, for measuring everything above it. Writes are lost and reads leave the guest's
 * memory as it is: not for use.
 */
export class NullBacking implements BlockBacking {
  readonly size: bigint;
  readonly readOnly = false;
  readonly blockSize = 512;
  readonly canDiscard = true;
  readonly canWriteZeroes = true;
  readonly #ended = new CompletionList();

  /** `size` in bytes. */
  constructor(size: bigint) {
    this.size = size;
  }

  get completions(): Int32Array {
    return this.#ended.taken;
  }

  queue(
    _operation: number,
    token: number,
    _position: number,
    length: number,
    _segments: Int32Array,
    _firstSegment: number,
    segmentCount: number,
  ): void {
    this.#ended.add(token, segmentCount === 0 ? 0 : length);
  }

  submit(): number {
    return this.#ended.take();
  }

  /** Everything ends inside `submit`. */
  onComplete(): void {}

  async close(): Promise<void> {}
}
