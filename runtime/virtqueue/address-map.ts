import type { TranslatedRun } from '../memory/iotlb.js';
import type { VirtqueueMemory } from './device-virtqueue.js';
import type { WindowTable } from '../platform/platform.js';
import { Access } from '../memory/iotlb.js';
import { SEGMENT_MAX, WINDOW_STRIDE } from '../platform/platform.js';

const HIGH = 0x1_0000_0000;

/**
 * Guest memory as the rings' hot loops search it: flat tables of spans, sorted by guest address, built once when a ring
 * is bound. A span is the part of one window that lies in one 4 GiB page of guest addresses, so that an address can be
 * tested with int32 arithmetic alone, straight from the two words of a descriptor:
 *
 *   spans    Int32, stride 4:  high word | low word | ceiling | window
 *
 *   offset = low - span.low | 0
 *   inside = high === span.high && offset >= 0 && offset <= span.ceiling - length            (0 < length <= SEGMENT_MAX)
 *
 *   The low word is that of the *window's* first byte, hence `offset` is the offset in the window. The ceiling is the
 *   largest end offset of a range that starts in the span.
 *   Inside one 4 GiB page low and offset determine each other, so the test is exact although the subtraction wraps.
 *   A span that does not start where its window starts (1 below) has ceiling 0 and never passes. That takes a region that
 *   lies across a 4 GiB boundary and is not aligned to windows, which the usual machines do not have.
 *
 *   region     |-----------------------------------------------------------------|
 *   window k   |=========stride=========|------overlap------|                    .
 *   window k+1                          |=========stride=========|------overlap--|
 *   spans      |-----------0------------|----1----|-----------2------------------|
 *                                                 ^ a 4 GiB boundary of guest addresses
 *
 * A span whose window was not shown yet has ceiling 0 as well. The thorough walk shows it and opens the span, so lazily
 * mapped memory costs the hot loops nothing and a window that no chain lies in is never shown.
 *
 * A range that starts in span i and crosses a 4 GiB boundary, a window's reach or a region's end fails the test and is
 * taken by the thorough walk, which cuts it into pieces.
 *
 * Behind an IOMMU the map is made from its translations instead of from regions (`ofTranslations`): addresses are I/O virtual
 * ones, each span has a permission, and an address without a span may get one later.
 */
export class AddressMap {
  /** Made from the translations of an IOMMU, which may lack some: an address that is not here is asked for. */
  readonly translated: boolean;
  readonly count: number;
  /** What each span allows; see `Access`. */
  readonly permissions: Uint8Array;
  /** First guest address of each span; ascending. Integers below 2^53. */
  readonly starts: Float64Array;
  /** End (exclusive) of each span, where another span, a hole or the end of memory follows. */
  readonly ends: Float64Array;
  readonly spans: Int32Array;
  /** By window index: the window as words, for indirect tables. Windows of others, and of no open span, are empty. */
  readonly words: readonly Int32Array[];
  readonly #table: WindowTable;
  readonly #words: Int32Array[];
  readonly #floors: Float64Array;
  readonly #reaches: Float64Array;
  /** Each span's window as bytes; undefined until the span is open. */
  readonly #bytes: (Uint8Array | undefined)[];

  /** The map of guest addresses. */
  static ofMemory(memory: VirtqueueMemory, table: WindowTable): AddressMap {
    const spans: Span[] = [];
    for (let region = 0; region < memory.count; region++) {
      addRun(spans, {
        start: memory.starts[region]!,
        end: memory.ends[region]!,
        window: memory.firstWindows[region]!,
        offset: 0,
        permission: Access.readWrite,
      });
    }
    spans.sort((a, b) => a.start - b.start);
    return new AddressMap(spans, table, false);
  }

  /** The map of I/O virtual addresses; the runs ascend. */
  static ofTranslations(runs: readonly TranslatedRun[], table: WindowTable): AddressMap {
    const spans: Span[] = [];
    for (const run of runs) addRun(spans, run);
    return new AddressMap(spans, table, true);
  }

