import { DeviceError } from '../errors.js';

/** Where a chain's segments lie: stride 4, (window, offset, length, flags); see ChainBatch. */
export type SegmentTable = Int32Array;

/**
 * A position in one half of a chain. The walk is bounded by the segments that the virtqueue has checked, so nothing here
 * can leave guest memory. The memory itself stays shared with the driver, who may change it at any time: what is read
 * through a cursor is read once.
 */
export abstract class ChainCursor {
  #windows: readonly Uint8Array[] = [];
  #table: SegmentTable = new Int32Array(0);
  #segment = 0;
  #end = 0;
  #within = 0;
  #length = 0;
  #passed = 0;

  /** Bytes in this half of the chain. */
  get length(): number {
    return this.#length;
  }

  /** Bytes not passed yet. */
  get remaining(): number {
    return this.#length - this.#passed;
  }

  /** Bytes passed so far. */
  protected get passed(): number {
    return this.#passed;
  }

  /** @internal Points the cursor at the start of `count` segments. */
  place(windows: readonly Uint8Array[], table: SegmentTable, first: number, count: number): void {
    this.#windows = windows;
    this.#table = table;
    this.#segment = first;
    this.#end = first + count;
    this.#within = 0;
    this.#passed = 0;
    let length = 0;
    for (let i = first; i < first + count; i++) length += table[i * 4 + 2]!;
    this.#length = length;
  }

  /** @internal Moves to a copy of the segment table in which the rows start `shift` earlier; the position stays. */
  moveTo(table: SegmentTable, shift: number): void {
    this.#table = table;
    this.#segment -= shift;
    this.#end -= shift;
  }

  /**
   * Passes over at most `limit` bytes of guest memory and hands them out as views of the memory itself, one a segment.
   * A view must not be used after the chain was completed.
   */
  *spans(limit: number = this.remaining): Generator<Uint8Array, void, void> {
    let left = Math.min(limit, this.remaining);
    while (left > 0) {
      const before = this.#passed;
      const span = this.#span(left);
      left -= this.#passed - before;
      yield span;
    }
  }

  /** Passes over `count` bytes. Throws DeviceError (ERR_DEVICE_REQUEST) when fewer are left. */
  skip(count: number): void {
    this.#need(count);
    const end = this.#passed + count;
    while (this.#passed < end) this.#span(end - this.#passed);
  }

  /** The next byte of guest memory as a window and an offset in it, in `place`. */
  protected step(place: { window: Uint8Array; offset: number }): void {
    this.#need(1);
    const row = this.#segment * 4;
    place.window = this.#windows[this.#table[row]!]!;
    place.offset = this.#table[row + 1]! + this.#within;
    this.#advance(1);
  }

  #span(limit: number): Uint8Array {
    const row = this.#segment * 4;
    const start = this.#table[row + 1]! + this.#within;
    const count = Math.min(limit, this.#table[row + 2]! - this.#within);
    const span = this.#windows[this.#table[row]!]!.subarray(start, start + count);
    this.#advance(count);
    return span;
  }

  #advance(count: number): void {
    this.#passed += count;
    this.#within += count;
    if (this.#within < this.#table[this.#segment * 4 + 2]!) return;
    this.#within = 0;
    if (this.#segment < this.#end) this.#segment++;
  }

  #need(count: number): void {
    if (count <= this.remaining) return;
    throw new DeviceError(
      'ERR_DEVICE_REQUEST',
      `the chain has ${this.remaining} bytes left where ${count} are needed`,
    );
  }
}

const here = { window: new Uint8Array(0), offset: 0 };

/** What the driver sent, read from its start. Numbers are little-endian and may be split over segments. */
export class ChainReader extends ChainCursor {
  /** Copies at most `into.byteLength` bytes and returns how many there were. */
  read(into: Uint8Array): number {
    let at = 0;
    for (const span of this.spans(into.byteLength)) {
      into.set(span, at);
      at += span.byteLength;
    }
    return at;
  }

  /** A copy of the next `count` bytes. Throws DeviceError (ERR_DEVICE_REQUEST) when fewer are left. */
  bytes(count: number): Uint8Array {
    if (count > this.remaining) this.skip(count);
    const bytes = new Uint8Array(count);
    this.read(bytes);
    return bytes;
  }

  u8(): number {
    this.step(here);
    return here.window[here.offset]!;
  }

  u16(): number {
    return this.u8() | (this.u8() << 8);
  }

  u32(): number {
    return (this.u16() | (this.u16() << 16)) >>> 0;
  }

  u64(): bigint {
    return BigInt(this.u32()) | (BigInt(this.u32()) << 32n);
  }
}

/** Room for the device's answer, filled from its start. Numbers are little-endian and may be split over segments. */
export class ChainWriter extends ChainCursor {
  /** Bytes written so far: what is reported to the driver unless the device says otherwise. */
  get written(): number {
    return this.passed;
  }

  /** Copies as many of `bytes` as there is room for and returns how many that were. */
  write(bytes: Uint8Array): number {
    let at = 0;
    for (const span of this.spans(bytes.byteLength)) {
      span.set(bytes.subarray(at, at + span.byteLength));
      at += span.byteLength;
    }
    return at;
  }

  u8(value: number): void {
    this.step(here);
    here.window[here.offset] = value;
  }

  u16(value: number): void {
    this.u8(value);
    this.u8(value >>> 8);
  }

  u32(value: number): void {
    this.u16(value);
    this.u16(value >>> 16);
  }

  u64(value: bigint): void {
    this.u32(Number(BigInt.asUintN(32, value)));
    this.u32(Number(BigInt.asUintN(32, value >> 32n)));
  }
}
