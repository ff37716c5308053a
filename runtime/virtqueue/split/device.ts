import type { WindowTable } from '../../platform/platform.js';
import type { ChainBatch } from '../chain-batch.js';
import type { VirtqueueAreas, VirtqueueConfiguration, VirtqueueState } from '../device-virtqueue.js';
import { InflightArea } from '../inflight/region.js';
import { SplitInflight } from '../inflight/split.js';
import * as memoryOrder from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import type { ChainLog } from '../virtqueue-log.js';
import { EventNotification, FlagNotification, type SplitNotification } from './notification.js';
import { SplitTaking } from './taking.js';

// Imported bindings cost a load and a check at every use in a hot loop; constants of this module are folded.
const PLAIN_STORE_RELEASES = memoryOrder.PLAIN_STORE_RELEASES;
/** Bytes of the used ring's flags and index, and of an element. */
const USED_HEADER = 4;
const USED_ELEMENT = 8;

/**
 * The device's side of a split virtqueue (virtio 1.4, 2.7).
 *
 *   descriptor table, i32, stride 4    addr low | addr high | len | flags | next << 16
 *   available ring, u16                flags | idx | head[size] | used_event
 *   used ring, u16                     flags | idx | …
 *             i32                      flags | idx << 16 | (id | len)[size] | avail_event
 *
 * Both indexes run freely over 16 bits; slot = index & (size - 1), the size is a power of two. What is done at the available
 * index is in taking.ts.
 */
export class SplitDeviceVirtqueue extends SplitTaking {
  readonly format = 'split';
  protected override readonly tracker: SplitInflight | null;
  readonly #eventIdx: boolean;
  #usedIndex!: Uint16Array;
  #used!: Int32Array;
  #notification!: SplitNotification;
  #nextUsed = 0;
  /** The used index as the driver sees it. */
  #published = 0;
  /** The used index when `needsCall` was last asked, and how many elements were published since. */
  #asked = 0;
  #publishedSinceAsked = 0;

  constructor(
    configuration: VirtqueueConfiguration,
    state: VirtqueueState & { format: 'split' },
    windows: WindowTable,
  ) {
    super(configuration, windows);
    this.#eventIdx = configuration.eventIdx;
    this.nextAvailable = state.nextAvailable;
    this.#nextUsed = this.#published = this.#asked = state.nextUsed;
    this.bind(configuration.memory, configuration.areas);
    this.tracker = this.#openRegion(configuration);
    if (this.tracker !== null) this.nextAvailable = this.tracker.nextAvailable;
  }

  #openRegion({ inflight }: VirtqueueConfiguration): SplitInflight | null {
    if (inflight === undefined) return null;
    const { size, index } = this;
    const area = new InflightArea(this.windows, inflight, 'split', size, index);
    // A ring that was never used has zeros for elements; the flags may say something.
    const elements = this.#used.subarray(1, 1 + 2 * size);
    const now = {
      queue: index,
      size,
      usedIndex: this.#nextUsed,
      availableIndex: Atomics.load(this.availableRing, 1),
      untouched: this.#nextUsed === 0 && elements.every((word) => word === 0),
    };
    return new SplitInflight(area, now, this.nextAvailable);
  }

  protected override bindAreas(areas: VirtqueueAreas): readonly RingArea[] {
    const { size, windows, index } = this;
    const event = this.#eventIdx ? 2 : 0;
    const descriptor = new RingArea(windows, areas.descriptor, 16 * size, 16, 'descriptor table', index);
    const driver = new RingArea(windows, areas.driver, 4 + 2 * size + event, 2, 'available ring', index);
    const device = new RingArea(windows, areas.device, 4 + 8 * size + event, 4, 'used ring', index);
    this.descriptors = descriptor.i32();
    this.availableRing = driver.u16();
    this.#usedIndex = device.u16();
    this.#used = device.i32();
    this.#notification = this.#eventIdx
      ? new EventNotification(this.availableRing, this.#usedIndex, size)
      : new FlagNotification(this.availableRing, this.#usedIndex);
    return [descriptor, driver, device];
  }

  protected override useRows(batch: ChainBatch, rows: number): number {
    const count = rows | 0;
    const size = this.size | 0;
    const mask = size - 1;
    const book = this.book;
    const used = this.#used;
    const chains = batch.chains;
    const written = batch.written;
    let next = this.#nextUsed | 0;
    let row = 0;
    for (; row < count; row = (row + 1) | 0) {
      const head = chains[row << 2]!;
      const bytes = written[row]!;
      if (head >>> 0 >= size || book[head << 1] === 0) break;
      if (bytes > book[((head << 1) + 1) | 0]! >>> 0) break;
      book[head << 1] = 0;
      const p = (((next & mask) << 1) + 1) | 0;
      used[p] = head;
      used[(p + 1) | 0] = bytes;
      next = (next + 1) & 0xffff;
    }
    this.#nextUsed = next;
    return row;
  }

  protected override use(head: number, written: number): void {
    const p = ((this.#nextUsed & (this.size - 1)) << 1) + 1;
    this.#used[p] = head;
    this.#used[p + 1] = written;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.book[head * 2] = 0;
  }

  override publish(): void {
    const count = (this.#nextUsed - this.#published) & 0xffff;
    // Views of memory that was unmapped are empty.
    if (count === 0 || this.#usedIndex.length === 0 || (this.log !== null && this.broken !== null)) return;
    const { tracker } = this;
    if (tracker !== null) tracker.beforePublish();
    if (PLAIN_STORE_RELEASES) this.#usedIndex[1] = this.#nextUsed;
    else Atomics.store(this.#usedIndex, 1, this.#nextUsed);
    if (tracker !== null) tracker.afterPublish(this.#nextUsed);
    if (this.log !== null) this.#logPublished(this.log, count);
    this.#published = this.#nextUsed;
    this.#publishedSinceAsked += count;
    this.counters.publishes++;
  }

  /** The used ring's flags and index, and `count` elements from `#published` on. */
  #logPublished(log: ChainLog, count: number): void {
    log.markDevice(0, USED_HEADER);
    log.markSlots('device', USED_HEADER, USED_ELEMENT, this.size, this.#published & (this.size - 1), count);
    this.checkLog(log);
  }

  /** What asks for kicks, or for none: the used ring's flags, and behind its elements the available event. */
  #logNotification(log: ChainLog): void {
    log.markDevice(0, USED_HEADER);
    if (this.#eventIdx) log.markDevice(USED_HEADER + USED_ELEMENT * this.size, 2);
    this.checkLog(log);
  }

  override needsCall(): boolean {
    const count = this.#publishedSinceAsked;
    if (count === 0 || this.ringLost()) return false;
    memoryOrder.fence();
    const wanted = this.#notification.wantsCall(this.#asked, this.#published, count);
    this.#asked = this.#published;
    this.#publishedSinceAsked = 0;
    if (wanted) this.counters.calls++;
    return wanted;
  }

  override enableNotifications(): boolean {
    if (this.broken !== null || this.waiting || this.ringLost()) return false;
    this.#notification.enable(this.nextAvailable);
    if (this.log !== null) this.#logNotification(this.log);
    return Atomics.load(this.availableRing, 1) !== this.nextAvailable || this.parked > 0;
  }

  override disableNotifications(): void {
    if (this.ringLost()) return;
    this.#notification.disable();
    if (this.log !== null && !this.#eventIdx) this.#logNotification(this.log);
  }

  override state(): VirtqueueState {
    return { format: 'split', nextAvailable: this.nextAvailable, nextUsed: this.#published };
  }
}
