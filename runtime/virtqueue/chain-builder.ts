import type { AddressMap } from './address-map.js';
import type { ChainBatch } from './chain-batch.js';
import { VirtqueueError } from '../errors.js';

/** virtio 1.4, 2.7.5 and 2.8.3: the sum of all lengths of a chain. */
export const CHAIN_BYTES_MAX = 0x1_0000_0000;

/** One descriptor's words; a copy, so that nothing is read twice. */
export interface DescriptorCopy {
  /** Guest address; above 2^53 only roughly right, which still lies outside any memory. */
  address: number;
  length: number;
  flags: number;
  /** Split: next; packed: buffer id. */
  tail: number;
}

/**
 * Writes one chain into a batch with every rule spelled out. It is what the hot loops fall back to, so speed does not
 * matter here: a buffer may cross windows and regions, be longer than a segment, or be empty.
 */
export class ChainBuilder {
  readonly #map: AddressMap;
  readonly #queue: number;
  readonly #batch: ChainBatch;
  readonly #firstSegment: number;
  #segments = 0;
  #readable = 0;
  #sawWritable = false;
  #bytes = 0;
  #writableBytes = 0;

  constructor(map: AddressMap, queue: number, batch: ChainBatch, firstSegment: number) {
    this.#map = map;
    this.#queue = queue;
    this.#batch = batch;
    this.#firstSegment = firstSegment;
  }

  get map(): AddressMap {
    return this.#map;
  }

  /** Segments of the chain, whether or not they found room. */
  get segments(): number {
    return this.#segments;
  }

  /** Bytes the device may write; 2^32, which a used element cannot report, counts as one less. */
  get writableBytes(): number {
    return Math.min(this.#writableBytes, 0xffff_ffff);
  }

  /** Adds one descriptor's buffer. `writeFlag` is the descriptor's WRITE bit as it stands in the segment table. */
  add(address: number, length: number, writeFlag: number): void {
    if (writeFlag === 0 && this.#sawWritable) {
      throw this.error('ERR_VIRTQ_ORDER', 'a readable descriptor stands behind a writable one');
    }
    this.#sawWritable ||= writeFlag !== 0;
    this.#bytes += length;
    if (this.#bytes > CHAIN_BYTES_MAX) {
      throw this.error('ERR_VIRTQ_CHAIN', `the chain holds more than 2^32 bytes`);
    }
    if (writeFlag !== 0) this.#writableBytes += length;
    for (let done = 0; done < length;) {
      const span = this.#map.find(address + done);
      if (span < 0) {
        throw this.error(
          'ERR_VIRTQ_ADDRESS',
          `buffer of ${length} bytes at guest address 0x${address.toString(16)} leaves guest memory after ${done} bytes`,
        );
      }
      this.#map.open(span);
      const piece = Math.min(length - done, this.#map.contiguous(span, address + done));
      this.#segment(this.#map.window(span), this.#map.offset(span, address + done), piece, writeFlag);
      done += piece;
    }
  }

  /**
   * Writes the chain's row when all its segments found room. False when it must wait for a batch with more room; a chain
   * that is alone in its batch and does not fit never will, and is an error.
   */
  place(row: number, handle: number): boolean {
    const { chains, segmentCapacity } = this.#batch;
    if (this.#firstSegment + this.#segments > segmentCapacity) {
      if (row > 0) return false;
      throw this.error(
        'ERR_VIRTQ_CHAIN',
        `a chain of ${this.#segments} segments, the device takes ${segmentCapacity}`,
      );
    }
    chains[row * 4] = handle;
    chains[row * 4 + 1] = this.#firstSegment;
    chains[row * 4 + 2] = this.#readable;
    chains[row * 4 + 3] = this.#segments - this.#readable;
    return true;
  }

  error(code: VirtqueueError['code'], message: string): VirtqueueError {
    return new VirtqueueError(code, this.#queue, message);
  }

  #segment(window: number, offset: number, length: number, writeFlag: number): void {
    const row = this.#firstSegment + this.#segments++;
    if (writeFlag === 0) this.#readable++;
    if (row >= this.#batch.segmentCapacity) return;
    const { segments } = this.#batch;
    segments[row * 4] = window;
    segments[row * 4 + 1] = offset;
    segments[row * 4 + 2] = length;
    segments[row * 4 + 3] = writeFlag;
  }
}
