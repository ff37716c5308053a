/** Operations of a backing. */
export const BlockOperation = {
  read: 0,
  write: 1,
  flush: 2,
  discard: 3,
  writeZeroes: 4,
  /** The range reads as zero afterwards and may lose its storage. */
  writeZeroesUnmap: 5,
} as const;
export type BlockOperation = (typeof BlockOperation)[keyof typeof BlockOperation];

/**
 * What a disk stands on. Work is queued and then started together; each operation ends exactly once, at any later time and
 * in any order. Reads and writes go straight between guest memory and the medium.
 */
export interface BlockBacking {
  /** Bytes. May change while in use; `BlockDevice.capacityChanged` makes that known to the driver. */
  readonly size: bigint;
  readonly readOnly: boolean;
  /** Logical block size of the medium in bytes: a power of two, at least 512. */
  readonly blockSize: number;
  readonly canDiscard: boolean;
  readonly canWriteZeroes: boolean;

  /**
   * Queues one operation at byte `position`. `token` is an int32 of the caller's. Reads and writes go to the `segmentCount`
   * segments (stride 4: window, offset, length, unused) from row `firstSegment` on, and `length` is their sum; the table may
   * be written again once this returns. For flush, discard and zeroes there are none and `length` counts.
   */
  queue(
    operation: BlockOperation,
    token: number,
    position: number,
    length: number,
    segments: Int32Array,
    firstSegment: number,
    segmentCount: number,
  ): void;
  /** Starts what was queued. Returns how many operations have ended by now; they are the first pairs of `completions`. */
  submit(): number;
  /**
   * Pairs (token, result), valid until the next `submit` or callback. The result is the number of bytes moved, 0 for
   * flush, discard and zeroes, or a negative errno. A short read or write means the end of the medium.
   */
  readonly completions: Int32Array;
  /** Called with the number of pairs in `completions` when operations end that `submit` did not report. One callback. */
  onComplete(callback: (count: number) => void): void;
  /**
   * Whether somebody else may still write to the medium: another process, or the kernel for one that was killed. Null when
   * nobody can say. Absent when the medium is this process's own.
   */
  heldElsewhere?(): boolean | null;
  /** Ends when nothing is pending. */
  close(): Promise<void>;
}
