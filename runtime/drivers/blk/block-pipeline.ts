import { DeviceError } from '../../errors.js';
import { UsedBatch } from '../../virtqueue/driver-virtqueue.js';
import {
  BLK_SECTOR_SIZE,
  BlkRequestHeader,
  BlkRequestType,
} from '../../../generated/virtio/devices/blk/layouts.js';
import { lengthError, statusError } from './block-status.js';
import type { GuestBuffer } from '../../memory/shared-memory.js';
import type { DriverQueue, QueueUser } from '../driver-queue.js';

/** Many reads or writes of one length. */
export interface BlockBatch {
  readonly operation: 'read' | 'write';
  /** Byte positions, multiples of 512, in the order in which they are asked for. */
  readonly positions: Float64Array;
  /** Bytes of each request, a multiple of 512. */
  readonly blockLength: number;
  /** Requests under way at a time; bounded by what the ring and guest memory hold. */
  readonly depth: number;
  /** Requests in all; beyond the end of `positions` it goes round. Their number when absent. */
  readonly requests?: number;
  /** Spin instead of waiting for calls. Only with a device in another thread or process. */
  readonly poll?: boolean;
  /** Use indirect tables, as most guests do. */
  readonly indirect?: boolean;
  /** Fills the block of a write: `words[first]` on, `blockLength / 4` words of guest memory. */
  readonly fill?: (words: Uint32Array, first: number, position: number) => void;
  /** Looks at the block of a read, likewise. What it throws ends the batch. */
  readonly check?: (words: Uint32Array, first: number, position: number) => void;
  readonly signal?: AbortSignal;
}

export interface BlockBatchResult {
  readonly requests: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly kicks: number;
  readonly calls: number;
}

/** A request's header and status byte, each in cache lines of its own. */
const CONTROL_BYTES = 128;
const STATUS_OFFSET = 64;
/** In place of a slot, for chains that are not the pipeline's. */
const FOREIGN = 0xffff;
/** Peeks between two looks at the clock while polling, and how long Node's loop may wait for its turn meanwhile. */
const PEEKS_PER_CLOCK = 4096;
const SPIN_MILLISECONDS = 50;

/**
 * The hot path of `BlockClient.run`: `depth` slots, each with guest memory for one request, and their segments laid out
 * once, so that a request costs two words of header and one `add`.
 *
 *   rows of a slot   header (16 bytes, readable) | data | status (1 byte, writable)
 */
export class BlockPipeline implements Disposable, QueueUser {
  readonly #queue: DriverQueue;
  readonly #batch: BlockBatch;
  readonly #depth: number;
  readonly #control: GuestBuffer;
  readonly #data: GuestBuffer[] = [];
  readonly #rows: Int32Array;
  readonly #freeSlots: Uint16Array;
  #freeCount: number;
  /** By chain id. FOREIGN for one that somebody else added, who may have given up waiting for it. */
  readonly #slotOf: Uint16Array;
  readonly #positionOf: Float64Array;
  /** By slot: the request's number, which says in what order those under way were asked for. */
  readonly #numberOf: Float64Array;
  readonly #used: UsedBatch;
  #inFlight = 0;
  #failure: unknown = null;
  #leave: () => void = () => undefined;
  /** Requests that came back while the device was replaced, or that the queue collected with its own. */
  #doneEarly = 0;

