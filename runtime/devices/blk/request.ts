import { BlkRequestHeader } from '../../../generated/virtio/devices/blk/layouts.js';
import type { ChainBatch, DeviceQueue } from '../../device/index.js';

const HEADER_SIZE = BlkRequestHeader.minSize;

/**
 * The request in one row of a batch (virtio 1.4, 5.2.6). Used again for the next row.
 *
 *   readable  | type u32 | reserved u32 | sector u64 |  data of a write, ranges …  |
 *   writable                                         |  data of a read, id …       | status u8 |
 *
 * A driver may cut this into descriptors anywhere, so the header is taken off the front of the readable segments and the
 * status off the end of the writable ones, in the batch's own table; what stays are rows that a backing takes as they are.
 * Each field is read once.
 */
export class BlockRequest {
  type = 0;
  /** First sector of 512 bytes. Rounded above 2^53, where no disk ends. */
  sector = 0;
  /** Where the status byte goes. */
  statusWindow = 0;
  statusOffset = 0;
  /** Rows of the segment table that hold what follows the header. */
  readableRow = 0;
  readableRows = 0;
  /** Rows of the segment table that the answer goes to. */
  writableRow = 0;
  writableRows = 0;
  readonly #header = new Uint8Array(HEADER_SIZE);
  readonly #headerWords = new Uint32Array(this.#header.buffer);

  /** Takes the status byte off row `row`; false when the chain has no room for one. */
  takeStatus(batch: ChainBatch, row: number): boolean {
    const { chains, segments } = batch;
    const at = row * 4;
    this.readableRow = chains[at + 1]!;
    this.readableRows = chains[at + 2]!;
    this.writableRow = this.readableRow + this.readableRows;
    this.writableRows = chains[at + 3]!;
    if (this.writableRows === 0) return false;
    const last = (this.writableRow + this.writableRows - 1) * 4;
    const length = segments[last + 2]! - 1;
    this.statusWindow = segments[last]!;
    this.statusOffset = segments[last + 1]! + length;
    segments[last + 2] = length;
    if (length === 0) this.writableRows--;
    return true;
  }

  /** Takes the header; false when the chain is too short for it. */
  takeHeader(queue: DeviceQueue, segments: Int32Array): boolean {
    const at = this.readableRow * 4;
    const offset = segments[at + 1]!;
    // The usual shape: the header in one piece, on a word boundary.
    if (this.readableRows > 0 && segments[at + 2]! >= HEADER_SIZE && (offset & 3) === 0) {
      const words = queue.u32[segments[at]!]!;
      const word = offset >> 2;
      this.type = BlkRequestHeader.type(words, word);
      this.sector = BlkRequestHeader.sector(words, word);
      if (segments[at + 2] === HEADER_SIZE) {
        this.readableRow++;
        this.readableRows--;
      } else {
        segments[at + 1] = offset + HEADER_SIZE;
        segments[at + 2]! -= HEADER_SIZE;
      }
      return true;
    }
    if (this.take(queue, segments, this.#header) < HEADER_SIZE) return false;
    this.type = BlkRequestHeader.type(this.#headerWords, 0);
    this.sector = BlkRequestHeader.sector(this.#headerWords, 0);
    return true;
  }

  /** Bytes that follow the header. */
  readableLength(segments: Int32Array): number {
    return lengthOf(segments, this.readableRow, this.readableRows);
  }

  /** Bytes in front of the status. */
  writableLength(segments: Int32Array): number {
    return lengthOf(segments, this.writableRow, this.writableRows);
  }

  /** Takes readable bytes off the front into `into`, as many as there are and fit. Returns their number. */
  take(queue: DeviceQueue, segments: Int32Array, into: Uint8Array): number {
    let taken = 0;
    while (taken < into.byteLength && this.readableRows > 0) {
      const at = this.readableRow * 4;
      const offset = segments[at + 1]!;
      const length = segments[at + 2]!;
      const count = Math.min(length, into.byteLength - taken);
      const window = queue.u8[segments[at]!]!;
      for (let i = 0; i < count; i++) into[taken + i] = window[offset + i]!;
      taken += count;
      segments[at + 1] = offset + count;
      segments[at + 2] = length - count;
      if (count < length) break;
      this.readableRow++;
      this.readableRows--;
    }
    return taken;
  }

  /** Writes `bytes` into the answer, as many as there is room for. Returns their number. */
  answer(queue: DeviceQueue, segments: Int32Array, bytes: Uint8Array): number {
    let given = 0;
    for (let row = this.writableRow; row < this.writableRow + this.writableRows; row++) {
      const offset = segments[row * 4 + 1]!;
      const count = Math.min(segments[row * 4 + 2]!, bytes.byteLength - given);
      const window = queue.u8[segments[row * 4]!]!;
      for (let i = 0; i < count; i++) window[offset + i] = bytes[given + i]!;
      given += count;
    }
    return given;
  }
}

/** Bytes in `rows` rows; above 2^31 for a long chain, so no int32. */
function lengthOf(segments: Int32Array, row: number, rows: number): number {
  let length = 0;
  for (let i = row; i < row + rows; i++) length += segments[i * 4 + 2]!;
  return length;
}
