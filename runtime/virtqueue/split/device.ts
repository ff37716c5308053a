import type { WindowTable } from '../../platform/platform.js';
import type { ChainBatch } from '../chain-batch.js';
import type { VirtqueueAreas, VirtqueueConfiguration, VirtqueueState } from '../device-virtqueue.js';
import { VirtqueueError } from '../../errors.js';
import { SEGMENT_MAX } from '../../platform/platform.js';
import { BaseDeviceVirtqueue } from '../base-device-virtqueue.js';
import { ChainBuilder } from '../chain-builder.js';
import { PLAIN_LOAD_ACQUIRES } from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import { walkSplitChain } from './chain-walk.js';
import { INDIRECT, NEXT, WRITE } from './layout.js';
import { EventNotification, FlagNotification, type SplitNotification } from './notification.js';

/**
 * The device's side of a split virtqueue (virtio 1.4, 2.7).
 *
 *   descriptor table, i32, stride 4    addr low | addr high | len | flags | next << 16
 *   available ring, u16                flags | idx | head[size] | used_event
 *   used ring, u16                     flags | idx | …
 *             i32                      flags | idx << 16 | (id | len)[size] | avail_event
 *
 * Both indexes run freely over 16 bits; slot = index & (size - 1), the size is a power of two.
 */
export class SplitDeviceVirtqueue extends BaseDeviceVirtqueue {
  readonly format = 'split';
  readonly #eventIdx: boolean;
  readonly #indirect: boolean;
  /** Longest buffer that the hot loop takes: even `size` of these stay below 2^32 bytes together. */
  readonly #plainLength: number;
  #areas!: readonly RingArea[];
  #descriptors!: Int32Array;
  #available!: Uint16Array;
  #usedIndex!: Uint16Array;
  #used!: Int32Array;
  #notification!: SplitNotification;
  #nextAvailable: number;
  #nextUsed: number;
  /** The used index as the driver sees it. */
  #published: number;
  /** The used index when `needsCall` was last asked, and how many elements were published since. */
  #asked: number;
  #publishedSinceAsked = 0;

  constructor(
    configuration: VirtqueueConfiguration,
    state: VirtqueueState & { format: 'split' },
    windows: WindowTable,
  ) {
    super(configuration, windows);
    this.#eventIdx = configuration.eventIdx;
    this.#indirect = configuration.indirect;
    this.#plainLength = Math.min(SEGMENT_MAX, Math.floor(0xffff_ffff / this.size));
    this.#nextAvailable = state.nextAvailable;
    this.#nextUsed = this.#published = this.#asked = state.nextUsed;
    this.bind(configuration.areas);
  }

