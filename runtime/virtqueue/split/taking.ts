import type { WindowTable } from '../../platform/platform.js';
import type { ChainBatch } from '../chain-batch.js';
import type { VirtqueueConfiguration } from '../device-virtqueue.js';
import type { SplitInflight } from '../inflight/split.js';
import { VirtqueueError } from '../../errors.js';
import { BaseDeviceVirtqueue } from '../base-device-virtqueue.js';
import { ChainBuilder } from '../chain-builder.js';
import * as memoryOrder from '../memory-order.js';
import { walkSplitChain } from './chain-walk.js';
import * as layout from './layout.js';

// Imported bindings cost a load and a check at every use in a hot loop; constants of this module are folded.
const NEXT = layout.NEXT;
const WRITE = layout.WRITE;
const INDIRECT = layout.INDIRECT;
const PLAIN_LOAD_ACQUIRES = memoryOrder.PLAIN_LOAD_ACQUIRES;
/** A chain of one descriptor in the table has neither. */
const LINKS = NEXT | INDIRECT;
/** Masks for indexes: they change none, but the compiler learns that it is not negative. */
const SLOTS = 0x7fff;
const ROWS = 0x7ff_ffff;

/**
 * The half of a split virtqueue's device side that takes chains, at the available index; see device.ts for both and for
 * the rings.
 */
export abstract class SplitTaking extends BaseDeviceVirtqueue {
  protected abstract override readonly tracker: SplitInflight | null;
  protected descriptors!: Int32Array;
  protected availableRing!: Uint16Array;
  protected nextAvailable = 0;
  readonly #indirect: boolean;

  constructor(configuration: VirtqueueConfiguration, windows: WindowTable) {
    super(configuration, windows);
    this.#indirect = configuration.indirect;
  }

  override hasAvailable(): boolean {
    if (this.broken !== null || this.waiting) return false;
    return (this.availableRing[1] !== this.nextAvailable || this.parked > 0) && !this.ringLost();
  }

  protected override available(limit: number): number {
    const index = PLAIN_LOAD_ACQUIRES ? this.availableRing[1]! : Atomics.load(this.availableRing, 1);
    const count = (index - this.nextAvailable) & 0xffff;
    if (count > this.size - this.chainsInFlight) {
      throw new VirtqueueError(
        'ERR_VIRTQ_AVAILABLE_INDEX',
        this.index,
        `available index went from ${this.nextAvailable} to ${index} with ${this.chainsInFlight} chains in flight; ` +
          `the ring holds ${this.size}`,
      );
    }
    return count < limit ? count : limit;
  }

  protected override takePlain(batch: ChainBatch, row: number, end: number): number {
    // A guess; both loops look for themselves.
    const mask = (this.size - 1) | 0;
    const head = this.availableRing[((this.nextAvailable & mask) + 2) | 0]! & mask;
    const word = this.descriptors[((head << 2) + 3) | 0]!;
    if ((word & LINKS) !== 0) return this.#takeChains(batch, row, end);
    const taken = this.#takeSingles(batch, row, end);
    return taken === end ? end : this.#takeChains(batch, taken, end);
  }

  /** The hot loop for chains of one descriptor in the table; it stops in front of the first other one. */
  #takeSingles(batch: ChainBatch, fromRow: number, toRow: number): number {
    const available = this.availableRing;
    const descriptors = this.descriptors;
    const book = this.book;
    const { chains, segments } = batch;
    const { starts, spans, count: spanCount } = this.map;
    if (spanCount === 0) return fromRow;
    const size = this.size | 0;
    const mask = (size - 1) & SLOTS;
    const plainLength = this.plainLength | 0;
    let row = fromRow | 0;
    // Row, ring position and segment move together.
    const ahead = (this.nextAvailable - row) | 0;
    const segmentsAhead = (this.segmentRow - row) | 0;
    const room = (batch.segmentCapacity - segmentsAhead) | 0;
    let end = toRow | 0;
    if (end > room) end = room;
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
        const head = available[((row + ahead) & mask) + 2]!;
        if (head >= size) break spansLoop;
        const p = (head & SLOTS) << 2;
        const word = descriptors[p + 3]!;
        const length = descriptors[p + 2]!;
        addressHigh = descriptors[p + 1]!;
        addressLow = descriptors[p]!;
        if ((word & LINKS) !== 0 || (length - 1) >>> 0 >= plainLength) break spansLoop;
        const offset = (addressLow - low) | 0;
        if (addressHigh !== high || offset < 0 || offset > ((ceiling - length) | 0)) break;
        const b = (head & SLOTS) << 1;
        if (book[b] !== 0) break spansLoop;
        const writable = (word & WRITE) >> 1;
        const segment = (row + segmentsAhead) & ROWS;
        const to = segment << 2;
        segments[to] = window;
        segments[to + 1] = offset;
        segments[to + 2] = length;
        segments[to + 3] = word & WRITE;
        const c = (row & ROWS) << 2;
        chains[c] = head;
        chains[c + 1] = segment;
        chains[c + 2] = writable ^ 1;
        chains[c + 3] = writable;
        book[b] = 1;
        book[b + 1] = -writable & length;
        row = (row + 1) | 0;
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
    this.nextAvailable = (row + ahead) & 0xffff;
    this.segmentRow = (row + segmentsAhead) | 0;
    this.span = span;
    return row;
  }

  /**
   * The hot loop. One loop for direct descriptors and indirect tables: `table`, `base` and `bound` say where it reads.
   * No calls in it, int32 arithmetic only, flags and next fetched as one word; anything unusual ends it, with
   * nothing of the unusual chain kept.
   */
  #takeChains(batch: ChainBatch, fromRow: number, toRow: number): number {
    let row = fromRow | 0;
    const end = toRow | 0;
    const size = this.size | 0;
    const mask = (size - 1) | 0;
    const available = this.availableRing;
    const descriptors = this.descriptors;
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
    const ahead = (this.nextAvailable - row) | 0;
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
    this.nextAvailable = (row + ahead) & 0xffff;
    this.segmentRow = chainStart >> 2;
    this.span = span;
    this.tableSpan = tableSpan;
    return row;
  }

  protected override takeThoroughly(batch: ChainBatch, row: number): boolean {
    const head = this.availableRing[(this.nextAvailable & (this.size - 1)) + 2]!;
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
    this.nextAvailable = (this.nextAvailable + 1) & 0xffff;
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
        descriptors: this.descriptors,
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
}
