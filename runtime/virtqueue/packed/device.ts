import type { WindowTable } from '../../platform/platform.js';
import type { ChainBatch } from '../chain-batch.js';
import type { VirtqueueAreas, VirtqueueConfiguration, VirtqueueState } from '../device-virtqueue.js';
import { BaseDeviceVirtqueue } from '../base-device-virtqueue.js';
import { ChainBuilder } from '../chain-builder.js';
import { PackedInflight } from '../inflight/packed.js';
import { InflightArea } from '../inflight/region.js';
import { fence, PLAIN_LOAD_ACQUIRES, PLAIN_STORE_RELEASES } from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import { walkPackedChain } from './chain-walk.js';
import * as layout from './layout.js';
import { availableWord, usedFlags } from './layout.js';
import type { ChainLog } from '../virtqueue-log.js';
import { PackedNotification } from './notification.js';

// Imported bindings cost a load and a check at every use in a hot loop; constants of this module are folded.
const WRITE = layout.WRITE;
const NEXT_WORD = layout.NEXT_WORD;
const INDIRECT_WORD = layout.INDIRECT_WORD;
const WRITE_WORD = layout.WRITE << 16;
const LAP_WORD = layout.LAP_WORD;
/** Bytes of a descriptor and of an event suppression area. */
const DESCRIPTOR = 16;
const EVENT_SUPPRESSION = 4;
const X64 = PLAIN_LOAD_ACQUIRES;

/**
 * The device's side of a packed virtqueue (virtio 1.4, 2.8).
 *
 *   descriptor ring, i32, stride 4     addr low | addr high | len | id | flags << 16
 *                    u16, stride 8     …                          6 id | 7 flags
 *
 * Two cursors go round the ring, each with a wrap counter that flips at the ring's end. Available chains are taken at
 * the first; used ones are written at the second, one element for the whole chain, which then skips the chain's slots.
 * Chains completed out of order make the second write over slots of other chains, which the driver expects.
 *
 *   slot     0     1     2     3     4     5     6     7        size 8, any size from 1 to 32768
 *            | used                | in flight       | free or available
 *                  last lap's here ^ nextUsed        ^ nextAvailable
 */
export class PackedDeviceVirtqueue extends BaseDeviceVirtqueue {
  readonly format = 'packed';
  protected override readonly tracker: PackedInflight | null;
  readonly #eventIdx: boolean;
  readonly #indirect: boolean;
  #descriptors!: Int32Array;
  #halves!: Uint16Array;
  #notification!: PackedNotification;
  #nextAvailable: number;
  #availableWrap: 0 | 1;
  #nextUsed: number;
  #usedWrap: 0 | 1;
  /** Ring slots of all chains in flight. */
  #slotsInFlight = 0;
  /** The used cursor as the driver sees it; the flags of the element there are what `publish` writes. */
  #published: number;
  #publishedWrap: 0 | 1;
  #unpublishedSlots = 0;
  #unpublishedFlags = 0;
  /** The used cursor when `needsCall` was last asked, and how many slots were published since. */
  #asked: number;
  #slotsSinceAsked = 0;
  /** With a tracker: the slot up to which it knows the chains. */
  #tracked = 0;

  constructor(
    configuration: VirtqueueConfiguration,
    state: VirtqueueState & { format: 'packed' },
    windows: WindowTable,
  ) {
    super(configuration, windows);
    this.#eventIdx = configuration.eventIdx;
    this.#indirect = configuration.indirect;
    this.#nextAvailable = state.nextAvailable;
    this.#availableWrap = state.availableWrap;
    this.#nextUsed = this.#published = this.#asked = state.nextUsed;
    this.#usedWrap = this.#publishedWrap = state.usedWrap;
    this.bind(configuration.memory, configuration.areas);
    this.tracker = this.#openRegion(configuration);
    this.#tracked = this.#nextAvailable;
  }

  /** Puts the cursors where the region says. A base with chains in flight that the region knows nothing of stays as it is. */
  #openRegion({ inflight }: VirtqueueConfiguration): PackedInflight | null {
    if (inflight === undefined) return null;
    const { size, index } = this;
    const area = new InflightArea(this.windows, inflight, 'packed', size, index);
    const ring = { queue: index, size, descriptors: this.#descriptors, halves: this.#halves };
    const base = { used: this.#nextUsed, wrap: this.#usedWrap };
    const tracker = new PackedInflight(area, ring, base);
    const { position, slotsParked } = tracker;
    if (position === base) return tracker;
    this.#nextUsed = this.#published = this.#asked = position.used;
    this.#usedWrap = this.#publishedWrap = position.wrap;
    this.#nextAvailable = position.used;
    this.#availableWrap = position.wrap;
    this.#advance(slotsParked);
    this.#slotsInFlight = slotsParked;
    return tracker;
  }

  protected override bindAreas(areas: VirtqueueAreas): readonly RingArea[] {
    const { size, windows, index } = this;
    const descriptor = new RingArea(windows, areas.descriptor, 16 * size, 16, 'descriptor ring', index);
    const driver = new RingArea(windows, areas.driver, 4, 4, 'driver event suppression', index);
    const device = new RingArea(windows, areas.device, 4, 4, 'device event suppression', index);
    this.#descriptors = descriptor.i32();
    this.#halves = descriptor.u16();
    this.#notification = new PackedNotification(
      driver.i32(),
      device.i32(),
      device.u16(),
      size,
      this.#eventIdx,
    );
    return [descriptor, driver, device];
  }