  protected override bind(areas: VirtqueueAreas): void {
    const { size, windows, index } = this;
    const event = this.#eventIdx ? 2 : 0;
    const descriptor = new RingArea(windows, areas.descriptor, 16 * size, 16, 'descriptor table', index);
    const driver = new RingArea(windows, areas.driver, 4 + 2 * size + event, 2, 'available ring', index);
    const device = new RingArea(windows, areas.device, 4 + 8 * size + event, 4, 'used ring', index);
    this.#areas = [descriptor, driver, device];
    this.#descriptors = descriptor.i32();
    this.#available = driver.u16();
    this.#usedIndex = device.u16();
    this.#used = device.i32();
    this.#notification = this.#eventIdx
      ? new EventNotification(this.#available, this.#usedIndex, size)
      : new FlagNotification(this.#available, this.#usedIndex);
  }

  protected override ringLost(): boolean {
    return this.#areas[0]!.lost || this.#areas[1]!.lost || this.#areas[2]!.lost;
  }

  override hasAvailable(): boolean {
    return this.broken === null && this.#available[1] !== this.#nextAvailable && !this.ringLost();
  }

  protected override available(limit: number): number {
    const index = PLAIN_LOAD_ACQUIRES ? this.#available[1]! : Atomics.load(this.#available, 1);
    const count = (index - this.#nextAvailable) & 0xffff;
    if (count > this.size - this.chainsInFlight) {
      throw new VirtqueueError(
        'ERR_VIRTQ_AVAILABLE_INDEX',
        this.index,
        `available index went from ${this.#nextAvailable} to ${index} with ${this.chainsInFlight} chains in flight; ` +
          `the ring holds ${this.size}`,
      );
    }
    return count < limit ? count : limit;
  }

  /**
   * The hot loop. One loop for direct descriptors and indirect tables: `table`, `base` and `bound` say where it reads.
   * No calls in it, int32 arithmetic only, flags and next fetched as one word; anything unusual ends it, with
   * nothing of the unusual chain kept.
   */
  protected override takePlain(batch: ChainBatch, row: number, end: number): number {
    const size = this.size;
    const mask = size - 1;
    const available = this.#available;
    const descriptors = this.#descriptors;
    const slots = this.slots;
    const writableBytes = this.writable;
    const chains = batch.chains;
    const segments = batch.segments;
    const segmentEnd = batch.segmentCapacity << 2;
    const plainLength = this.#plainLength;
    const tableBytes = this.#indirect ? size << 4 : 0;

    const map = this.map;
    const spanCount = map.count;
    const starts = map.starts;
    const highs = map.highs;
    const lows = map.lows;
    const floors = map.floors;
    const ceilings = map.ceilings;
    const windows = map.windows;
    const words = map.words;
    if (spanCount === 0) return row;
    let span = this.span;
    let high = highs[span]!;
    let low = lows[span]!;
    let floor = floors[span]!;
    let ceiling = ceilings[span]!;
    let window = windows[span]!;

    let next = this.#nextAvailable;
    let s = this.segmentRow << 2;
    let chainStart = s;
    chainsLoop: for (; row < end; row = (row + 1) | 0) {
      const head = available[((next & mask) + 2) | 0]!;
      if (head >= size || slots[head] !== 0) break;
      let table = descriptors;
      let base = 0;
      let bound = size;
      let index = head;
      let budget = size;
      let readable = 0;
      let written = 0;
      for (;;) {
        const p = (base + (index << 2)) | 0;
        const word = table[(p + 3) | 0]!;
        const length = table[(p + 2) | 0]!;
        const addressHigh = table[(p + 1) | 0]!;
        const addressLow = table[p]!;
        if (length <= 0 || length > plainLength) break chainsLoop;
        let offset = (addressLow - low) | 0;
        if (addressHigh !== high || offset < floor || offset > ((ceiling - length) | 0)) {
          const address = (addressHigh >>> 0) * 4294967296 + (addressLow >>> 0);
          let bottom = 0;
          let top = (spanCount - 1) | 0;
          while (bottom < top) {
            const middle = (bottom + top + 1) >> 1;
            if (starts[middle]! <= address) bottom = middle;
            else top = (middle - 1) | 0;
          }
          span = bottom;
          high = highs[span]!;
          low = lows[span]!;
          floor = floors[span]!;
          ceiling = ceilings[span]!;
          window = windows[span]!;
          offset = (addressLow - low) | 0;
          if (addressHigh !== high || offset < floor || offset > ((ceiling - length) | 0)) break chainsLoop;
        }
        if ((word & INDIRECT) !== 0) {
          if (table !== descriptors || (word & NEXT) !== 0) break chainsLoop;
          if ((length & 15) !== 0 || length > tableBytes || (offset & 3) !== 0) break chainsLoop;
          table = words[span]!;
          base = offset >> 2;
          bound = length >> 4;
          index = 0;
          continue;
        }
        if (s >= segmentEnd) break chainsLoop;
        segments[s] = window;
        segments[(s + 1) | 0] = offset;
        segments[(s + 2) | 0] = length;
        segments[(s + 3) | 0] = word & WRITE;
        s = (s + 4) | 0;
        if ((word & WRITE) !== 0) written = (written + length) | 0;
        else if (written !== 0) break chainsLoop;
        else readable = (readable + 1) | 0;
        if ((word & NEXT) === 0) break;
        index = word >>> 16;
        budget = (budget - 1) | 0;
        if (index >= bound || budget === 0) break chainsLoop;
      }
      const c = row << 2;
      chains[c] = head;
      chains[(c + 1) | 0] = chainStart >> 2;
      chains[(c + 2) | 0] = readable;
      chains[(c + 3) | 0] = ((s - chainStart) >> 2) - readable;
      slots[head] = 1;
      writableBytes[head] = written;
      chainStart = s;
      next = (next + 1) & 0xffff;
    }
    this.#nextAvailable = next;
    this.segmentRow = chainStart >> 2;
    this.span = span;
    return row;
  }

  protected override takeThoroughly(batch: ChainBatch, row: number): boolean {
    const head = this.#available[(this.#nextAvailable & (this.size - 1)) + 2]!;
    if (head >= this.size) {
      throw new VirtqueueError(
        'ERR_VIRTQ_HEAD',
        this.index,
        `available ring names head ${head}, the ring has ${this.size}`,
      );
    }
    if (this.slots[head] !== 0) {
      throw new VirtqueueError(
        'ERR_VIRTQ_HEAD',
        this.index,
        `head ${head} is made available while in flight`,
      );
    }
    const chain = new ChainBuilder(this.map, this.index, batch, this.segmentRow);
    walkSplitChain(
      { descriptors: this.#descriptors, size: this.size, indirect: this.#indirect },
      head,
      chain,
    );
    if (!chain.place(row, head)) return false;
    this.slots[head] = 1;
    this.writable[head] = chain.writableBytes;
    this.segmentRow += chain.segments;
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    return true;
  }

  protected override useRows(batch: ChainBatch, count: number): number {
    const size = this.size;
    const mask = size - 1;
    const slots = this.slots;
    const writable = this.writable;
    const used = this.#used;
    const chains = batch.chains;
    const written = batch.written;
    let next = this.#nextUsed;
    let row = 0;
    for (; row < count; row = (row + 1) | 0) {
      const head = chains[row << 2]!;
      const bytes = written[row]!;
      if (head < 0 || head >= size || slots[head] === 0 || bytes > writable[head]!) break;
      slots[head] = 0;
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
    this.slots[head] = 0;
  }

  override publish(): void {
    const count = (this.#nextUsed - this.#published) & 0xffff;
    if (count === 0 || this.ringLost()) return;
    Atomics.store(this.#usedIndex, 1, this.#nextUsed);
    this.#published = this.#nextUsed;
    this.#publishedSinceAsked += count;
    this.counters.publishes++;
  }

  override needsCall(): boolean {
    const count = this.#publishedSinceAsked;
    if (count === 0 || this.ringLost()) return false;
    const wanted = this.#notification.wantsCall(this.#asked, this.#published, count);
    this.#asked = this.#published;
    this.#publishedSinceAsked = 0;
    if (wanted) this.counters.calls++;
    return wanted;
  }

  override enableNotifications(): boolean {
    if (this.broken !== null || this.ringLost()) return false;
    this.#notification.enable(this.#nextAvailable);
    return Atomics.load(this.#available, 1) !== this.#nextAvailable;
  }

  override disableNotifications(): void {
    if (!this.ringLost()) this.#notification.disable();
  }

  override state(): VirtqueueState {
    return { format: 'split', nextAvailable: this.#nextAvailable, nextUsed: this.#published };
  }
}
