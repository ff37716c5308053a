import { WireError } from '../errors.js';

/** A bounds-checked little-endian cursor that fills a buffer of known size. Values that do not fit their field fail. */
export class WireWriter {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Bytes written so far. */
  get offset(): number {
    return this.#offset;
  }

  u8(value: number, field: string): void {
    this.#view.setUint8(this.#take(1, field), integer(value, 0, 0xff, field));
  }

  u16(value: number, field: string): void {
    this.#view.setUint16(this.#take(2, field), integer(value, 0, 0xffff, field), true);
  }

  u32(value: number, field: string): void {
    this.#view.setUint32(this.#take(4, field), integer(value, 0, 0xffff_ffff, field), true);
  }

  i8(value: number, field: string): void {
    this.#view.setInt8(this.#take(1, field), integer(value, -0x80, 0x7f, field));
  }

  i16(value: number, field: string): void {
    this.#view.setInt16(this.#take(2, field), integer(value, -0x8000, 0x7fff, field), true);
  }

  i32(value: number, field: string): void {
    this.#view.setInt32(this.#take(4, field), integer(value, -0x8000_0000, 0x7fff_ffff, field), true);
  }

  u64(value: bigint, field: string): void {
    if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value)
      throw outOfRange(value, 'bigint from 0 to 2^64 - 1', field);
    this.#view.setBigUint64(this.#take(8, field), value, true);
  }

  i64(value: bigint, field: string): void {
    if (typeof value !== 'bigint' || BigInt.asIntN(64, value) !== value)
      throw outOfRange(value, 'bigint from -2^63 to 2^63 - 1', field);
    this.#view.setBigInt64(this.#take(8, field), value, true);
  }

  bytes(value: Uint8Array, field: string): void {
    this.#bytes.set(value, this.#take(value.byteLength, field));
  }

  zeros(length: number, field: string): void {
    const start = this.#take(length, field);
    this.#bytes.fill(0, start, start + length);
  }

  #take(length: number, field: string): number {
    const start = this.#offset;
    // Lengths come from decoded fields: what is no u32 (negative, NaN, a fraction) is as wrong as what is too long.
    if (length >>> 0 !== length || length > this.#bytes.byteLength - start) {
      throw new WireError(
        'ERR_WIRE_LIMIT',
        `${field}: needs ${length} bytes at offset ${start}, the buffer ends at ${this.#bytes.byteLength}`,
      );
    }
    this.#offset = start + length;
    return start;
  }
}

function integer(value: number, low: number, high: number, field: string): number {
  if (!Number.isInteger(value) || value < low || value > high)
    throw outOfRange(value, `whole number from ${low} to ${high}`, field);
  return value;
}

function outOfRange(value: number | bigint, expected: string, field: string): WireError {
  return new WireError('ERR_WIRE_VALUE', `${field}: ${value} is no ${expected}`);
}
