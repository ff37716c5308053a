import type { AddressMap } from './address-map.js';
import type { ChainBatch } from './chain-batch.js';
import { VirtqueueError } from '../errors.js';
import { Access } from '../memory/iotlb.js';
import { type Fault, FAULTS_MAX, type Translation, TranslationMiss } from './translation.js';

/** What a missing translation is taken to cover when the walk goes on behind it. */
const IOMMU_PAGE = 4096;
/** Numbers are exact up to here; nothing is translated beyond. */
const ADDRESS_END = 2 ** 53;

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
 * matter here: a buffer may cross windows and regions, be longer than a segment, or be empty. Behind an IOMMU translations
 * may be missing: those that are seen to be are collected, and the chain is not taken.
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
  readonly #translation: Translation | null;
  readonly #faults: Fault[] = [];

  constructor(
    map: AddressMap,
    queue: number,
    batch: ChainBatch,
    firstSegment: number,
    translation: Translation | null = null,
  ) {
    this.#translation = translation;
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
      const at = address + done;
      const span = this.#map.find(at);
      if (span < 0) {
        if (!this.#mayAsk(at)) {
          throw this.error(
            'ERR_VIRTQ_ADDRESS',
            `buffer of ${length} bytes at guest address 0x${address.toString(16)} leaves guest memory after ${done} bytes`,
          );
        }
        this.#missed(at, writeFlag !== 0);
        done = (Math.floor(at / IOMMU_PAGE) + 1) * IOMMU_PAGE - address;
        continue;
      }
      if ((this.#map.permissions[span]! & (writeFlag === 0 ? Access.read : Access.write)) === 0) {
        this.#denied(at, writeFlag !== 0);
        done = (Math.floor(at / IOMMU_PAGE) + 1) * IOMMU_PAGE - address;
        continue;
      }
      this.#map.open(span);
      const piece = Math.min(length - done, this.#map.contiguous(span, at));
      this.#segment(this.#map.window(span), this.#map.offset(span, at), piece, writeFlag);
      done += piece;
    }
  }

  /**
   * Writes the chain's row when all its segments found room. False when it must wait for a batch with more room; a chain
   * that is alone in its batch and does not fit never will, and is an error. Throws TranslationMiss when translations are missing.
   */
  place(row: number, handle: number): boolean {
    if (this.#faults.length > 0) throw new TranslationMiss(this.#faults);
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

  /** The byte at `address` cannot be read now: throws why, which is `message` when it never can. */
  unreadable(address: number, message: string): never {
    if (!this.#mayAsk(address)) throw this.error('ERR_VIRTQ_INDIRECT', message);
    if (this.#map.find(address) >= 0) this.#denied(address, false);
    else this.#missed(address, false);
    throw new TranslationMiss(this.#faults);
  }

  error(code: VirtqueueError['code'], message: string): VirtqueueError {
    return new VirtqueueError(code, this.#queue, message);
  }

  #mayAsk(address: number): boolean {
    return this.#map.translated && address < ADDRESS_END;
  }

  /** The walk goes on, so that one question brings all that the chain needs; within bounds. */
  #missed(address: number, write: boolean): void {
    this.#faults.push({ address, write });
    if (this.#faults.length === FAULTS_MAX) throw new TranslationMiss(this.#faults);
  }

  /** The translation that is there does not allow this: asks for one that does, or throws. */
  #denied(address: number, write: boolean): void {
    if (this.#translation?.mayGrant({ address, write })) return this.#missed(address, write);
    this.#translation?.denied({ address, write });
    const what = write ? 'written' : 'read';
    throw this.error('ERR_VIRTQ_ADDRESS', `IOVA 0x${address.toString(16)} may not be ${what}`);
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
