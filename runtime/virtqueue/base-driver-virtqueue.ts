import { VirtqueueError, type VirtqueueErrorCode } from '../errors.js';
import type { WindowTable } from '../platform/platform.js';
import { WINDOW_STRIDE } from '../platform/platform.js';
import type { QueueCounters, VirtqueueMemory, VirtqueueState } from './device-virtqueue.js';
import type { DriverVirtqueue, DriverVirtqueueConfiguration, UsedBatch } from './driver-virtqueue.js';
import { RingArea } from './ring-area.js';

const MAX_SIZE = 32768;
const NEXT = 1;
const WRITE = 2;
const MAX_CHAIN_BYTES = 0xffff_ffff;

/**
 * What the split and the packed driver queue have in common: the latch, the book of chains in flight, indirect tables,
 * and the walk over in-order batches. The book is private memory; nothing the device writes can disturb it.
 */
export abstract class BaseDriverVirtqueue implements DriverVirtqueue {
  abstract readonly format: 'split' | 'packed';
  readonly index: number;
  readonly size: number;
  readonly indirectCapacity: number;
  readonly counters: QueueCounters = {
    chains: 0,
    segments: 0,
    completed: 0,
    publishes: 0,
    calls: 0,
    kicks: 0,
  };

  protected memory: VirtqueueMemory;
  protected readonly eventIdx: boolean;
  /** The device's address of each window's first byte, NaN where the window is no guest memory. */
  protected bases: Float64Array;
  /**
   * The book, stride 4; one array, since each array that a loop touches costs it something:
   *
   *   0  by id: ring descriptors that the chain in flight holds, 0 when the id is free; split: | its last one << 16
   *   1  by id: bytes that the device may write, unsigned
   *   2  packed, by id: the free id behind this one; split, by descriptor: the one behind it, in a chain or free
   *   3  unused
   */
  protected readonly book: Int32Array;
  protected freeSlots = 0;
  /** What `freeSlots` would be had nothing been added since the last publish. */
  protected freeAtPublish = 0;
  /** Chains that the device can see and has not used. */
  protected published = 0;
  /** Chains added since the last publish, and the segments of theirs that took no slot in the ring. */
  protected unpublished = 0;
  protected unpublishedInTables = 0;
  /** In-order only: ids in the order they were added, a ring of `size`. */
  protected readonly order: Uint16Array | null;
  protected readonly tables: Int32Array;
  protected readonly tablesAddress: number;
  readonly #addresses: (memory: VirtqueueMemory) => Float64Array;
  #orderHead = 0;
  #orderTail = 0;
  /** In-order only: chains of the current used batch that `collect` had no room for yet, and the last one's length. */
  #batchLeft = 0;
  #batchLength = 0;
  #broken: VirtqueueError | null = null;

  constructor(configuration: DriverVirtqueueConfiguration, windows: WindowTable) {
    const { index, size, memory, indirect } = configuration;
    this.index = index;
    this.size = size;
    if (!Number.isInteger(size) || size < 1 || size > MAX_SIZE) {
      throw this.error('ERR_VIRTQ_CONFIGURATION', `size must be 1 to ${MAX_SIZE}, is ${size}`);
    }
    this.memory = memory;
    this.eventIdx = configuration.eventIdx;
    this.#addresses = configuration.addresses ?? windowAddresses;
    this.bases = this.#addresses(memory);
    this.book = new Int32Array(size * 4);
    for (let id = 0; id < size; id++) this.book[id * 4 + 2] = id + 1 === size ? 0 : id + 1;
    this.freeSlots = this.freeAtPublish = size;
    this.order = configuration.inOrder ? new Uint16Array(size) : null;
    this.indirectCapacity = indirect?.capacity ?? 0;
    if (indirect === undefined) {
      this.tables = new Int32Array(0);
      this.tablesAddress = NaN;
    } else {
      const length = size * indirect.capacity * 16;
      this.tables = new RingArea(windows, indirect.place, length, 16, 'indirect tables', index).i32();
      this.tablesAddress = this.bases[indirect.place.window]! + indirect.place.offset;
    }
  }

  abstract add(segments: Int32Array, first: number, readable: number, writable: number): number;
  abstract addIndirect(segments: Int32Array, first: number, readable: number, writable: number): number;
  abstract publish(): void;
  abstract needsKick(): boolean;
  abstract hasUsed(): boolean;
  abstract enableCalls(): boolean;
  abstract disableCalls(): void;
  abstract state(): VirtqueueState;

