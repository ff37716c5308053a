import type { PlaceRange } from '../memory/iotlb.js';
import type { Mapping, WindowTable } from '../platform/platform.js';
import type { RingArea } from './ring-area.js';
import type { ChainBatch } from './chain-batch.js';
import type {
  DeviceVirtqueue,
  QueueCounters,
  VirtqueueAreas,
  VirtqueueConfiguration,
  VirtqueueMemory,
  VirtqueueState,
} from './device-virtqueue.js';
import { VirtqueueError } from '../errors.js';
import { AddressMap } from './address-map.js';
import { CompletionOrder } from './completion-order.js';
import { ChainLog, type VirtqueueLog } from './virtqueue-log.js';

/** What the two formats' trackers of chains in flight have in common; see inflight/. */
export interface InflightTracker {
  /** Chains of a process before that wait to be taken again. */
  readonly parked: number;
  /** The chain's used element was written and is not published. */
  complete(handle: number): void;
  /** Those of the batch's rows 0 to `rows` were. */
  completeRows(chains: Int32Array, rows: number): void;
}
import { ChainPlaces, type Translation, TranslationMiss } from './translation.js';

/** 1 MiB. Longer buffers cost more to move than the thorough walk takes. */
const PLAIN_LENGTH_MAX = 0x10_0000;

/**
 * What the split and the packed device queue have in common: the latch, the book of chains in flight, the batch loop
 * around the format's hot loop, and the order of completions.
 *
 * A drain goes in two gears. `takePlain` is the hot loop: it takes chains of the usual shape and stops, without a call,
 * in front of anything else. `takeThoroughly` then walks that one chain with every rule spelled out: it takes it,
 * leaves it for the next batch, or throws the exact error, which is latched here. The hot loop thus knows no errors.
 */
export abstract class BaseDeviceVirtqueue implements DeviceVirtqueue {
  abstract readonly format: 'split' | 'packed';
  readonly index: number;
  readonly size: number;
  readonly counters: QueueCounters = {
    chains: 0,
    segments: 0,
    completed: 0,
    publishes: 0,
    calls: 0,
    kicks: 0,
  };

  protected readonly windows: WindowTable;
  protected map: AddressMap;
  /**
   * The chains in flight, by handle, stride 2:  ring slots that the chain holds, 0 when none is | writable bytes, unsigned
   */
  protected readonly book: Int32Array;
  /** Most buffers of a chain that goes through an indirect table; at least the ring's size. */
  protected readonly chainLimit: number;
  /** Longest buffer that the hot loops take. So many of these stay below 2^32 bytes that they need not add up. */
  protected readonly plainLength: number;
  /** Where the next segment goes in the batch being filled. */
  protected segmentRow = 0;
  /** The spans of guest memory in which the hot loop found a buffer and an indirect table last. */
  protected span = 0;
  protected tableSpan = 0;
  protected chainsInFlight = 0;
  protected readonly order: CompletionOrder | null;
  /** Set while writes are logged. No hot loop looks at it: once for a drain, a batch of completions, a publish. */
  protected log: ChainLog | null = null;
  /** Keeps record of chains in flight; each format has its own. */
  protected abstract readonly tracker: InflightTracker | null;
  readonly #inflight: Mapping | null;
  /** Set behind an IOMMU; the hot loops find no span open to them then. */
  protected readonly translation: Translation | null;
  /** The next chain cannot be walked before missing translations are there. */
  protected waiting = false;
  readonly #places: ChainPlaces | null;
  /** One area for each window that holds a part of the ring. */
  #areas: readonly RingArea[] = [];
  #mappings: readonly Mapping[] = [];
  #broken: VirtqueueError | null = null;

  constructor(configuration: VirtqueueConfiguration, windows: WindowTable) {
    this.index = configuration.index;
    this.size = configuration.size;
    this.windows = windows;
    this.translation = configuration.translation ?? null;
    this.#places = this.translation === null ? null : new ChainPlaces();
    this.map = this.translation?.map ?? AddressMap.ofMemory(configuration.memory, windows);
    this.book = new Int32Array(configuration.size * 2);
    this.chainLimit = Math.max(configuration.size, configuration.chainLimit ?? 0);
    this.plainLength = Math.min(PLAIN_LENGTH_MAX, Math.floor(0xffff_ffff / this.chainLimit));
    this.#inflight = configuration.inflight?.mapping ?? null;
    this.order = configuration.inOrder ? new CompletionOrder(configuration.size) : null;
  }

  abstract hasAvailable(): boolean;
  abstract publish(): void;
  abstract needsCall(): boolean;
  abstract enableNotifications(): boolean;
  abstract disableNotifications(): void;
  abstract state(): VirtqueueState;

