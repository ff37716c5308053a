import type { Mapping, WindowTable } from '../../platform/platform.js';
import type { MemoryPlace, VirtqueueInflight } from '../device-virtqueue.js';
import {
  INFLIGHT_REGION_ALIGN,
  INFLIGHT_REGION_VERSION,
  InflightRegionPacked,
  InflightRegionSplit,
} from '../../../generated/vhost-user/inflight.js';
import { VirtqueueError } from '../../errors.js';
import { RingArea } from '../ring-area.js';

/** Fresh memory, which nobody has initialised. */
export const FRESH = 0;
export const VERSION = INFLIGHT_REGION_VERSION;
/** Counters are numbers here. A region that counted further than any back-end lives long enough for is none. */
export const COUNTER_END = 2 ** 53;

/** Bytes from one queue's sub-region to the next one's. Every implementation takes the same. */
export function inflightStride(format: 'split' | 'packed', queueSize: number): number {
  const bytes = (format === 'split' ? InflightRegionSplit : InflightRegionPacked).size(queueSize);
  return Math.ceil(bytes / INFLIGHT_REGION_ALIGN) * INFLIGHT_REGION_ALIGN;
}

/** One queue's sub-region as the tracker writes it. */
export class InflightArea {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  /** Entries it has room for, at least the ring's size. */
  readonly capacity: number;
  readonly mapping: Mapping;

  /** Throws VirtqueueError (ERR_VIRTQ_INFLIGHT) when the ring is larger than the sub-region. */
  constructor(
    windows: WindowTable,
    inflight: VirtqueueInflight,
    format: 'split' | 'packed',
    size: number,
    queue: number,
  ) {
    const { capacity, mapping } = inflight;
    if (capacity < size) {
      throw inflightError(queue, `it has room for ${capacity} descriptors, the ring has ${size}`);
    }
    const place: MemoryPlace = inflight;
    const bytes = (format === 'split' ? InflightRegionSplit : InflightRegionPacked).size(capacity);
    const area = new RingArea(windows, place, bytes, 8, 'in-flight region', queue);
    this.u8 = area.u8();
    this.u16 = area.u16();
    this.u32 = area.u32();
    this.capacity = capacity;
    this.mapping = mapping;
  }

  /** A copy to look at: other processes can write the region, so it is read once and only when the ring starts. */
  snapshot(): Uint32Array {
    return this.u32.slice();
  }

  /**
   * Makes the region a fresh one that lists `size` descriptors. The version comes first and last: until it is there again
   * nothing else in the region counts.
   */
  initialise(size: number, fill: () => void): void {
    const { setVersion, setFeatures, setNumDescriptors } = InflightRegionSplit;
    setVersion(this.u16, 0, FRESH);
    for (let i = HEADER_WORDS; i < this.u32.length; i++) this.u32[i] = 0;
    setFeatures(this.u32, 0, 0);
    setNumDescriptors(this.u16, 0, size);
    fill();
    setVersion(this.u16, 0, VERSION);
  }
}

/** Features, version and number of descriptors, which both formats have at the same place. */
const HEADER_WORDS = 3;

export function inflightError(queue: number, reason: string): VirtqueueError {
  return new VirtqueueError('ERR_VIRTQ_INFLIGHT', queue, `the in-flight region cannot be resumed: ${reason}`);
}