  /** True when a window that holds the ring was unmapped. */
  protected abstract ringLost(): boolean;
  /** The hot loop of `collect` without in-order: fills rows up to `max`, returns how many. Latches what is wrong. */
  protected abstract collectAny(used: UsedBatch, max: number): number;
  /** The next used entry's id with its length in `peekedLength`, -1 when there is none. Latches what is wrong. */
  protected abstract peekUsed(): number;
  /** Used entries that the device claims at most, for the size of an in-order batch. */
  protected abstract usedClaim(): number;
  /** Frees the id's descriptors and steps over its used entry. */
  protected abstract release(id: number): void;
  protected peekedLength = 0;

  get free(): number {
    return this.freeSlots;
  }

  get inFlight(): number {
    return this.published + this.unpublished;
  }

  get broken(): VirtqueueError | null {
    return this.#broken;
  }

  rebind(memory: VirtqueueMemory): void {
    this.memory = memory;
    this.bases = this.#addresses(memory);
  }

  /** True while `collect` still owes chains of an in-order batch whose used entry it has read. */
  protected get batchPending(): boolean {
    return this.#batchLeft > 0;
  }

  collect(used: UsedBatch, max: number): number {
    used.count = 0;
    if (this.#broken !== null) return 0;
    if (this.ringLost()) {
      this.fail('ERR_VIRTQ_MEMORY_LOST', 'the memory of the ring was unmapped');
      return 0;
    }
    const limit = max < used.capacity ? max : used.capacity;
    const count = this.order === null ? this.collectAny(used, limit) : this.#collectInOrder(used, limit);
    used.count = count;
    this.counters.completed += count;
    return count;
  }

  /**
   * Writes a chain into the id's indirect table (virtio 1.4, 2.7.5.3.1 and 2.8.7) and returns the table's guest address.
   * `next` is set for the split ring, whose tables are chained by it; in a packed ring's table it is the ignored id.
   */
  protected fillTable(
    id: number,
    segments: Int32Array,
    first: number,
    writable: number,
    total: number,
    chained: boolean,
  ): number {
    const { tables, bases } = this;
    const start = Math.imul(id, this.indirectCapacity) << 2;
    const nextFlag = chained ? NEXT : 0;
    const nextStep = chained ? 0x1_0000 : 0;
    const writeFlag = chained ? WRITE : WRITE << 16;
    let next = 0;
    let p = start;
    let row = first << 2;
    let writableBytes = 0;
    for (let left = total | 0; ; row = (row + 4) | 0) {
      const address = bases[segments[row]!]! + segments[(row + 1) | 0]!;
      const length = segments[(row + 2) | 0]!;
      if (!(address >= 0 && length >= 0)) this.refuseSegment(segments, row);
      let word = 0;
      if (left <= writable) {
        word = writeFlag;
        writableBytes += length;
      }
      tables[p] = address;
      tables[(p + 1) | 0] = address / 4294967296;
      tables[(p + 2) | 0] = length;
      left = (left - 1) | 0;
      if (left === 0) {
        tables[(p + 3) | 0] = word;
        break;
      }
      next = (next + nextStep) | 0;
      tables[(p + 3) | 0] = word | nextFlag | next;
      p = (p + 4) | 0;
    }
    if (writableBytes > MAX_CHAIN_BYTES) this.refuseBytes(writableBytes);
    this.book[((id << 2) + 1) | 0] = writableBytes;
    this.unpublishedInTables = (this.unpublishedInTables + total - 1) | 0;
    return this.tablesAddress + start * 4;
  }

  /** Counts an added chain of so many ring descriptors. */
  protected added(id: number, slots: number): void {
    this.freeSlots = (this.freeSlots - slots) | 0;
    this.unpublished = (this.unpublished + 1) | 0;
    if (this.order !== null) this.#remember(this.order, id);
  }

  /** Ring descriptors of chains came back. */
  protected freed(slots: number): void {
    this.freeSlots += slots;
    this.freeAtPublish += slots;
  }

  #remember(order: Uint16Array, id: number): void {
    order[this.#orderTail] = id;
    this.#orderTail = this.#orderTail + 1 === this.size ? 0 : this.#orderTail + 1;
  }

  /** Ring descriptors of the chains that were added since the last publish. */
  protected get slotsUnpublished(): number {
    return this.freeAtPublish - this.freeSlots;
  }

  /** Everything added is the device's from now on. */
  protected handedOver(): void {
    this.counters.chains += this.unpublished;
    this.counters.segments += this.slotsUnpublished + this.unpublishedInTables;
    this.counters.publishes++;
    this.published += this.unpublished;
    this.unpublished = 0;
    this.unpublishedInTables = 0;
    this.freeAtPublish = this.freeSlots;
  }

  /** Bytes that the device may write into the id's chain. */
  protected writable(id: number): number {
    return this.book[id * 4 + 1]! >>> 0;
  }

  /** Throws what makes a chain impossible whatever the state of the ring. */
  protected checkShape(readable: number, writable: number, limit: number): void {
    const total = readable + writable;
    if (readable >= 0 && writable >= 0 && total >= 1 && total <= limit) return;
    throw this.error(
      'ERR_VIRTQ_CHAIN',
      `a chain of ${readable} readable and ${writable} writable segments cannot be added; 1 to ${limit} can`,
    );
  }

  protected refuseSegment(segments: Int32Array, row: number): never {
    const [window, offset, length] = segments.subarray(row, row + 3);
    throw this.error(
      'ERR_VIRTQ_ADDRESS',
      `segment of ${length} bytes at window ${window}, offset ${offset}, is not guest memory`,
    );
  }

  protected refuseBytes(bytes: number): never {
    throw this.error('ERR_VIRTQ_CHAIN', `${bytes} writable bytes are more than a used length can say`);
  }

  /** Latches what a used entry did wrong. `entry` says which one. */
  protected failUsed(entry: string, id: number, length: number): void {
    const what =
      id >= this.size
        ? `the ring has ids 0 to ${this.size - 1}`
        : this.book[id * 4] === 0
          ? 'it is not in flight'
          : `only ${this.writable(id)} bytes are writable`;
    this.fail('ERR_VIRTQ_USED', `${entry} returns chain ${id} with ${length} bytes written: ${what}`);
  }

  protected fail(code: VirtqueueErrorCode, what: string): void {
    // Truncated memory reads as zero: what looks like the device's defect may be that.
    const lost = this.memory.damaged;
    this.#broken ??= lost
      ? this.error('ERR_VIRTQ_MEMORY_LOST', `the memory file was truncated; seen as: ${what}`)
      : this.error(code, what);
  }

  protected error(code: VirtqueueErrorCode, what: string): VirtqueueError {
    return new VirtqueueError(code, this.index, what);
  }

  /**
   * In order, one used entry may stand for a batch: it names the batch's last chain, and those before it count as wholly
   * used (virtio 1.4, 2.7.9 and 2.8.9).
   */
  #collectInOrder(used: UsedBatch, max: number): number {
    const order = this.order!;
    let row = 0;
    while (row < max) {
      if (this.#batchLeft === 0 && !this.#nextBatch()) break;
      const id = order[this.#orderHead]!;
      this.#orderHead = this.#orderHead + 1 === this.size ? 0 : this.#orderHead + 1;
      this.#batchLeft--;
      used.ids[row] = id;
      used.lengths[row] = this.#batchLeft === 0 ? this.#batchLength : this.writable(id);
      row++;
      this.published--;
      this.release(id);
    }
    return row;
  }

  /** Reads one used entry and finds how many chains it stands for. */
  #nextBatch(): boolean {
    const id = this.peekUsed();
    if (id < 0) return false;
    const order = this.order!;
    let place = this.#orderHead;
    let distance = 1;
    while (distance <= this.published && order[place] !== id) {
      place = place + 1 === this.size ? 0 : place + 1;
      distance++;
    }
    if (distance > this.published || distance > this.usedClaim()) {
      this.fail('ERR_VIRTQ_USED', `chain ${id} is used out of order: in-order use was negotiated`);
      return false;
    }
    this.#batchLeft = distance;
    this.#batchLength = this.peekedLength;
    return true;
  }
}

/** By window: the guest address of its first byte, NaN for windows that are not in `memory`. */
export function windowAddresses(memory: VirtqueueMemory): Float64Array {
  let count = 0;
  for (const region of memory.regions) {
    count = Math.max(count, region.mapping.firstWindow + region.mapping.windowCount);
  }
  const bases = new Float64Array(count).fill(NaN);
  memory.regions.forEach((region, i) => {
    const { firstWindow, windowCount } = region.mapping;
    for (let k = 0; k < windowCount; k++) bases[firstWindow + k] = memory.starts[i]! + k * WINDOW_STRIDE;
  });
  return bases;
}