  /** Binds the ring's views to these areas and gives the areas. Throws ERR_VIRTQ_CONFIGURATION. */
  protected abstract bindAreas(areas: VirtqueueAreas): readonly RingArea[];
  /** How many chains may be taken now, at most `limit`; 0 for none. Throws what is wrong with the ring's index. */
  protected abstract available(limit: number): number;
  /** Takes chains of the usual shape into rows `row` to `end`, and returns the row in front of which it stopped. */
  protected abstract takePlain(batch: ChainBatch, row: number, end: number): number;
  /** Takes the next parked chain; false when it does not fit. Throws what is wrong with it. */
  protected abstract takeParked(batch: ChainBatch, row: number): boolean;
  /** Notes the chains of rows 0 to `rows`, just taken from the ring, in the in-flight region. */
  protected abstract track(batch: ChainBatch, rows: number): void;
  /** Takes one chain of any shape; false when there is none or it does not fit. Throws what is wrong with it. */
  protected abstract takeThoroughly(batch: ChainBatch, row: number): boolean;
  /** Completes rows 0 to `count` of the batch; returns the first row that names no chain of ours, or `count`. */
  protected abstract useRows(batch: ChainBatch, count: number): number;
  /** Writes one used element; the chain is checked. */
  protected abstract use(handle: number, written: number): void;

  get inFlight(): number {
    return this.chainsInFlight;
  }

  get withDevice(): number {
    return this.chainsInFlight - (this.order?.held ?? 0);
  }

  get tracked(): boolean {
    return this.tracker !== null;
  }

  get parked(): number {
    return this.tracker?.parked ?? 0;
  }

  get broken(): VirtqueueError | null {
    return this.#broken;
  }

  break(error: VirtqueueError): void {
    this.#broken ??= error;
  }

