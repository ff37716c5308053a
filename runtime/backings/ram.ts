import { type BlockBacking, BlockOperation } from '../devices/blk/backing.js';
import { PlatformError } from '../errors.js';
import {
  COPY_STRIDE,
  type CopyTable,
  type Mapping,
  type Platform,
  WINDOW_STRIDE,
} from '../platform/platform.js';
import { CompletionList } from './completion-list.js';

/** Bytes zeroed in one turn of the loop. */
const ZERO_STEP = 16 << 20;
const EFAULT = 14;

interface ZeroJob {
  readonly token: number;
  position: number;
  left: number;
}

/**
 * A disk in shared memory that is gone with the process. Pages that were never written take no memory. Reads and writes are
 * copies through the platform's copy table and end inside `submit`; zeroing is done a piece a turn.
 */
export class RamBacking implements BlockBacking {
  readonly size: bigint;
  readonly readOnly: boolean;
  readonly blockSize = 512;
  /** Discarded memory would have to be zeroed, which takes more of it, not less. */
  readonly canDiscard = false;
  readonly canWriteZeroes: boolean;
  readonly #platform: Platform;
  readonly #mapping: Mapping;
  readonly #copies: CopyTable;
  readonly #ended = new CompletionList();
  /** Operations whose copies are in the table, as (token, bytes). */
  readonly #copying = new CompletionList();
  #entries = 0;
  readonly #zeroing: ZeroJob[] = [];
  #onComplete: (count: number) => void = () => {};
  #closed: Promise<void> | null = null;
  #resolveClosed = (): void => {};

  /** `size` in bytes, at least one sector. Throws PlatformError when there is not so much address space. */
  constructor(platform: Platform, size: bigint, options: { readOnly?: boolean } = {}) {
    this.size = size;
    this.readOnly = options.readOnly ?? false;
    this.canWriteZeroes = !this.readOnly;
    this.#platform = platform;
    this.#copies = platform.copies;
    const fd = platform.createSharedMemory('vhost-user-blk', size);
    try {
      this.#mapping = platform.map(fd, 0n, size);
    } finally {
      platform.closeFd(fd);
    }
  }

  get completions(): Int32Array {
    return this.#ended.taken;
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
    if (this.#closed !== null) throw new PlatformError('ERR_PLATFORM_CLOSED', 'the RAM disk is closed');
    switch (operation) {
      case BlockOperation.read:
      case BlockOperation.write:
        if (this.#copy(operation, position, segments, firstSegment, segmentCount))
          this.#copying.add(token, length);
        else this.#ended.add(token, -EFAULT);
        return;
      case BlockOperation.writeZeroes:
      case BlockOperation.writeZeroesUnmap:
        this.#zeroing.push({ token, position, left: length });
        if (this.#zeroing.length === 1) setImmediate(() => this.#zero());
        return;
      // There is no medium behind the memory, and nothing to gain from a discard.
      case BlockOperation.flush:
      case BlockOperation.discard:
        this.#ended.add(token, 0);
    }
  }

  submit(): number {
    this.#runCopies();
    return this.#ended.take();
  }

  onComplete(callback: (count: number) => void): void {
    this.#onComplete = callback;
  }

  close(): Promise<void> {
    this.#closed ??= new Promise((resolve) => {
      this.#resolveClosed = () => {
        this.#mapping.unmap();
        resolve();
      };
      if (this.#zeroing.length === 0) this.#resolveClosed();
    });
    return this.#closed;
  }

  /** One entry a segment: no segment is longer than what is contiguous in a window (SEGMENT_MAX). False when it failed. */
  #copy(operation: number, position: number, segments: Int32Array, first: number, count: number): boolean {
    const { entries, capacity } = this.#copies;
    let at = position;
    for (let row = first; row < first + count; row++) {
      if (this.#entries === capacity && !this.#runCopies()) return false;
      const step = Math.floor(at / WINDOW_STRIDE);
      const window = this.#mapping.firstWindow + step;
      const offset = at - step * WINDOW_STRIDE;
      const entry = this.#entries++ * COPY_STRIDE;
      const length = segments[row * 4 + 2]!;
      const reads = operation === BlockOperation.read;
      entries[entry] = reads ? window : segments[row * 4]!;
      entries[entry + 1] = reads ? offset : segments[row * 4 + 1]!;
      entries[entry + 2] = reads ? segments[row * 4]! : window;
      entries[entry + 3] = reads ? segments[row * 4 + 1]! : offset;
      entries[entry + 4] = length;
      entries[entry + 5] = 0;
      at += length;
    }
    return true;
  }

  /** Makes the copies in the table, and ends the operations that are in it to their last segment. False when it failed. */
  #runCopies(): boolean {
    let done = true;
    try {
      if (this.#entries > 0) this.#copies.run(this.#entries);
    } catch (error) {
      // Guest memory vanished below a request: none of these copies was made.
      if (!(error instanceof PlatformError)) throw error;
      done = false;
    }
    this.#entries = 0;
    const count = this.#copying.take();
    const { taken } = this.#copying;
    for (let i = 0; i < count; i++) this.#ended.add(taken[i * 2]!, done ? taken[i * 2 + 1]! : -EFAULT);
    return done;
  }

  #zero(): void {
    const job = this.#zeroing[0]!;
    const step = Math.floor(job.position / WINDOW_STRIDE);
    const offset = job.position - step * WINDOW_STRIDE;
    const count = Math.min(job.left, ZERO_STEP);
    this.#platform.windows.u8[this.#mapping.firstWindow + step]!.fill(0, offset, offset + count);
    job.position += count;
    job.left -= count;
    if (job.left === 0) this.#zeroing.shift();
    if (this.#zeroing.length > 0) setImmediate(() => this.#zero());
    if (job.left > 0) return;
    this.#ended.add(job.token, 0);
    this.#onComplete(this.#ended.take());
    if (this.#closed !== null && this.#zeroing.length === 0) this.#resolveClosed();
  }
}
