import type { WindowTable } from '../../platform/platform.js';
import type { ChainBatch } from '../chain-batch.js';
import type { VirtqueueAreas, VirtqueueConfiguration, VirtqueueState } from '../device-virtqueue.js';
import { VirtqueueError } from '../../errors.js';
import { BaseDeviceVirtqueue } from '../base-device-virtqueue.js';
import { ChainBuilder } from '../chain-builder.js';
import { InflightArea } from '../inflight/region.js';
import { SplitInflight } from '../inflight/split.js';
import { fence, PLAIN_LOAD_ACQUIRES, PLAIN_STORE_RELEASES } from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import { walkSplitChain } from './chain-walk.js';
import * as layout from './layout.js';
import type { ChainLog } from '../virtqueue-log.js';
import { EventNotification, FlagNotification, type SplitNotification } from './notification.js';

// Imported bindings cost a load and a check at every use in a hot loop; constants of this module are folded.
const NEXT = layout.NEXT;
const WRITE = layout.WRITE;
const INDIRECT = layout.INDIRECT;
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
 * Both indexes run freely over 16 bits; slot = index & (size - 1), the size is a power of two.
 */
export class SplitDeviceVirtqueue extends BaseDeviceVirtqueue {
  readonly format = 'split';
  protected override readonly tracker: SplitInflight | null;
  readonly #eventIdx: boolean;
  readonly #indirect: boolean;
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
    this.#nextAvailable = state.nextAvailable;
    this.#nextUsed = this.#published = this.#asked = state.nextUsed;
    this.bind(configuration.memory, configuration.areas);
    this.tracker = this.#openRegion(configuration);
    if (this.tracker !== null) this.#nextAvailable = this.tracker.nextAvailable;
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
      availableIndex: Atomics.load(this.#available, 1),
      untouched: this.#nextUsed === 0 && elements.every((word) => word === 0),
    };
    return new SplitInflight(area, now, this.#nextAvailable);
  }

