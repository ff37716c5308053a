import type { GuestBuffer, SharedMemory } from '../memory/shared-memory.js';
import type { VirtqueueAreas, VirtqueueState } from '../virtqueue/device-virtqueue.js';
import { type DriverVirtqueue, ringLayout } from '../virtqueue/driver-virtqueue.js';
import type { FrontendIommu } from '../vhost-user/frontend/iommu.js';
import { startDriverVirtqueue } from '../virtqueue/start-driver.js';
import { VirtioFeature } from '../../generated/virtio/features.js';

/** Segments that an indirect table of a driver's queue holds at most. */
const INDIRECT_CAPACITY = 128;

/** The guest memory of one queue: its three areas and, with INDIRECT_DESC, its indirect tables. */
export class QueueMemory implements Disposable {
  readonly areas: VirtqueueAreas;
  readonly #iommu: FrontendIommu | null;
  readonly #index: number;
  readonly #size: number;
  readonly #memory: SharedMemory;
  readonly #features: bigint;
  readonly #tables: GuestBuffer | null;
  readonly #buffers: GuestBuffer[];

  /** `iommu`: behind which the device is, where ACCESS_PLATFORM is among the features. */
  constructor(
    memory: SharedMemory,
    index: number,
    size: number,
    features: bigint,
    iommu: FrontendIommu | null = null,
  ) {
    this.#memory = memory;
    this.#iommu = (features & VirtioFeature.accessPlatform) === 0n ? null : iommu;
    this.#index = index;
    this.#size = size;
    this.#features = features;
    const layout = ringLayout(this.#format, size);
    const area = ({ length, alignment }: { length: number; alignment: number }) =>
      memory.allocate(length, Math.max(alignment, 64));
    const areas = {
      descriptor: area(layout.descriptor),
      driver: area(layout.driver),
      device: area(layout.device),
    };
    const indirect = (features & VirtioFeature.indirectDesc) !== 0n;
    this.#tables = indirect ? memory.allocate(size * Math.min(size, INDIRECT_CAPACITY) * 16) : null;
    this.areas = areas;
    this.#buffers = [...Object.values(areas), ...(this.#tables === null ? [] : [this.#tables])];
  }

  /** Initialises the ring and makes the driver's queue for it; from `state` on, if one is given. */
  start(state?: VirtqueueState): DriverVirtqueue {
    const capacity = Math.min(this.#size, INDIRECT_CAPACITY);
    const iommu = this.#iommu;
    return startDriverVirtqueue(
      {
        index: this.#index,
        size: this.#size,
        format: this.#format,
        eventIdx: (this.#features & VirtioFeature.eventIdx) !== 0n,
        inOrder: (this.#features & VirtioFeature.inOrder) !== 0n,
        areas: this.areas,
        memory: this.#memory.memory,
        ...(iommu === null ? {} : { addresses: (memory) => iommu.windowAddresses(memory) }),
        ...(this.#tables === null ? {} : { indirect: { place: this.#tables, capacity } }),
        ...(state === undefined ? {} : { state }),
      },
      this.#memory.platform.windows,
    );
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers) buffer.free();
  }

  get #format(): 'split' | 'packed' {
    return (this.#features & VirtioFeature.ringPacked) !== 0n ? 'packed' : 'split';
  }
}
