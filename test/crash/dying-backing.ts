import { CompletionList } from '../../runtime/backings/completion-list.js';
import type { BlockBacking, BlockOperation } from '../../runtime/devices/blk/index.js';
import { Random } from '../support/random.js';

/** When the process kills itself, if it is not killed from outside. */
export interface Death {
  /** Before the n-th operation reaches the file, or after it did and before the device knows. */
  readonly at: 'queue' | 'completion';
  readonly count: number;
}

/** Longest time for which a completion is held back, in milliseconds. */
const LONGEST_HOLD = 4;

/**
 * A backing in front of the real one that holds a share of the completions back for a moment and lets them go in any order, so
 * that there is always something under way to be lost, done and not told among it; and that ends the process at a set point.
 */
export class DyingBacking implements BlockBacking {
  readonly #inner: BlockBacking;
  readonly #random: Random;
  readonly #death: Death | null;
  readonly #done = new CompletionList();
  #queued = 0;
  #completed = 0;
  #callback: (count: number) => void = () => undefined;

  constructor(inner: BlockBacking, seed: number, death: Death | null) {
    this.#inner = inner;
    this.#random = new Random(seed);
    this.#death = death;
    inner.onComplete((count) => {
      this.#take(count);
      this.#callback(this.#done.take());
    });
  }

  get size(): bigint {
    return this.#inner.size;
  }

  get readOnly(): boolean {
    return this.#inner.readOnly;
  }

  get blockSize(): number {
    return this.#inner.blockSize;
  }

  get canDiscard(): boolean {
    return this.#inner.canDiscard;
  }

  get canWriteZeroes(): boolean {
    return this.#inner.canWriteZeroes;
  }

  get completions(): Int32Array {
    return this.#done.taken;
  }

  queue(
    operation: BlockOperation,
    token: number,
    position: number,
    length: number,
    segments: Int32Array,
    firstSegment: number,
    segmentCount: number,
  ): void {
    this.#reached('queue', ++this.#queued);
    this.#inner.queue(operation, token, position, length, segments, firstSegment, segmentCount);
  }

  submit(): number {
    this.#take(this.#inner.submit());
    return this.#done.take();
  }

  onComplete(callback: (count: number) => void): void {
    this.#callback = callback;
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  #take(count: number): void {
    const { completions } = this.#inner;
    for (let i = 0; i < count; i++) {
      const token = completions[2 * i]!;
      const result = completions[2 * i + 1]!;
      this.#reached('completion', ++this.#completed);
      if (this.#random.chance(2)) this.#done.add(token, result);
      else this.#hold(token, result);
    }
  }

  #hold(token: number, result: number): void {
    setTimeout(
      () => {
        this.#done.add(token, result);
        this.#callback(this.#done.take());
      },
      this.#random.below(LONGEST_HOLD + 1),
    );
  }

  #reached(at: Death['at'], count: number): void {
    // Here the process ends, in the middle of the call.
    if (this.#death?.at === at && this.#death.count === count) process.kill(process.pid, 'SIGKILL');
  }
}
