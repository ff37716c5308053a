import { DeviceId } from '../../../generated/virtio/device-ids.js';
import { BlkFeature } from '../../../generated/virtio/devices/blk/features.js';
import {
  BLK_SECTOR_SIZE,
  BlkRequestType,
  BlkStatus,
  BlkWriteZeroesFlag,
} from '../../../generated/virtio/devices/blk/layouts.js';
import {
  ChainBatch,
  type DeviceHost,
  type DeviceQueue,
  segmentCapacity,
  type VirtioDevice,
} from '../../device/index.js';
import { type BlockBacking, BlockOperation } from './backing.js';
import { BlockConfiguration } from './configuration.js';
import { type BlockDeviceOptions, checkOptions, offeredFeatures, RANGE_SECTORS_MAX } from './options.js';
import { RangeList } from './ranges.js';
import { BlockRequest } from './request.js';
import { othersSettled } from './predecessor.js';
import { RequestSlots, SlotColumn } from './request-slots.js';

/** Bytes of one read or write at most: what moves is counted in an int32, and the kernel moves no more at once. */
const TRANSFER_MAX = 0x7fff_f000;
/** Chains taken from a queue at a time. */
const BATCH = 128;
const EIO = 5;
const EOPNOTSUPP = 95;

/**
 * The block device (virtio device type 2) over any BlockBacking. Requests of a batch are queued to the backing and
 * submitted together; each is completed when its operations ended, in any order. Data goes straight between guest memory
 * and the backing.
 */
export class BlockDevice implements VirtioDevice {
  readonly deviceId = DeviceId.block;
  readonly features: bigint;
  readonly queueCount: number;
  readonly maxQueueSize: number;
  readonly maxChainLength: number;
  readonly config: BlockConfiguration;

  readonly #backing: BlockBacking;
  readonly #id: Uint8Array;
  readonly #settleLimit: number;
  readonly #slots: RequestSlots;
  readonly #batch: ChainBatch;
  readonly #request = new BlockRequest();
  readonly #ranges: RangeList;
  readonly #rangesMax: number;
  /** By batch row: whether its request has ended while its batch was being served. */
  readonly #ended = new Uint8Array(BATCH);
  /** By batch row: its slot, -1 for none. */
  readonly #rowSlots = new Int32Array(BATCH);
  #endedRows = 0;
  /** Operations queued by the completion of others. */
  #followUps = 0;
  /** Queues with completions that are not committed yet. */
  readonly #touched: DeviceQueue[] = [];
  /** Queues that wait for a slot. */
  readonly #waiting = new Set<DeviceQueue>();
  #host: DeviceHost | null = null;
  #complaints = 0;