  /** Takes its guest memory. Throws ERR_GUEST_MEMORY_LIMIT or ERR_DEVICE_REQUEST. */
  constructor(queue: DriverQueue, batch: BlockBatch) {
    const { ram, driver } = queue;
    const { blockLength, positions } = batch;
    if (
      blockLength % BLK_SECTOR_SIZE !== 0 ||
      blockLength <= 0 ||
      positions.some((each) => each % BLK_SECTOR_SIZE !== 0 || each < 0)
    ) {
      throw new DeviceError(
        'ERR_DEVICE_REQUEST',
        `positions and length must be multiples of ${BLK_SECTOR_SIZE}`,
      );
    }
    if (positions.length === 0 && (batch.requests ?? 0) > 0) {
      throw new DeviceError('ERR_DEVICE_REQUEST', `${batch.requests} requests need a position`);
    }
    this.#queue = queue;
    this.#batch = batch;
    const chainSlots = batch.indirect === true ? 1 : 3;
    this.#depth = Math.max(1, Math.min(batch.depth, Math.floor(driver.size / chainSlots)));
    this.#control = ram.allocate(this.#depth * CONTROL_BYTES);
    this.#rows = new Int32Array(this.#depth * 12);
    for (let slot = 0; slot < this.#depth; slot++) {
      const control = this.#control.offset + slot * CONTROL_BYTES;
      let data: GuestBuffer;
      try {
        data = ram.allocate(blockLength, 4096);
      } catch (error) {
        this[Symbol.dispose]();
        throw error;
      }
      this.#data.push(data);
      this.#rows.set([this.#control.window, control, 16, 0], slot * 12);
      this.#rows.set([data.window, data.offset, blockLength, 0], slot * 12 + 4);
      this.#rows.set([this.#control.window, control + STATUS_OFFSET, 1, 0], slot * 12 + 8);
    }
    this.#freeSlots = Uint16Array.from({ length: this.#depth }, (_, i) => this.#depth - 1 - i);
    this.#freeCount = this.#depth;
    this.#slotOf = new Uint16Array(driver.size).fill(FOREIGN);
    this.#positionOf = new Float64Array(this.#depth);
    this.#numberOf = new Float64Array(this.#depth);
    this.#used = new UsedBatch(this.#depth);
    this.#leave = queue.use(this);
  }

