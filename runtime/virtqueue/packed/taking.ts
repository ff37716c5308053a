import type { WindowTable } from '../../platform/platform.js';
import type { ChainBatch } from '../chain-batch.js';
import type { VirtqueueConfiguration } from '../device-virtqueue.js';
import type { PackedInflight } from '../inflight/packed.js';
import { BaseDeviceVirtqueue } from '../base-device-virtqueue.js';
import { ChainBuilder } from '../chain-builder.js';
import * as memoryOrder from '../memory-order.js';
import { walkPackedChain } from './chain-walk.js';
import * as layout from './layout.js';

// Imported bindings cost a load and a check at every use in a hot loop; constants of this module are folded.
const WRITE = layout.WRITE;
const NEXT_WORD = layout.NEXT_WORD;
const INDIRECT_WORD = layout.INDIRECT_WORD;
const LAP_WORD = layout.LAP_WORD;
const PLAIN_LOAD_ACQUIRES = memoryOrder.PLAIN_LOAD_ACQUIRES;
/** `word & LAP_WORD` of what is available while the wrap counter is 1. */
const AVAILABLE = layout.availableWord(1);
/** What tells a chain of one descriptor in this lap from all others. */
const SINGLE_MASK = LAP_WORD | NEXT_WORD | INDIRECT_WORD;
/** Masks for indexes: they change none, but the compiler learns that it is not negative. */
const SLOTS = 0x7fff;
const ROWS = 0x7ff_ffff;

/**
 * The half of a packed virtqueue's device side that takes chains, at the cursor of available ones; see device.ts for
 * both and for the ring.
 */
export abstract class PackedTaking extends BaseDeviceVirtqueue {
  protected abstract override readonly tracker: PackedInflight | null;
  protected descriptors!: Int32Array;
  protected nextAvailable = 0;
  protected availableWrap: 0 | 1 = 1;
  /** Ring slots of all chains in flight. */
  protected slotsInFlight = 0;
  /** With a tracker: the slot up to which it knows the chains. */
  protected trackedSlot = 0;
  readonly #indirect: boolean;

  constructor(configuration: VirtqueueConfiguration, windows: WindowTable) {
    super(configuration, windows);
    this.#indirect = configuration.indirect;
  }

  override hasAvailable(): boolean {
    if (this.broken !== null || this.waiting) return false;
    return (this.#peek() || this.parked > 0) && !this.ringLost();
  }

  /** Whether the head at the cursor looks available; orders nothing. */
  #peek(): boolean {
    const word = this.descriptors[((this.nextAvailable << 2) + 3) | 0]! | 0;
    return (word & LAP_WORD) === (this.availableWrap === 1 ? AVAILABLE : AVAILABLE ^ LAP_WORD);
  }

  /** The same with acquire: what the head announces may be read after it. */
  protected headIsAvailable(): boolean {
    const word = Atomics.load(this.descriptors, this.nextAvailable * 4 + 3);
    return (word & LAP_WORD) === (this.availableWrap === 1 ? AVAILABLE : AVAILABLE ^ LAP_WORD);
  }

  protected override available(limit: number): number {
    return this.#peek() ? limit : 0;
  }

  protected override takePlain(batch: ChainBatch, row: number, end: number): number {
    // A guess; both loops look for themselves.
    const word = this.descriptors[((this.nextAvailable << 2) + 3) | 0]!;
    if ((word & (NEXT_WORD | INDIRECT_WORD)) !== 0) return this.#takeChains(batch, row, end);
    const taken = this.#takeSingles(batch, row, end);
    return taken === end ? end : this.#takeChains(batch, taken, end);
  }

