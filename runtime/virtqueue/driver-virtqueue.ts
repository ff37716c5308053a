import type { VirtqueueError } from '../errors.js';
import type {
  MemoryPlace,
  QueueCounters,
  VirtqueueAreas,
  VirtqueueMemory,
  VirtqueueState,
} from './device-virtqueue.js';

/**
 * The driver's side of a virtqueue: it adds chains, publishes them, and collects them again once the device used them.
 * `SplitDriverVirtqueue` and `PackedDriverVirtqueue` implement it; `startDriverVirtqueue` chooses. It never signals
 * anything itself. Nothing is allocated per chain: a chain is named by its id, 0 to size - 1, and whoever has more to
 * remember of it keeps a table indexed by the id.
 *
 * Segments are given in the table form of `ChainBatch` (stride 4: window | offset | length | unused), so what one side
 * writes the other can read; the queue turns them into guest addresses.
 *
 * The device is not trusted: used entries are read once and checked against the queue's own book, which lies in private
 * memory. A defect latches `broken`: `add` then returns -1 and `collect` 0, for ever.
 */
export interface DriverVirtqueue {
  readonly format: 'split' | 'packed';
  readonly index: number;
  readonly size: number;
  /** Descriptors that are free: a direct chain takes one a segment, an indirect one takes one. */
  readonly free: number;
  /** Chains added and not collected yet. */
  readonly inFlight: number;
  /** Longest chain that `addIndirect` takes, in segments; 0 without indirect tables. */
  readonly indirectCapacity: number;
  readonly broken: VirtqueueError | null;
  readonly counters: QueueCounters;

  /**
   * Adds one chain of plain descriptors: rows `first` on of `segments`, `readable` ones first, then `writable` ones.
   * Returns its id, or -1 when the ring is full or broken. The device sees nothing before `publish`.
   * Throws ERR_VIRTQ_CHAIN when the chain could never be added, ERR_VIRTQ_ADDRESS when a segment is not guest memory.
   */
  add(segments: Int32Array, first: number, readable: number, writable: number): number;
  /** The same through an indirect table, which is the id's own: one ring descriptor whatever the length. */
  addIndirect(segments: Int32Array, first: number, readable: number, writable: number): number;
  /** Makes everything added since the last publish available to the device. */
  publish(): void;
  /** Whether the device wants a kick for what was published since the last time this was asked. */
  needsKick(): boolean;

  /** A plain peek: may say false although something just arrived, never true for nothing. */
  hasUsed(): boolean;
  /** Collects up to `max` used chains into `used` (from its start) and returns how many. Their ids are free again. */
  collect(used: UsedBatch, max: number): number;
  /** Asks for calls. Returns true when chains were used meanwhile: collect again before sleeping. */
  enableCalls(): boolean;
  disableCalls(): void;

  /** Takes a changed memory map over, which still holds the ring and every segment in flight at the same places. */
  rebind(memory: VirtqueueMemory): void;

  /** Where the ring stands. Plain data; to go on from it, nothing may be in flight. */
  state(): VirtqueueState;
}

/** The table that `collect` fills: chain ids and the bytes the device wrote into each. */
export class UsedBatch {
  readonly capacity: number;
  readonly ids: Uint16Array;
  /** Bytes written. For a chain that an in-order device skipped, all its writable bytes. */
  readonly lengths: Uint32Array;
  /** Rows filled by the last collect. */
  count = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.ids = new Uint16Array(capacity);
    this.lengths = new Uint32Array(capacity);
  }
}

/** Everything that fixes a driver-side queue when its ring starts. */
export interface DriverVirtqueueConfiguration {
  readonly index: number;
  /** Split: a power of two up to 32768. Packed: 1 to 32768. */
  readonly size: number;
  readonly format: 'split' | 'packed';
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
  /** Sizes and alignments are those of `ringLayout`. */
  readonly areas: VirtqueueAreas;
  readonly memory: VirtqueueMemory;
  /**
   * What the device calls the memory: its address of each window's first byte, by window, NaN where there is none. Guest
   * addresses when absent.
   */
  readonly addresses?: (memory: VirtqueueMemory) => Float64Array;
  /** Memory for indirect tables, `size * capacity * 16` bytes aligned to 16: one table of `capacity` descriptors an id. */
  readonly indirect?: { readonly place: MemoryPlace; readonly capacity: number };
  /** Where a stopped and empty ring goes on; a fresh one starts at 0. The areas are initialised in both cases. */
  readonly state?: VirtqueueState;
}

/** Size and alignment in bytes of one area. */
export interface RingAreaLayout {
  readonly length: number;
  readonly alignment: number;
}

/** What the three areas of a ring of `size` descriptors take (virtio 1.4, 2.7 and 2.8). */
export function ringLayout(
  format: 'split' | 'packed',
  size: number,
): Record<keyof VirtqueueAreas, RingAreaLayout> {
  if (format === 'packed') {
    return {
      descriptor: { length: 16 * size, alignment: 16 },
      driver: { length: 4, alignment: 4 },
      device: { length: 4, alignment: 4 },
    };
  }
  return {
    descriptor: { length: 16 * size, alignment: 16 },
    driver: { length: 6 + 2 * size, alignment: 2 },
    device: { length: 6 + 8 * size, alignment: 4 },
  };
}