  drain(batch: ChainBatch, max: number): number {
    batch.count = 0;
    if (this.#broken !== null || this.waiting) return 0;
    if (this.ringLost()) return this.#lose('the memory of the ring was unmapped');
    const limit = max < batch.chainCapacity ? max : batch.chainCapacity;
    const { tracker } = this;
    // What is taken anew must not meet its own completion in the region.
    if (tracker !== null) this.publish();
    if (tracker !== null && tracker.parked > 0) return this.#drainParked(tracker, batch, limit);
    let row = 0;
    this.segmentRow = 0;
    try {
      const end = this.available(limit);
      if (end === 0) return 0;
      if (this.#damaged()) return this.#lose('the memory file was truncated');
      if (this.translation !== null) this.#useMap(this.translation.map);
      for (;;) {
        row = this.takePlain(batch, row, end);
        if (row >= end || !this.takeThoroughly(batch, row)) break;
        row++;
      }
    } catch (error) {
      this.#latchOrWait(error);
    }
    if (tracker !== null && row > 0) this.track(batch, row);
    return this.#taken(batch, row);
  }

  /** Chains that a process before had taken, in the order in which it took them. */
  #drainParked(tracker: InflightTracker, batch: ChainBatch, limit: number): number {
    if (this.#damaged()) return this.#lose('the memory file was truncated');
    let row = 0;
    this.segmentRow = 0;
    if (this.translation !== null) this.#useMap(this.translation.map);
    try {
      while (row < limit && tracker.parked > 0 && this.takeParked(batch, row)) row++;
    } catch (error) {
      this.#latchOrWait(error);
    }
    return this.#taken(batch, row);
  }

  #taken(batch: ChainBatch, row: number): number {
    batch.count = row;
    this.chainsInFlight += row;
    this.counters.chains += row;
    this.counters.segments += this.segmentRow;
    if (this.order !== null) for (let i = 0; i < row; i++) this.order.take(batch.chains[i * 4]!);
    if (this.log !== null) this.log.taken(batch, row);
    if (this.#places !== null) this.#places.taken(batch, row);
    return row;
  }

  pushBatch(batch: ChainBatch, count: number): void {
    if (count > batch.count) {
      throw new VirtqueueError(
        'ERR_VIRTQ_HANDLE',
        this.index,
        `completing ${count} chains of a batch that holds ${batch.count}`,
      );
    }
    if (this.order === null) {
      const done = this.useRows(batch, count);
      const { tracker } = this;
      if (tracker !== null) tracker.completeRows(batch.chains, done);
      this.chainsInFlight -= done;
      this.counters.completed += done;
      if (this.log !== null) this.#logRows(this.log, batch, done);
      if (this.#places !== null) for (let i = 0; i < done; i++) this.#places.completed(batch.chains[i * 4]!);
      this.publish();
      if (done < count) this.#check(batch.chains[done * 4]!, batch.written[done]!);
    } else {
      for (let i = 0; i < count; i++) this.complete(batch.chains[i * 4]!, batch.written[i]!);
      this.publish();
    }
  }

  complete(handle: number, written: number): void {
    this.#check(handle, written);
    if (this.order === null) {
      this.#use(handle, written);
      return;
    }
    this.order.finish(handle, written);
    for (let next = this.order.ready; next >= 0; next = this.order.ready) {
      this.#use(next, this.order.release());
    }
  }

  rebind(memory: VirtqueueMemory, areas: VirtqueueAreas): void {
    this.publish();
    this.bind(memory, areas);
    this.waiting = false;
    this.#useMap(this.translation?.map ?? AddressMap.ofMemory(memory, this.windows));
  }

  translated(): void {
    this.waiting = false;
  }

  whenUnused(places: readonly PlaceRange[] | null, done: () => void): void {
    if (this.#places === null) done();
    else this.#places.whenUnused(places, done);
  }

  abandonPlaces(): void {
    this.#places?.abandon();
  }

  setLog(log: VirtqueueLog | null, covered?: () => void): void {
    if (log === null) this.log = null;
    else if (this.log === null) this.log = new ChainLog(log, this.book);
    else this.log.configure(log);
    if (covered === undefined) return;
    if (this.log === null) covered();
    else this.log.whenCovered(covered);
  }

  /** Notes a chain in the book. */
  protected enter(handle: number, slots: number, writable: number): void {
    this.book[handle * 2] = slots;
    this.book[handle * 2 + 1] = writable;
  }

  /** Points the queue at its ring. The subclass's constructor ends with it. */
  protected bind(memory: VirtqueueMemory, areas: VirtqueueAreas): void {
    const bound = this.bindAreas(areas);
    this.#areas = bound.filter((area, i) => !bound.slice(0, i).some((before) => area.sharesWindow(before)));
    this.#mappings = memory.regions.map((region) => region.mapping);
  }

  /** True when a window that holds the ring was unmapped. */
  protected ringLost(): boolean {
    const areas = this.#areas;
    for (let i = 0; i < areas.length; i++) if (areas[i]!.lost) return true;
    return false;
  }

  /** True once any memory lost pages because its file was truncated. */
  #damaged(): boolean {
    if (this.#inflight?.damaged === true) return true;
    const mappings = this.#mappings;
    for (let i = 0; i < mappings.length; i++) if (mappings[i]!.damaged) return true;
    return false;
  }

  #use(handle: number, written: number): void {
    this.use(handle, written);
    this.tracker?.complete(handle);
    this.chainsInFlight--;
    this.counters.completed++;
    this.#places?.completed(handle);
    if (this.log !== null) this.#logUsed(this.log, handle);
  }

  #logRows(log: ChainLog, batch: ChainBatch, rows: number): void {
    for (let row = 0; row < rows; row++) this.#logUsed(log, batch.chains[row * 4]!);
  }

  #logUsed(log: ChainLog, handle: number): void {
    log.used(handle);
    this.checkLog(log);
  }

  /** A write that cannot be logged would be lost in a migration: the driver is not told of it. */
  protected checkLog(log: ChainLog): void {
    if (!log.lost || this.#broken !== null) return;
    this.break(
      new VirtqueueError(
        'ERR_VIRTQ_LOG',
        this.index,
        'guest memory was written that the dirty log does not reach',
      ),
    );
  }

  /** Throws when the chain is not in flight, or when more is reported than it can take. */
  #check(handle: number, written: number): void {
    const slots = Number.isInteger(handle) && handle >= 0 ? this.book[handle * 2] : undefined;
    if (slots === undefined || slots === 0 || this.order?.isDone(handle) === true) {
      throw new VirtqueueError('ERR_VIRTQ_HANDLE', this.index, `completing chain ${handle}: not in flight`);
    }
    const writable = this.book[handle * 2 + 1]! >>> 0;
    if (!(written >= 0 && written <= writable)) {
      throw new VirtqueueError(
        'ERR_VIRTQ_USED',
        this.index,
        `completing chain ${handle}: ${written} bytes written, ${writable} are writable`,
      );
    }
  }

  #useMap(map: AddressMap): void {
    if (map === this.map) return;
    this.map = map;
    this.span = 0;
    this.tableSpan = 0;
  }

  /** A chain that lacks translations stays in the ring, and is walked and checked anew from its head when they are there. */
  #latchOrWait(error: unknown): void {
    if (!(error instanceof TranslationMiss)) return this.#latch(error);
    this.waiting = true;
    this.translation!.missed(error.faults);
  }

  #latch(error: unknown): void {
    if (!(error instanceof VirtqueueError)) throw error;
    // Truncated memory reads as zero: what looks like the driver's defect may be that.
    if (this.#damaged()) this.#lose('the memory file was truncated', error);
    else this.break(error);
  }

  #lose(what: string, cause?: unknown): 0 {
    this.break(new VirtqueueError('ERR_VIRTQ_MEMORY_LOST', this.index, what, { cause }));
    return 0;
  }
}