  /** Throws DeviceError (ERR_DEVICE_CONFIGURATION). The backing stays the caller's to close. */
  constructor(backing: BlockBacking, options: BlockDeviceOptions = {}) {
    const checked = checkOptions(backing, options);
    this.#backing = backing;
    this.#id = checked.id;
    this.#settleLimit = checked.settleLimit;
    this.queueCount = checked.queueCount;
    this.maxQueueSize = checked.queueSize;
    // Header, seg_max segments, status.
    this.maxChainLength = checked.segmentsMax + 2;
    this.features = offeredFeatures(backing, checked);
    this.config = new BlockConfiguration(backing, checked, this.features);
    this.#slots = new RequestSlots(checked.queueCount * checked.queueSize);
    this.#batch = new ChainBatch(BATCH, segmentCapacity(checked.queueSize));
    this.#rangesMax = checked.rangesMax;
    this.#ranges = new RangeList(checked.rangesMax);
    backing.onComplete((count) => this.#completed(count));
  }

  /** Requests that the backing works on. */
  get pending(): number {
    return this.#slots.capacity - this.#slots.free;
  }

  /**
   * The backing's size changed: requests are measured against the new one, and the driver is told. Throws DeviceError
   * (ERR_DEVICE_CONFIGURATION), and goes on with the old size, when a disk cannot have the new one.
   */
  capacityChanged(): void {
    if (!this.config.measure()) return;
    this.#host?.log('info', 'the capacity changed', { sectors: this.config.capacity });
    this.#host?.configurationChanged();
  }

  attach(host: DeviceHost): void {
    this.#host = host;
    this.#complaints = 0;
  }

  /**
   * A process that was killed may have left writes to the kernel. They are over when nobody else holds the medium; for that
   * long, and no longer than `settleLimit`, its requests are not made again.
   */
  settled(): Promise<void> | null {
    const log: DeviceHost['log'] = (...line) => this.#host?.log(...line);
    return othersSettled(this.#backing, this.#settleLimit, log);
  }

  setFeatures(features: bigint): void {
    this.config.negotiated(features);
  }

  stopQueue(queue: DeviceQueue): void {
    this.#waiting.delete(queue);
  }

  reset(): void {
    this.#waiting.clear();
    this.config.reset();
  }

  serveQueue(queue: DeviceQueue): void {
    // A driver that refills its ring without end must not keep the loop from everything else.
    for (let budget = queue.size; budget > 0;) {
      const room = this.#slots.free;
      if (room === 0) {
        this.#waiting.add(queue);
        return;
      }
      const count = queue.drain(this.#batch, room < BATCH ? room : BATCH);
      if (count === 0) return;
      this.#serveBatch(queue, count);
      budget -= count;
    }
    queue.resume();
  }

  #serveBatch(queue: DeviceQueue, count: number): void {
    const batch = this.#batch;
    this.#endedRows = 0;
    this.#ended.fill(0, 0, count);
    this.#rowSlots.fill(-1, 0, count);
    for (let row = 0; row < count; row++) this.#start(queue, row);
    this.#submit();
    if (this.#endedRows === count) {
      queue.pushBatch(batch, count);
    } else {
      for (let row = 0; row < count; row++) {
        if (this.#ended[row] === 1) queue.complete(batch.chains[row * 4]!, batch.written[row]!);
        else this.#slots.rows[this.#rowSlots[row]! * 8 + SlotColumn.row] = -1;
      }
    }
    this.#commit();
  }

  /** Checks one request and queues its operations, or ends it. */
  #start(queue: DeviceQueue, row: number): void {
    const request = this.#request;
    const { segments } = this.#batch;
    if (!request.takeStatus(this.#batch, row)) {
      // There is no way to say that it failed but to give it back with nothing written.
      this.#complain('a request has no room for its status', { queue: queue.index });
      this.#endRow(row, 0);
      return;
    }
    if (!request.takeHeader(queue, segments)) {
      this.#endEarly(queue, row, BlkStatus.ioerr);
      return;
    }
    switch (request.type) {
      case BlkRequestType.in:
      case BlkRequestType.out:
        this.#startTransfer(queue, row);
        return;
      case BlkRequestType.flush:
        if (this.#backing.readOnly) this.#endEarly(queue, row, BlkStatus.ok);
        else this.#queue(this.#takeSlot(queue, row, 0, 1), BlockOperation.flush, 0, 0, 0, 0);
        return;
      case BlkRequestType.getId:
        this.#endEarly(queue, row, BlkStatus.ok, request.answer(queue, segments, this.#id));
        return;
      case BlkRequestType.discard:
      case BlkRequestType.writeZeroes:
        this.#startRanges(queue, row);
        return;
      // Lifetime, secure erase, zones and the legacy types are not offered.
      default:
        this.#endEarly(queue, row, BlkStatus.unsupp);
    }
  }

  #startTransfer(queue: DeviceQueue, row: number): void {
    const request = this.#request;
    const { segments } = this.#batch;
    const reads = request.type === BlkRequestType.in;
    const sent = request.readableLength(segments);
    const room = request.writableLength(segments);
    const length = reads ? room : sent;
    const { capacity } = this.config;
    // Data on the wrong side would be dropped without a word: refuse it.
    if (
      (reads ? sent : room) > 0 ||
      (!reads && this.#backing.readOnly) ||
      length % BLK_SECTOR_SIZE !== 0 ||
      length > TRANSFER_MAX ||
      request.sector > capacity - length / BLK_SECTOR_SIZE
    ) {
      this.#endEarly(queue, row, BlkStatus.ioerr);
      return;
    }
    if (length === 0) {
      this.#endEarly(queue, row, BlkStatus.ok);
      return;
    }
    const slot = this.#takeSlot(queue, row, length, 1);
    const position = request.sector * BLK_SECTOR_SIZE;
    if (reads) {
      this.#queue(slot, BlockOperation.read, position, length, request.writableRow, request.writableRows);
    } else {
      this.#queue(slot, BlockOperation.write, position, length, request.readableRow, request.readableRows);
    }
  }

  #startRanges(queue: DeviceQueue, row: number): void {
    const discards = this.#request.type === BlkRequestType.discard;
    if ((this.features & (discards ? BlkFeature.discard : BlkFeature.writeZeroes)) === 0n) {
      this.#endEarly(queue, row, BlkStatus.unsupp);
      return;
    }
    const ranges = this.#ranges;
    const status = ranges.take(this.#request, queue, this.#batch.segments, {
      capacity: this.config.capacity,
      ranges: this.#rangesMax,
      sectors: RANGE_SECTORS_MAX,
      flags: discards ? 0 : BlkWriteZeroesFlag.unmap,
    });
    let parts = 0;
    for (let i = 0; i < ranges.count; i++) if (ranges.sectors(i) > 0) parts++;
    if (parts === 0) {
      this.#endEarly(queue, row, status);
      return;
    }
    const slot = this.#takeSlot(queue, row, 0, parts);
    for (let i = 0; i < ranges.count; i++) {
      const length = ranges.sectors(i) * BLK_SECTOR_SIZE;
      if (length === 0) continue;
      const operation = discards
        ? BlockOperation.discard
        : ranges.unmaps(i)
          ? BlockOperation.writeZeroesUnmap
          : BlockOperation.writeZeroes;
      this.#queue(slot, operation, ranges.sector(i) * BLK_SECTOR_SIZE, length, 0, 0);
    }
  }

  /** Notes the request of `row` for as long as the backing works on it. `expected`: bytes that it must move. */
  #takeSlot(queue: DeviceQueue, row: number, expected: number, parts: number): number {
    const slots = this.#slots;
    const request = this.#request;
    const slot = slots.take();
    const { rows } = slots;
    const at = slot * 8;
    rows[at + SlotColumn.handle] = this.#batch.chains[row * 4]!;
    rows[at + SlotColumn.type] = request.type;
    rows[at + SlotColumn.expected] = expected;
    rows[at + SlotColumn.statusWindow] = request.statusWindow;
    rows[at + SlotColumn.statusOffset] = request.statusOffset;
    rows[at + SlotColumn.row] = row;
    rows[at + SlotColumn.parts] = parts;
    rows[at + SlotColumn.status] = BlkStatus.ok;
    slots.queues[slot] = queue;
    slots.stable[slot] =
      this.config.writeThrough && request.type !== BlkRequestType.in && request.type !== BlkRequestType.flush
        ? 1
        : 0;
    this.#rowSlots[row] = slot;
    return slot;
  }

  #queue(
    slot: number,
    operation: BlockOperation,
    position: number,
    length: number,
    row: number,
    rows: number,
  ): void {
    try {
      this.#backing.queue(operation, slot, position, length, this.#batch.segments, row, rows);
    } catch (error) {
      this.#complain('the backing refused an operation', { error });
      this.#partEnded(slot, -EIO);
    }
  }

