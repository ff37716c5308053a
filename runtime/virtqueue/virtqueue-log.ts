import type { DirtyWriter } from '../memory/dirty-log.js';
import type { ChainBatch } from './chain-batch.js';

/** What a queue needs to log its writes to guest memory. */
export interface VirtqueueLog {
  readonly writer: DirtyWriter;
  /** Guest-physical address of each window's first byte, by window; see GuestMemory.windowAddresses. */
  readonly windowAddresses: Float64Array;
  /**
   * Where the ring itself is marked, as guest-physical addresses of its first byte, any number of them for each area; none when
   * the ring's own pages are not to be logged. A split ring's descriptor table is never written.
   */
  readonly descriptor: readonly number[];
  readonly device: readonly number[];
}

/**
 * The writable memory of the chains in flight, noted when they are taken and marked when they are used. It is marked whole,
 * whatever the device says it wrote: a read that failed in its middle reports a status byte that is not the first one.
 *
 *   ranges of a handle, Float64   count | address, length | …          grown as needed, kept for the handle's next chain
 */
export class ChainLog {
  #log: VirtqueueLog;
  readonly #ranges: (Float64Array | undefined)[];
  /** Chains that were taken before the log was there, by handle. */
  readonly #unknown: Uint8Array;
  #unknownCount = 0;
  #covered: (() => void) | null = null;
  #lost = false;

  /** `book` is the queue's: chains that it holds now are not known here. */
  constructor(log: VirtqueueLog, book: Int32Array) {
    this.#log = log;
    const size = book.length >> 1;
    this.#ranges = Array.from({ length: size }, () => undefined);
    this.#unknown = new Uint8Array(size);
    for (let handle = 0; handle < size; handle++) {
      if (book[handle * 2] === 0 || book[handle * 2 + 1] === 0) continue;
      this.#unknown[handle] = 1;
      this.#unknownCount++;
    }
  }

  /** True once a page lay outside the log. */
  get lost(): boolean {
    return this.#lost;
  }

  /** Goes on with other places; chains that are noted stay so. */
  configure(log: VirtqueueLog): void {
    this.#log = log;
  }

  /** Calls back when no chain is in flight any more that may write without being logged; at once if that is so now. */
  whenCovered(covered: () => void): void {
    if (this.#unknownCount === 0) covered();
    else this.#covered = covered;
  }

  /** The batch's first `rows` chains were taken. */
  taken(batch: ChainBatch, rows: number): void {
    const { chains, segments } = batch;
    const addresses = this.#log.windowAddresses;
    for (let c = 0; c < rows * 4; c += 4) {
      const handle = chains[c]!;
      const writable = chains[c + 3]!;
      let ranges = this.#ranges[handle];
      if (ranges === undefined || ranges.length < 1 + 2 * writable) {
        this.#ranges[handle] = ranges = new Float64Array(1 + 2 * Math.max(2, writable));
      }
      ranges[0] = writable;
      let s = (chains[c + 1]! + chains[c + 2]!) * 4;
      for (let i = 1; i <= 2 * writable; i += 2, s += 4) {
        ranges[i] = addresses[segments[s]!]! + segments[s + 1]!;
        ranges[i + 1] = segments[s + 2]!;
      }
    }
  }

  /** The device is done with a chain: what it may have written is marked. To be called before the driver is told. */
  used(handle: number): void {
    if (this.#unknown[handle] === 1) {
      this.#unknown[handle] = 0;
      if (--this.#unknownCount === 0) {
        this.#covered?.();
        this.#covered = null;
      }
      return;
    }
    const ranges = this.#ranges[handle];
    if (ranges === undefined) return;
    const { writer } = this.#log;
    const end = 2 * ranges[0]!;
    ranges[0] = 0;
    for (let i = 1; i <= end; i += 2) this.#mark(writer, ranges[i]!, ranges[i + 1]!);
  }

  /** `length` bytes at `offset` of the device area were written. */
  markDevice(offset: number, length: number): void {
    const { writer, device } = this.#log;
    for (let i = 0; i < device.length; i++) this.#mark(writer, device[i]! + offset, length);
  }

  /**
   * `count` entries of `stride` bytes from `slot` on were written to an area that starts its `size` entries at `offset`, going
   * round at its end.
   */
  markSlots(
    area: 'descriptor' | 'device',
    offset: number,
    stride: number,
    size: number,
    slot: number,
    count: number,
  ): void {
    const { writer } = this.#log;
    const places = this.#log[area];
    const all = count >= size;
    const first = all ? 0 : slot;
    const ahead = all ? size : Math.min(count, size - slot);
    for (let i = 0; i < places.length; i++) {
      const base = places[i]! + offset;
      this.#mark(writer, base + first * stride, ahead * stride);
      if (!all && ahead < count) this.#mark(writer, base, (count - ahead) * stride);
    }
  }

  #mark(writer: DirtyWriter, address: number, length: number): void {
    if (!writer.mark(address, length)) this.#lost = true;
  }
}