  protected override bindAreas(areas: VirtqueueAreas): readonly RingArea[] {
    const { size, windows, index } = this;
    const event = this.#eventIdx ? 2 : 0;
    const descriptor = new RingArea(windows, areas.descriptor, 16 * size, 16, 'descriptor table', index);
    const driver = new RingArea(windows, areas.driver, 4 + 2 * size + event, 2, 'available ring', index);
    const device = new RingArea(windows, areas.device, 4 + 8 * size + event, 4, 'used ring', index);
    this.#descriptors = descriptor.i32();
    this.#available = driver.u16();
    this.#usedIndex = device.u16();
    this.#used = device.i32();
    this.#notification = this.#eventIdx
      ? new EventNotification(this.#available, this.#usedIndex, size)
      : new FlagNotification(this.#available, this.#usedIndex);
    return [descriptor, driver, device];
  }

  override hasAvailable(): boolean {
    if (this.broken !== null || this.waiting) return false;
    return (this.#available[1] !== this.#nextAvailable || this.parked > 0) && !this.ringLost();
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
  protected override takePlain(batch: ChainBatch, fromRow: number, toRow: number): number {
    let row = fromRow | 0;
    const end = toRow | 0;
    const size = this.size | 0;
    const mask = (size - 1) | 0;
    const available = this.#available;
    const descriptors = this.#descriptors;
    const book = this.book;
    const chains = batch.chains;
    const segments = batch.segments;
    const segmentEnd = batch.segmentCapacity << 2;
    const plainLength = this.plainLength | 0;
    const chainLimit = this.chainLimit | 0;
    const tableBytes = this.#indirect ? chainLimit << 4 : 0;

    const map = this.map;
    const spanCount = map.count | 0;
    const starts = map.starts;
    const spans = map.spans;
    const words = map.words;
    if (spanCount === 0) return row;
    let span = this.span | 0;
    let tableSpan = this.tableSpan | 0;
    // Each move reads a descriptor again; a driver that changes it meanwhile cannot keep us here.
    const moveLimit = (segmentEnd + end) | 0;
    let moves = 0;

    // Row and ring position move together.
    const ahead = (this.#nextAvailable - row) | 0;
    let s = this.segmentRow << 2;
    let chainStart = s;
    let chainEnd = 0;
    let head = 0;
    let table = descriptors;
    let base = 0;
    let bound = 0;
    let index = -1;
    let readable = 0;
    let written = 0;
    spansLoop: for (;;) {
      const high = spans[span << 2]!;
      const low = spans[((span << 2) + 1) | 0]!;
      const ceiling = spans[((span << 2) + 2) | 0]!;
      const window = spans[((span << 2) + 3) | 0]!;
      const tableHigh = spans[tableSpan << 2]!;
      const tableLow = spans[((tableSpan << 2) + 1) | 0]!;
      const tableCeiling = spans[((tableSpan << 2) + 2) | 0]!;
      const tableWindow = spans[((tableSpan << 2) + 3) | 0]!;
      let word = 0;
      let addressHigh = 0;
      let addressLow = 0;
      chainsLoop: for (;;) {
        if (index < 0) {
          if (row >= end) break spansLoop;
          head = available[(((row + ahead) & mask) + 2) | 0]!;
          if (head >= size || book[head << 1] !== 0) break spansLoop;
          // Every descriptor of a plain chain makes one segment, so this bounds the walk as well.
          chainEnd = (s + (size << 2)) | 0;
          if (chainEnd > segmentEnd) chainEnd = segmentEnd;
          table = descriptors;
          base = 0;
          bound = size;
          index = head;
          readable = 0;
          written = 0;
        }
        for (;;) {
          const p = (base + (index << 2)) | 0;
          word = table[(p + 3) | 0]!;
          const length = table[(p + 2) | 0]!;
          addressHigh = table[(p + 1) | 0]!;
          addressLow = table[p]!;
          if ((length - 1) >>> 0 >= plainLength) break spansLoop;
          if ((word & INDIRECT) !== 0) {
            if (table !== descriptors || (word & NEXT) !== 0) break spansLoop;
            const offset = (addressLow - tableLow) | 0;
            if (addressHigh !== tableHigh || offset < 0 || offset > ((tableCeiling - length) | 0))
              break chainsLoop;
            if ((length & 15) !== 0 || length > tableBytes || (offset & 3) !== 0) break spansLoop;
            table = words[tableWindow]!;
            base = offset >> 2;
            bound = length >> 4;
            chainEnd = (chainStart + (chainLimit << 2)) | 0;
            if (chainEnd > segmentEnd) chainEnd = segmentEnd;
            index = 0;
            continue;
          }
          const offset = (addressLow - low) | 0;
          if (addressHigh !== high || offset < 0 || offset > ((ceiling - length) | 0)) break chainsLoop;
          if (s >= chainEnd) break spansLoop;
          segments[s] = window;
          segments[(s + 1) | 0] = offset;
          segments[(s + 2) | 0] = length;
          segments[(s + 3) | 0] = word & WRITE;
          s = (s + 4) | 0;
          if ((word & WRITE) !== 0) written = (written + length) | 0;
          else if (written !== 0) break spansLoop;
          else readable = (readable + 1) | 0;
          if ((word & NEXT) === 0) break;
          index = word >>> 16;
          if (index >= bound) break spansLoop;
        }
        const c = row << 2;
        chains[c] = head;
        chains[(c + 1) | 0] = chainStart >> 2;
        chains[(c + 2) | 0] = readable;
        chains[(c + 3) | 0] = ((s - chainStart) >> 2) - readable;
        book[head << 1] = 1;
        book[((head << 1) + 1) | 0] = written;
        chainStart = s;
        row = (row + 1) | 0;
        index = -1;
      }
      const address = (addressHigh >>> 0) * 4294967296 + (addressLow >>> 0);
      let found = 0;
      let top = (spanCount - 1) | 0;
      while (found < top) {
        const middle = (found + top + 1) >> 1;
        if (starts[middle]! <= address) found = middle;
        else top = (middle - 1) | 0;
      }
      moves = (moves + 1) | 0;
      if ((word & INDIRECT) === 0) {
        if (found === span || moves > moveLimit) break;
        span = found;
      } else {
        if (found === tableSpan || moves > moveLimit) break;
        tableSpan = found;
      }
    }
    this.#nextAvailable = (row + ahead) & 0xffff;
    this.segmentRow = chainStart >> 2;
    this.span = span;
    this.tableSpan = tableSpan;
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
    if (this.book[head * 2] !== 0) {
      throw new VirtqueueError(
        'ERR_VIRTQ_HEAD',
        this.index,
        `head ${head} is made available while in flight`,
      );
    }
    if (!this.#takeChain(batch, row, head)) return false;
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    return true;
  }

  protected override takeParked(batch: ChainBatch, row: number): boolean {
    const tracker = this.tracker!;
    if (!this.#takeChain(batch, row, tracker.nextParked)) return false;
    tracker.resume();
    return true;
  }

  protected override track(batch: ChainBatch, rows: number): void {
    this.tracker!.take(batch.chains, rows);
  }

  #takeChain(batch: ChainBatch, row: number, head: number): boolean {
    const chain = new ChainBuilder(this.map, this.index, batch, this.segmentRow, this.translation);
    walkSplitChain(
      {
        descriptors: this.#descriptors,
        size: this.size,
        chainLimit: this.chainLimit,
        indirect: this.#indirect,
      },
      head,
      chain,
    );
    if (!chain.place(row, head)) return false;
    this.enter(head, 1, chain.writableBytes);
    this.segmentRow += chain.segments;
    return true;
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
    fence();
    const wanted = this.#notification.wantsCall(this.#asked, this.#published, count);
    this.#asked = this.#published;
    this.#publishedSinceAsked = 0;
    if (wanted) this.counters.calls++;
    return wanted;
  }

  override enableNotifications(): boolean {
    if (this.broken !== null || this.waiting || this.ringLost()) return false;
    this.#notification.enable(this.#nextAvailable);
    if (this.log !== null) this.#logNotification(this.log);
    return Atomics.load(this.#available, 1) !== this.#nextAvailable || this.parked > 0;
  }

  override disableNotifications(): void {
    if (this.ringLost()) return;
    this.#notification.disable();
    if (this.log !== null && !this.#eventIdx) this.#logNotification(this.log);
  }

  override state(): VirtqueueState {
    return { format: 'split', nextAvailable: this.#nextAvailable, nextUsed: this.#published };
  }
}