  #submit(): void {
    do {
      this.#followUps = 0;
      this.#takeCompletions(this.#backing.submit());
    } while (this.#followUps > 0);
  }

  /** The backing ended operations on its own time. */
  #completed(count: number): void {
    this.#takeCompletions(count);
    if (this.#followUps > 0) this.#submit();
    this.#commit();
    if (this.#waiting.size === 0) return;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const queue of waiting) queue.resume();
  }

  #takeCompletions(count: number): void {
    const { completions } = this.#backing;
    for (let i = 0; i < count; i++) this.#partEnded(completions[i * 2]!, completions[i * 2 + 1]!);
  }

  /** One operation of a request ended. The first failure decides its status. */
  #partEnded(slot: number, result: number): void {
    const slots = this.#slots;
    const { rows } = slots;
    const at = slot * 8;
    const parts = --rows[at + SlotColumn.parts]!;
    if (rows[at + SlotColumn.status] === BlkStatus.ok && result !== rows[at + SlotColumn.expected]) {
      rows[at + SlotColumn.status] = this.#failure(slot, result);
    }
    if (parts > 0) return;
    if (slots.stable[slot] === 1 && rows[at + SlotColumn.status] === BlkStatus.ok) {
      // virtio 1.4, 5.2.6.2: without a negotiated cache a write is on the medium before it is reported.
      slots.stable[slot] = 0;
      rows[at + SlotColumn.parts] = 1;
      rows[at + SlotColumn.expected] = 0;
      this.#followUps++;
      this.#queue(slot, BlockOperation.flush, 0, 0, 0, 0);
      return;
    }
    this.#end(slot);
  }

  #end(slot: number): void {
    const slots = this.#slots;
    const { rows } = slots;
    const at = slot * 8;
    const queue = slots.queues[slot]!;
    const status = rows[at + SlotColumn.status]!;
    const row = rows[at + SlotColumn.row]!;
    const moved =
      rows[at + SlotColumn.type] === BlkRequestType.in && status === BlkStatus.ok
        ? rows[at + SlotColumn.expected]!
        : 0;
    queue.u8[rows[at + SlotColumn.statusWindow]!]![rows[at + SlotColumn.statusOffset]!] = status;
    slots.release(slot);
    if (row >= 0) {
      this.#endRow(row, moved + 1);
      return;
    }
    queue.complete(rows[at + SlotColumn.handle]!, moved + 1);
    if (!this.#touched.includes(queue)) this.#touched.push(queue);
  }

  /** Ends a request that needs no work. `moved`: bytes written in front of the status. */
  #endEarly(queue: DeviceQueue, row: number, status: number, moved = 0): void {
    queue.u8[this.#request.statusWindow]![this.#request.statusOffset] = status;
    this.#endRow(row, moved + 1);
  }

  #endRow(row: number, written: number): void {
    this.#batch.written[row] = written;
    this.#ended[row] = 1;
    this.#endedRows++;
  }

  #commit(): void {
    for (const queue of this.#touched) queue.commit();
    this.#touched.length = 0;
  }

  /** The status for an operation that ended with `result`. */
  #failure(slot: number, result: number): number {
    const type = this.#slots.rows[slot * 8 + SlotColumn.type]!;
    const ranges = type === BlkRequestType.discard || type === BlkRequestType.writeZeroes;
    if (ranges && result === -EOPNOTSUPP) return BlkStatus.unsupp;
    this.#complain(result < 0 ? 'an operation failed' : 'an operation ended short', {
      queue: this.#slots.queues[slot]!.index,
      type,
      result,
    });
    return BlkStatus.ioerr;
  }

  /** The driver decides how often this happens: the 1st, 2nd, 4th, 8th … complaint of a connection is logged. */
  #complain(message: string, fields: Record<string, unknown>): void {
    const count = ++this.#complaints;
    if ((count & (count - 1)) === 0) this.#host?.log('warn', message, { ...fields, count });
  }
}
