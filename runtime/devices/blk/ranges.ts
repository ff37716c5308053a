import type { DeviceQueue } from '../../device/index.js';
import {
  BlkDiscardWriteZeroes,
  BlkStatus,
  BlkWriteZeroesFlag,
} from '../../../generated/virtio/devices/blk/layouts.js';
import type { BlockRequest } from './request.js';

/** Bytes of one range on the wire. */
const RANGE_SIZE = BlkDiscardWriteZeroes.minSize;

/** What ranges are measured against. */
export interface RangeLimits {
  /** Sectors of the disk. */
  readonly capacity: number;
  /** Ranges of one request. */
  readonly ranges: number;
  /** Sectors of one range. */
  readonly sectors: number;
  /** Flag bits that a range may have. */
  readonly flags: number;
}

/**
 * The ranges of a DISCARD or WRITE_ZEROES request, copied out of guest memory before they are looked at. Used again for
 * the next request.
 */
export class RangeList {
  count = 0;
  readonly #bytes: Uint8Array;
  readonly #words: Uint32Array;

  constructor(capacity: number) {
    this.#bytes = new Uint8Array(capacity * RANGE_SIZE);
    this.#words = new Uint32Array(this.#bytes.buffer);
  }

  /** Takes the ranges off the request and checks each. Returns the status that the request deserves, ok if it can go on. */
  take(request: BlockRequest, queue: DeviceQueue, segments: Int32Array, limits: RangeLimits): number {
    this.count = 0;
    const length = request.readableLength(segments);
    if (length === 0 || length % RANGE_SIZE !== 0) return BlkStatus.ioerr;
    const count = length / RANGE_SIZE;
    if (count > limits.ranges) return BlkStatus.unsupp;
    request.take(queue, segments, this.#bytes.subarray(0, length));
    // virtio 1.4, 5.2.6.2: an unknown flag anywhere, and unmap in a DISCARD, make the request unsupported.
    for (let i = 0; i < count; i++) {
      if ((this.flags(i) & ~limits.flags) !== 0) return BlkStatus.unsupp;
    }
    for (let i = 0; i < count; i++) {
      const sectors = this.sectors(i);
      if (sectors > limits.sectors || this.sector(i) > limits.capacity - sectors) return BlkStatus.ioerr;
    }
    this.count = count;
    return BlkStatus.ok;
  }

  sector(index: number): number {
    return BlkDiscardWriteZeroes.sector(this.#words, index * 4);
  }

  sectors(index: number): number {
    return BlkDiscardWriteZeroes.numSectors(this.#words, index * 4);
  }

  flags(index: number): number {
    return BlkDiscardWriteZeroes.flags(this.#words, index * 4);
  }

  unmaps(index: number): boolean {
    return (this.flags(index) & BlkWriteZeroesFlag.unmap) !== 0;
  }
}