  override hasAvailable(): boolean {
    if (this.broken !== null || this.waiting) return false;
    return (this.#peek() || this.parked > 0) && !this.ringLost();
  }

  /** Whether the head at the cursor looks available; orders nothing. */
  #peek(): boolean {
    const word = this.#descriptors[((this.#nextAvailable << 2) + 3) | 0]! | 0;
    return (word & LAP_WORD) === availableWord(this.#availableWrap);
  }

  /** The same with acquire: what the head announces may be read after it. */
  #headIsAvailable(): boolean {
    const word = Atomics.load(this.#descriptors, this.#nextAvailable * 4 + 3);
    return (word & LAP_WORD) === availableWord(this.#availableWrap);
  }

  protected override available(limit: number): number {
    return this.#peek() ? limit : 0;
  }

  /**
   * The hot loop, as in the split ring: one loop for ring and indirect tables, no calls, int32 arithmetic only, flags and
   * id fetched as one word. The head's word comes first and is branched on before anything it announces is read.
   */
  protected override takePlain(batch: ChainBatch, fromRow: number, toRow: number): number {
    let row = fromRow | 0;
    const end = toRow | 0;
    const size = this.size | 0;
    const descriptors = this.#descriptors;
    const book = this.book;
    const chains = batch.chains;
    const segments = batch.segments;
    const segmentEnd = batch.segmentCapacity << 2;
    const plainLength = this.plainLength | 0;
    const tableBytes = this.#indirect ? this.chainLimit << 4 : 0;
    const ringEnd = size << 2;

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

    let head = this.#nextAvailable | 0;
    let headLap = availableWord(this.#availableWrap) | 0;
    let free = (size - this.#slotsInFlight) | 0;
    let s = this.segmentRow << 2;
    let chainStart = s;
    let chainEnd = s;
    let table = descriptors;
    // Where the next descriptor lies in `table`, in words; -1 before a chain's head.
    let p = -1;
    // Where an indirect table ends.
    let stop = 0;
    let id = 0;
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
        if (p < 0) {
          if (row >= end) break spansLoop;
          p = head << 2;
          word = X64 ? descriptors[(p + 3) | 0]! : Atomics.load(descriptors, (p + 3) | 0);
          if ((word & LAP_WORD) !== headLap) break spansLoop;
          // Every descriptor of a plain chain makes one segment, so this bounds the walk as well.
          chainEnd = (s + (free << 2)) | 0;
          if (chainEnd > segmentEnd) chainEnd = segmentEnd;
          table = descriptors;
          readable = 0;
          written = 0;
        }
        for (;;) {
          word = table[(p + 3) | 0]!;
          const length = table[(p + 2) | 0]!;
          addressHigh = table[(p + 1) | 0]!;
          addressLow = table[p]!;
          if ((length - 1) >>> 0 >= plainLength) break spansLoop;
          if ((word & INDIRECT_WORD) !== 0) {
            if (s !== chainStart || table !== descriptors || (word & NEXT_WORD) !== 0 || free === 0)
              break spansLoop;
            const offset = (addressLow - tableLow) | 0;
            if (addressHigh !== tableHigh || offset < 0 || offset > ((tableCeiling - length) | 0))
              break chainsLoop;
            if ((length & 15) !== 0 || length > tableBytes || (offset & 3) !== 0) break spansLoop;
            id = word & 0xffff;
            chainEnd = segmentEnd;
            table = words[tableWindow]!;
            p = offset >> 2;
            stop = (p + (length >> 2)) | 0;
            continue;
          }
          const offset = (addressLow - low) | 0;
          if (addressHigh !== high || offset < 0 || offset > ((ceiling - length) | 0)) break chainsLoop;
          if (s >= chainEnd) break spansLoop;
          const write = (word >>> 16) & WRITE;
          segments[s] = window;
          segments[(s + 1) | 0] = offset;
          segments[(s + 2) | 0] = length;
          segments[(s + 3) | 0] = write;
          s = (s + 4) | 0;
          if (write !== 0) written = (written + length) | 0;
          else if (written !== 0) break spansLoop;
          else readable = (readable + 1) | 0;
          p = (p + 4) | 0;
          if (table !== descriptors) {
            if (p === stop) break;
          } else if ((word & NEXT_WORD) !== 0) {
            if (p === ringEnd) p = 0;
          } else {
            id = word & 0xffff;
            break;
          }
        }
        if (id >= size || book[id << 1] !== 0) break spansLoop;
        const count = (s - chainStart) >> 2;
        const taken = table === descriptors ? count : 1;
        const c = row << 2;
        chains[c] = id;
        chains[(c + 1) | 0] = chainStart >> 2;
        chains[(c + 2) | 0] = readable;
        chains[(c + 3) | 0] = (count - readable) | 0;
        book[id << 1] = taken;
        book[((id << 1) + 1) | 0] = written;
        chainStart = s;
        row = (row + 1) | 0;
        free = (free - taken) | 0;
        head = (head + taken) | 0;
        if (head >= size) {
          head = (head - size) | 0;
          headLap ^= LAP_WORD;
        }
        p = -1;
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
      if ((word & INDIRECT_WORD) === 0) {
        if (found === span || moves > moveLimit) break;
        span = found;
      } else {
        if (found === tableSpan || moves > moveLimit) break;
        tableSpan = found;
      }
    }
    this.#nextAvailable = head;
    this.#availableWrap = headLap === availableWord(1) ? 1 : 0;
    this.#slotsInFlight = size - free;
    this.segmentRow = chainStart >> 2;
    this.span = span;
    this.tableSpan = tableSpan;
    return row;
  }

  protected override takeThoroughly(batch: ChainBatch, row: number): boolean {
    if (!this.#peek() || !this.#headIsAvailable()) return false;
    const { size } = this;
    const head = this.#nextAvailable;
    const freeSlots = size - this.#slotsInFlight;
    const source = {
      descriptors: this.#descriptors,
      size,
      chainLimit: this.chainLimit,
      freeSlots,
      indirect: this.#indirect,
    };
    const chain = new ChainBuilder(this.map, this.index, batch, this.segmentRow, this.translation);
    const { id, slots } = walkPackedChain(source, head, chain);
    if (id >= size) {
      throw chain.error('ERR_VIRTQ_HEAD', `buffer id ${id} in slot ${head}, the ring has ${size}`);
    }
    if (this.book[id * 2] !== 0) {
      throw chain.error('ERR_VIRTQ_HEAD', `buffer id ${id} is made available while in flight`);
    }
    if (!chain.place(row, id)) return false;
    this.enter(id, slots, chain.writableBytes);
    this.#slotsInFlight += slots;
    this.segmentRow += chain.segments;
    this.#advance(slots);
    return true;
  }

  protected override takeParked(batch: ChainBatch, row: number): boolean {
    const tracker = this.tracker!;
    const { descriptors, slots } = tracker.nextParked;
    const { size } = this;
    // The copies make a ring of their own, which the chain has to fill.
    const source = {
      descriptors,
      size: slots,
      chainLimit: this.chainLimit,
      freeSlots: slots,
      indirect: this.#indirect,
    };
    const chain = new ChainBuilder(this.map, this.index, batch, this.segmentRow, this.translation);
    const { id, slots: walked } = walkPackedChain(source, 0, chain);
    if (walked !== slots) {
      throw chain.error('ERR_VIRTQ_CHAIN', `a chain of ${slots} slots in flight ends after ${walked}`);
    }
    if (id >= size) throw chain.error('ERR_VIRTQ_HEAD', `buffer id ${id} in flight, the ring has ${size}`);
    if (this.book[id * 2] !== 0) throw chain.error('ERR_VIRTQ_HEAD', `buffer id ${id} is in flight twice`);
    if (!chain.place(row, id)) return false;
    this.enter(id, slots, chain.writableBytes);
    this.segmentRow += chain.segments;
    tracker.resume(id);
    return true;
  }

  protected override track(batch: ChainBatch, rows: number): void {
    this.#tracked = this.tracker!.take(batch.chains, rows, this.book, this.#tracked, this.#descriptors);
  }

  /** Moves the available cursor. */
  #advance(slots: number): void {
    this.#nextAvailable += slots;
    if (this.#nextAvailable >= this.size) {
      this.#nextAvailable -= this.size;
      this.#availableWrap = this.#availableWrap === 1 ? 0 : 1;
    }
  }

  /**
   * Elements behind the first unpublished one get their flags at once: the driver looks at them only after it saw the
   * first one's, which `publish` stores last, also when the batch crosses the ring's end (2.8.21).
   */
  protected override useRows(batch: ChainBatch, rows: number): number {
    const count = rows | 0;
    const size = this.size | 0;
    const book = this.book;
    const descriptors = this.#descriptors;
    const chains = batch.chains;
    const written = batch.written;
    let next = this.#nextUsed | 0;
    let lapWord = usedFlags(this.#usedWrap) << 16;
    let unpublished = this.#unpublishedSlots | 0;
    const before = unpublished;
    let row = 0;
    for (; row < count; row = (row + 1) | 0) {
      const id = chains[row << 2]!;
      const bytes = written[row]!;
      if (id >>> 0 >= size) break;
      const taken = book[id << 1]!;
      if (taken === 0 || bytes > book[((id << 1) + 1) | 0]! >>> 0) break;
      book[id << 1] = 0;
      const word = id | (bytes === 0 ? lapWord : lapWord | WRITE_WORD);
      const p = next << 2;
      descriptors[(p + 2) | 0] = bytes;
      if (unpublished === 0) {
        this.#halves[((next << 3) + 6) | 0] = id;
        this.#unpublishedFlags = word >>> 16;
      } else {
        descriptors[(p + 3) | 0] = word;
      }
      unpublished = (unpublished + taken) | 0;
      next = (next + taken) | 0;
      if (next >= size) {
        next = (next - size) | 0;
        lapWord ^= LAP_WORD;
      }
    }
    this.#nextUsed = next;
    this.#usedWrap = lapWord === 0 ? 0 : 1;
    this.#unpublishedSlots = unpublished;
    this.#slotsInFlight -= unpublished - before;
    return row;
  }

  protected override use(id: number, written: number): void {
    const taken = this.book[id * 2]!;
    const next = this.#nextUsed;
    const flags = usedFlags(this.#usedWrap) | (written === 0 ? 0 : WRITE);
    this.#descriptors[next * 4 + 2] = written;
    if (this.#unpublishedSlots === 0) {
      this.#halves[next * 8 + 6] = id;
      this.#unpublishedFlags = flags;
    } else {
      this.#descriptors[next * 4 + 3] = id | (flags << 16);
    }
    this.book[id * 2] = 0;
    this.#slotsInFlight -= taken;
    this.#unpublishedSlots += taken;
    this.#nextUsed = next + taken;
    if (this.#nextUsed >= this.size) {
      this.#nextUsed -= this.size;
      this.#usedWrap = this.#usedWrap === 1 ? 0 : 1;
    }
  }

  override publish(): void {
    const slots = this.#unpublishedSlots;
    // Views of memory that was unmapped are empty.
    if (slots === 0 || this.#halves.length === 0 || (this.log !== null && this.broken !== null)) return;
    const { tracker } = this;
    if (tracker !== null) tracker.beforePublish(this.#nextUsed, this.#usedWrap);
    const flags = this.#published * 8 + 7;
    if (PLAIN_STORE_RELEASES) this.#halves[flags] = this.#unpublishedFlags;
    else Atomics.store(this.#halves, flags, this.#unpublishedFlags);
    if (tracker !== null) tracker.afterPublish(this.#nextUsed, this.#usedWrap);
    if (this.log !== null) this.#logPublished(this.log, slots);
    this.#published = this.#nextUsed;
    this.#publishedWrap = this.#usedWrap;
    this.#unpublishedSlots = 0;
    this.#slotsSinceAsked += slots;
    this.counters.publishes++;
  }

  /** `slots` descriptors from `#published` on; only the first of each chain was written, but they share pages. */
  #logPublished(log: ChainLog, slots: number): void {
    log.markSlots('descriptor', 0, DESCRIPTOR, this.size, this.#published, slots);
    this.checkLog(log);
  }

  #logNotification(log: ChainLog): void {
    log.markDevice(0, EVENT_SUPPRESSION);
    this.checkLog(log);
  }

  override needsCall(): boolean {
    const slots = this.#slotsSinceAsked;
    if (slots === 0 || this.ringLost()) return false;
    fence();
    const wanted = this.#notification.wantsCall(this.#asked, this.#published, this.#publishedWrap, slots);
    this.#asked = this.#published;
    this.#slotsSinceAsked = 0;
    if (wanted) this.counters.calls++;
    return wanted;
  }

  override enableNotifications(): boolean {
    if (this.broken !== null || this.waiting || this.ringLost()) return false;
    this.#notification.enable(this.#nextAvailable, this.#availableWrap);
    if (this.log !== null) this.#logNotification(this.log);
    return this.#headIsAvailable() || this.parked > 0;
  }

  override disableNotifications(): void {
    if (this.ringLost()) return;
    this.#notification.disable();
    if (this.log !== null) this.#logNotification(this.log);
  }

  override state(): VirtqueueState {
    return {
      format: 'packed',
      nextAvailable: this.#nextAvailable,
      availableWrap: this.#availableWrap,
      nextUsed: this.#published,
      usedWrap: this.#publishedWrap,
    };
  }
}