  async run(): Promise<BlockBatchResult> {
    const { positions, poll, signal } = this.#batch;
    const queue = this.#queue;
    const total = this.#batch.requests ?? positions.length;
    const kicksBefore = queue.kicks;
    const callsBefore = queue.calls;
    const begin = performance.now();
    let next = 0;
    let done = 0;
    queue.driver.disableCalls();
    while (done < total && (this.#failure === null || this.#inFlight > 0)) {
      if (next < total && this.#failure === null) next = this.#issue(next, total);
      const count = this.#reap() + this.#doneEarly;
      this.#doneEarly = 0;
      done += count;
      if (count > 0) continue;
      if (queue.endReason !== null) throw queue.endReason;
      if (poll !== true) await queue.called(signal);
      else if (!this.#spin()) {
        signal?.throwIfAborted();
        await new Promise(setImmediate);
      }
    }
    if (this.#failure !== null) throw this.#failure as Error;
    const seconds = (performance.now() - begin) / 1000;
    return {
      requests: done,
      bytes: done * this.#batch.blockLength,
      seconds,
      kicks: queue.kicks - kicksBefore,
      calls: queue.calls - callsBefore,
    };
  }

  abandoned(): void {
    const { driver } = this.#queue;
    while (driver.broken === null && driver.hasUsed()) this.#doneEarly += this.#reap();
  }

  returned(id: number, written: number): boolean {
    if (this.#slotOf[id] === FOREIGN) return false;
    this.#take(id, written);
    this.#doneEarly++;
    return true;
  }

  /** Issues what is under way once more, as it lies in guest memory, in the order of before. */
  restarted(): void {
    const { driver } = this.#queue;
    const free = new Set(this.#freeSlots.subarray(0, this.#freeCount));
    const slots = Array.from({ length: this.#depth }, (_, slot) => slot).filter((slot) => !free.has(slot));
    slots.sort((a, b) => this.#numberOf[a]! - this.#numberOf[b]!);
    const readable = this.#batch.operation === 'read' ? 1 : 2;
    this.#slotOf.fill(FOREIGN);
    for (const slot of slots) {
      const id =
        this.#batch.indirect === true
          ? driver.addIndirect(this.#rows, slot * 3, readable, 3 - readable)
          : driver.add(this.#rows, slot * 3, readable, 3 - readable);
      this.#slotOf[id] = slot;
    }
  }

  [Symbol.dispose](): void {
    this.#leave();
    // Memory of requests that never came back stays taken: the device may still write there.
    if (this.#inFlight > 0) return;
    this.#control.free();
    for (const data of this.#data) data.free();
  }

  /** Asks for blocks until every slot is taken. Returns the index of the next request. */
  #issue(next: number, total: number): number {
    const { positions, operation, fill, indirect } = this.#batch;
    const { driver } = this.#queue;
    const windows = this.#queue.ram.platform.windows;
    const controlWords = windows.u32[this.#control.window]!;
    const control = windows.u8[this.#control.window]!;
    const rows = this.#rows;
    const type = operation === 'read' ? BlkRequestType.in : BlkRequestType.out;
    const readable = operation === 'read' ? 1 : 2;
    const first = next;
    while (next < total && this.#freeCount > 0) {
      const slot = this.#freeSlots[this.#freeCount - 1]!;
      const position = positions[next % positions.length]!;
      const row = slot * 12;
      const header = rows[row + 1]! >>> 2;
      control[rows[row + 9]!] = 0xff;
      BlkRequestHeader.setType(controlWords, header, type);
      BlkRequestHeader.setSector(controlWords, header, position / BLK_SECTOR_SIZE);
      if (fill !== undefined) fill(windows.u32[rows[row + 4]!]!, rows[row + 5]! >>> 2, position);
      const id =
        indirect === true
          ? driver.addIndirect(rows, slot * 3, readable, 3 - readable)
          : driver.add(rows, slot * 3, readable, 3 - readable);
      if (id < 0) break;
      this.#slotOf[id] = slot;
      this.#positionOf[slot] = position;
      this.#numberOf[slot] = next;
      this.#freeCount--;
      next++;
    }
    if (next === first) return next;
    this.#inFlight += next - first;
    this.#queue.commit();
    return next;
  }

  /** Takes back what the device has done. Notes the first failure. Returns how many requests it was. */
  #reap(): number {
    const queue = this.#queue;
    const used = this.#used;
    const count = queue.driver.collect(used, used.capacity);
    let own = 0;
    for (let i = 0; i < count; i++) {
      const id = used.ids[i]!;
      if (this.#slotOf[id] === FOREIGN) queue.returned(id, used.lengths[i]!);
      else {
        this.#take(id, used.lengths[i]!);
        own++;
      }
    }
    return own;
  }

  /** One request came back. */
  #take(id: number, written: number): void {
    const { check, operation, blockLength } = this.#batch;
    const { windows } = this.#queue.ram.platform;
    const rows = this.#rows;
    const slot = this.#slotOf[id]!;
    this.#slotOf[id] = FOREIGN;
    this.#freeSlots[this.#freeCount++] = slot;
    this.#inFlight--;
    const row = slot * 12;
    const status = windows.u8[rows[row + 8]!]![rows[row + 9]!]!;
    const expected = operation === 'read' ? blockLength + 1 : 1;
    if (status !== 0 || written !== expected) this.#fail(slot, status, written, expected);
    else if (check !== undefined && this.#failure === null) {
      try {
        check(windows.u32[rows[row + 4]!]!, rows[row + 5]! >>> 2, this.#positionOf[slot]!);
      } catch (error) {
        this.#failure = error;
      }
    }
  }

  #fail(slot: number, status: number, written: number, expected: number): void {
    const request = `${this.#batch.operation} at byte ${this.#positionOf[slot]!}`;
    this.#failure ??= status !== 0 ? statusError(request, status) : lengthError(request, written, expected);
  }

  /** Spins until something is used; false when Node's loop should have a turn. */
  #spin(): boolean {
    const { driver } = this.#queue;
    const end = performance.now() + SPIN_MILLISECONDS;
    do {
      for (let peeks = 0; peeks < PEEKS_PER_CLOCK; peeks++) if (driver.hasUsed()) return true;
    } while (performance.now() < end);
    return false;
  }
}