  /** The hot loop for chains of one descriptor in the ring; it stops in front of the first other one. */
  #takeSingles(batch: ChainBatch, fromRow: number, toRow: number): number {
    const descriptors = this.descriptors;
    const book = this.book;
    const { chains, segments } = batch;
    const { starts, spans, count: spanCount } = this.map;
    if (spanCount === 0) return fromRow;
    const size = this.size | 0;
    const plainLength = this.plainLength | 0;
    const from = fromRow | 0;
    let head = this.nextAvailable | 0;
    let headLap = this.availableWrap === 1 ? AVAILABLE : AVAILABLE ^ LAP_WORD;
    let segment = this.segmentRow | 0;
    // One slot, one row and one segment each.
    const ahead = (segment - from) | 0;
    let end = toRow | 0;
    const free = (size - this.slotsInFlight) | 0;
    if (((end - from) | 0) > free) end = (from + free) | 0;
    const room = (batch.segmentCapacity - ahead) | 0;
    if (end > room) end = room;
    let row = from;
    let span = this.span | 0;
    let moves = 0;
    spansLoop: for (;;) {
      const high = spans[span << 2]!;
      const low = spans[((span << 2) + 1) | 0]!;
      const ceiling = spans[((span << 2) + 2) | 0]!;
      const window = spans[((span << 2) + 3) | 0]!;
      let addressHigh = 0;
      let addressLow = 0;
      for (;;) {
        if (row >= end) break spansLoop;
        const p = (head & SLOTS) << 2;
        const word = PLAIN_LOAD_ACQUIRES ? descriptors[p + 3]! : Atomics.load(descriptors, p + 3);
        if ((word & SINGLE_MASK) !== headLap) break spansLoop;
        const length = descriptors[p + 2]!;
        addressHigh = descriptors[p + 1]!;
        addressLow = descriptors[p]!;
        const id = word & 0xffff;
        if ((length - 1) >>> 0 >= plainLength || id >= size) break spansLoop;
        const offset = (addressLow - low) | 0;
        if (addressHigh !== high || offset < 0 || offset > ((ceiling - length) | 0)) break;
        const b = (id & SLOTS) << 1;
        if (book[b] !== 0) break spansLoop;
        const write = (word >>> 16) & WRITE;
        const writable = write >> 1;
        segment = (row + ahead) & ROWS;
        const to = segment << 2;
        segments[to] = window;
        segments[to + 1] = offset;
        segments[to + 2] = length;
        segments[to + 3] = write;
        const c = (row & ROWS) << 2;
        chains[c] = id;
        chains[c + 1] = segment;
        chains[c + 2] = writable ^ 1;
        chains[c + 3] = writable;
        book[b] = 1;
        book[b + 1] = -writable & length;
        row = (row + 1) | 0;
        head = (head + 1) | 0;
        if (head === size) {
          head = 0;
          headLap ^= LAP_WORD;
        }
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
      if (found === span || moves > toRow) break;
      span = found;
    }
    this.nextAvailable = head;
    this.availableWrap = headLap === AVAILABLE ? 1 : 0;
    this.slotsInFlight = (this.slotsInFlight + row - from) | 0;
    this.segmentRow = (row + ahead) | 0;
    this.span = span;
    return row;
  }

  /**
   * The hot loop, as in the split ring: one loop for ring and indirect tables, no calls, int32 arithmetic only, flags and
   * id fetched as one word. The head's word comes first and is branched on before anything it announces is read.
   */
  #takeChains(batch: ChainBatch, fromRow: number, toRow: number): number {
    let row = fromRow | 0;
    const end = toRow | 0;
    const size = this.size | 0;
    const descriptors = this.descriptors;
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

    let head = this.nextAvailable | 0;
    let headLap = this.availableWrap === 1 ? AVAILABLE : AVAILABLE ^ LAP_WORD;
    let free = (size - this.slotsInFlight) | 0;
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
          word = PLAIN_LOAD_ACQUIRES ? descriptors[(p + 3) | 0]! : Atomics.load(descriptors, (p + 3) | 0);
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
    this.nextAvailable = head;
    this.availableWrap = headLap === AVAILABLE ? 1 : 0;
    this.slotsInFlight = size - free;
    this.segmentRow = chainStart >> 2;
    this.span = span;
    this.tableSpan = tableSpan;
    return row;
  }

  protected override takeThoroughly(batch: ChainBatch, row: number): boolean {
    if (!this.#peek() || !this.headIsAvailable()) return false;
    const { size } = this;
    const head = this.nextAvailable;
    const freeSlots = size - this.slotsInFlight;
    const source = {
      descriptors: this.descriptors,
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
    this.slotsInFlight += slots;
    this.segmentRow += chain.segments;
    this.advance(slots);
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
    this.trackedSlot = this.tracker!.take(batch.chains, rows, this.book, this.trackedSlot, this.descriptors);
  }

  /** Moves the available cursor. */
  protected advance(slots: number): void {
    this.nextAvailable += slots;
    if (this.nextAvailable >= this.size) {
      this.nextAvailable -= this.size;
      this.availableWrap = this.availableWrap === 1 ? 0 : 1;
    }
  }
}
