import { WireError } from '../errors.js';

/**
 * A bounds-checked cursor over received bytes. Numbers are little-endian: virtio fields are so by definition, and
 * vhost-user's native order is the same on every host this package supports.
 */
export class WireReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Bytes read so far. */
  get offset(): number {
    return this.#offset;
  }

  /** Bytes not read yet. */
  get remaining(): number {
    return this.#bytes.byteLength - this.#offset;
  }

  u8(field: string): number {
    return this.#view.getUint8(this.#take(1, field));
  }

  u16(field: string): number {
    return this.#view.getUint16(this.#take(2, field), true);
  }

  u32(field: string): number {
    return this.#view.getUint32(this.#take(4, field), true);
  }

  i8(field: string): number {
    return this.#view.getInt8(this.#take(1, field));
  }

  i16(field: string): number {
    return this.#view.getInt16(this.#take(2, field), true);
  }

  i32(field: string): number {
    return this.#view.getInt32(this.#take(4, field), true);
  }

  u64(field: string): bigint {
    return this.#view.getBigUint64(this.#take(8, field), true);
  }

  i64(field: string): bigint {
    return this.#view.getBigInt64(this.#take(8, field), true);
  }

  /** A copy of the next `length` bytes. */
  bytes(length: number, field: string): Uint8Array {
    const start = this.#take(length, field);
    return this.#bytes.slice(start, start + length);
  }

  skip(length: number, field: string): void {
    this.#take(length, field);
  }

  /** Fails with ERR_WIRE_TRAILING when anything is left over. */
  end(layout: string): void {
    if (this.remaining !== 0) {
      throw new WireError('ERR_WIRE_TRAILING', `${layout}: ${this.remaining} bytes follow its last field`);
    }
  }

  #take(length: number, field: string): number {
    const start = this.#offset;
    // Lengths come from decoded fields: what is no u32 (negative, NaN, a fraction) is as wrong as what is too long.
    if (length >>> 0 !== length || length > this.#bytes.byteLength - start) {
      throw new WireError(
        'ERR_WIRE_TRUNCATED',
        `${field}: needs ${length} bytes at offset ${start}, ${this.remaining} are left`,
      );
    }
    this.#offset = start + length;
    return start;
  }
}