  private constructor(spans: readonly Span[], table: WindowTable, translated: boolean) {
    this.translated = translated;
    this.permissions = Uint8Array.from(spans, (span) => span.permission);
    this.count = spans.length;
    this.starts = Float64Array.from(spans, (span) => span.start);
    this.ends = Float64Array.from(spans, (span) => span.end);
    this.#floors = Float64Array.from(spans, (span) => span.start - span.windowStart);
    this.#reaches = Float64Array.from(spans, (span) => span.reach - span.windowStart);
    this.spans = Int32Array.from(
      spans.flatMap(({ start, windowStart, window }) => [
        Math.floor(start / HIGH),
        windowStart % HIGH,
        0,
        window,
      ]),
    );
    this.#table = table;
    this.#bytes = Array.from(spans, () => undefined);
    const none: Int32Array = new Int32Array(0);
    const windows = spans.reduce((most, { window }) => Math.max(most, window + 1), 0);
    this.#words = Array.from({ length: windows }, () => none);
    this.words = this.#words;
    for (const [i, { window }] of spans.entries()) if (table.u8[window]!.length > 0) this.open(i);
  }

  /** Shows the window of `span` and lets the hot loops into it; nothing when that was done before. */
  open(span: number): void {
    if (this.#bytes[span] !== undefined) return;
    const window = this.window(span);
    this.#table.show(window);
    const bytes = this.#table.u8[window]!;
    this.#bytes[span] = bytes;
    this.#words[window] = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2);
    if (this.#floors[span] === 0 && this.permissions[span] === Access.readWrite)
      this.spans[span * 4 + 2] = this.#reaches[span]!;
  }

  /** Index of the span that holds `address`, -1 when none does. */
  find(address: number): number {
    let low = 0;
    let high = this.count - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle]! <= address) low = middle;
      else high = middle - 1;
    }
    return address >= this.starts[low]! && address < this.ends[low]! ? low : -1;
  }

  /** Index of the window that holds `span`. */
  window(span: number): number {
    return this.spans[span * 4 + 3]!;
  }

  /** Offset of `address` in the window of `span`, which holds it. */
  offset(span: number, address: number): number {
    return address - this.starts[span]! + this.#floors[span]!;
  }

  /** How many bytes from `address` on are contiguous in the window of `span`: at least one, at most SEGMENT_MAX. */
  contiguous(span: number, address: number): number {
    const toReach = this.#reaches[span]! - this.offset(span, address);
    return Math.min(toReach, SEGMENT_MAX);
  }

  /**
   * Copies `length` bytes from `address` into `target` from its start; the range may cross windows and regions. Returns how
   * many it copied: fewer when the byte behind them lies nowhere, or may not be read.
   */
  copyOut(address: number, length: number, target: Uint8Array): number {
    for (let done = 0; done < length;) {
      const span = this.find(address + done);
      if (span < 0 || (this.permissions[span]! & Access.read) === 0) return done;
      const offset = this.offset(span, address + done);
      const piece = Math.min(length - done, this.contiguous(span, address + done));
      this.open(span);
      target.set(this.#bytes[span]!.subarray(offset, offset + piece), done);
      done += piece;
    }
    return length;
  }
}

interface Span {
  readonly start: number;
  readonly end: number;
  readonly reach: number;
  readonly window: number;
  readonly windowStart: number;
  readonly permission: number;
}

function addRun(
  spans: Span[],
  { start: runStart, end: runEnd, window, offset, permission }: TranslatedRun,
): void {
  const base = runStart - offset;
  for (let step = 0; base + step * WINDOW_STRIDE < runEnd; step++) {
    const windowStart = base + step * WINDOW_STRIDE;
    const windowEnd = Math.min(windowStart + WINDOW_STRIDE, runEnd);
    for (let start = Math.max(windowStart, runStart); start < windowEnd;) {
      const page = (Math.floor(start / HIGH) + 1) * HIGH;
      const end = Math.min(windowEnd, page);
      const reach = Math.min(windowStart + WINDOW_STRIDE + SEGMENT_MAX, runEnd, page);
      spans.push({ start, end, reach, window: window + step, windowStart, permission });
      start = end;
    }
  }
}
