import type { Addon } from '../../native/index.js';
import { attempt, closedError, systemError } from './linux-errors.js';
import type { BlockFile } from './platform.js';

export interface LinuxBlockFileOptions {
  readonly readOnly: boolean;
  readonly direct?: boolean;
  /** Do without io_uring. */
  readonly threads?: boolean;
}

/** Rows of the operation table; the addon's `kOperations`. */
const ROWS = 256;

/**
 * Writes operations into the addon's tables:
 *
 *   rows      Int32   x4  kind, token, segment count, -
 *   places    Float64 x2  position, length in bytes
 *   segments  Int32   x3  window, offset, length; those of row 0, then of row 1 …
 */
export class LinuxBlockFile implements BlockFile {
  readonly readOnly: boolean;
  readonly blockSize: number;
  readonly canDiscard: boolean;
  readonly canWriteZeroes: boolean;
  completions: Int32Array;

  readonly #addon: Addon;
  readonly #path: string;
  readonly #file: number;
  #size: bigint;
  #rows!: Int32Array;
  #places!: Float64Array;
  #segments!: Int32Array;
  #queued = 0;
  #used = 0; // int32 words of #segments
  #pending = 0;
  #callback: ((count: number) => void) | undefined;
  #closing: Promise<void> | undefined;
  #closed: (() => void) | undefined;

  constructor(addon: Addon, path: string, options: LinuxBlockFileOptions) {
    const { readOnly, direct = false, threads = false } = options;
    this.#addon = addon;
    this.#path = path;
    const [file, blockSize, canDiscard] = attempt(
      `open ${path}`,
      () => addon.blockOpen(path, readOnly, direct, threads, (count) => this.#ended(count)),
      { ENOTBLK: 'it is neither a regular file nor a block device', EROFS: 'it is read-only' },
    );
    this.#file = file;
    this.#size = addon.blockSize(file);
    this.readOnly = readOnly;
    this.blockSize = blockSize;
    this.canDiscard = canDiscard;
    // Where nothing better is there, the addon writes zeroes.
    this.canWriteZeroes = !readOnly;
    this.completions = this.#readTables(0);
  }

  /** As the image is now; as it last was once this is closed. */
  get size(): bigint {
    if (this.#closing === undefined) {
      this.#size = attempt(`find the size of ${this.#path}`, () => this.#addon.blockSize(this.#file));
    }
    return this.#size;
  }

  get pending(): number {
    return this.#pending;
  }

  queue(
    operation: number,
    token: number,
    position: number,
    length: number,
    segments: Int32Array,
    firstSegment: number,
    segmentCount: number,
  ): void {
    if (this.#closing !== undefined) throw closedError(`queue an operation on ${this.#path}`);
    if (this.#queued === ROWS || this.#used + segmentCount * 3 > this.#segments.length) {
      this.#makeRoom(segmentCount);
    }
    const row = this.#queued * 4;
    const place = this.#queued * 2;
    this.#rows[row] = operation;
    this.#rows[row + 1] = token;
    this.#rows[row + 2] = segmentCount;
    this.#places[place] = position;
    this.#places[place + 1] = length;
    const table = this.#segments;
    let to = this.#used;
    for (let from = firstSegment * 4, end = from + segmentCount * 4; from < end; from += 4) {
      table[to] = segments[from]!;
      table[to + 1] = segments[from + 1]!;
      table[to + 2] = segments[from + 2]!;
      to += 3;
    }
    this.#used = to;
    this.#queued++;
    this.#pending++;
  }

  submit(): number {
    return this.#submit(true);
  }

  onComplete(callback: (count: number) => void): void {
    this.#callback = callback;
  }

  heldElsewhere(): boolean | null {
    if (this.readOnly || this.#closing !== undefined) return false;
    const held = this.#addon.blockHeldElsewhere(this.#file);
    return held < 0 ? null : held > 0;
  }

  close(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      this.#closed = resolve;
      try {
        const ended = this.#queued > 0 ? this.#submit(true) : 0;
        if (ended > 0) this.#callback?.(ended);
      } finally {
        this.#closeWhenIdle();
      }
    });
    return this.#closing;
  }

  [Symbol.dispose](): void {
    void this.close();
  }

  #submit(publish: boolean): number {
    if (this.#closed === undefined && this.#closing !== undefined) return 0;
    const count = this.#queued;
    this.#queued = 0;
    this.#used = 0;
    const ended = this.#addon.blockSubmit(this.#file, count, publish ? 1 : 0);
    if (ended < 0) throw systemError(`submit to ${this.#path}`, 'io_uring_enter', -ended);
    this.#take(ended);
    return ended;
  }

  /** The table is full: what is in it starts early, and its results are kept for `submit`. */
  #makeRoom(segmentCount: number): void {
    this.#submit(false);
    if (segmentCount * 3 > this.#segments.length) this.#readTables(segmentCount);
  }

  #readTables(segmentCount: number): Int32Array {
    const [rows, places, segments, completions] = attempt(`make room for operations on ${this.#path}`, () =>
      this.#addon.blockTables(this.#file, segmentCount),
    );
    this.#rows = new Int32Array(rows);
    this.#places = new Float64Array(places);
    this.#segments = new Int32Array(segments);
    return new Int32Array(completions);
  }

  #ended(count: number): void {
    this.#take(count);
    try {
      this.#callback?.(count);
    } finally {
      this.#closeWhenIdle();
    }
  }

  /** Counts what ended; the addon has moved to a larger table when this one was too short. */
  #take(count: number): void {
    this.#pending -= count;
    if (count * 2 > this.completions.length) {
      this.completions = new Int32Array(this.#addon.blockCompletions(this.#file));
    }
  }

  #closeWhenIdle(): void {
    if (this.#closed === undefined || this.#pending > 0) return;
    const resolve = this.#closed;
    this.#closed = undefined;
    attempt(`close ${this.#path}`, () => this.#addon.blockClose(this.#file));
    resolve();
  }
}
