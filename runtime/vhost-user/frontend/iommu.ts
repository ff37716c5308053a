import { VhostError } from '../../errors.js';
import type { GuestMemory, MemoryRegion, RegionDescription } from '../../memory/guest-memory.js';
import { Access, Iotlb } from '../../memory/iotlb.js';
import type { SharedMemory } from '../../memory/shared-memory.js';
import { WINDOW_STRIDE } from '../../platform/platform.js';
import { IotlbPermission, IotlbType } from '../../../generated/vhost-user/payloads.js';
import { bounded } from './announce.js';
import type { Frontend } from './frontend.js';

/** A translation, as the back-end is told of it. Addresses and sizes in bytes. */
export interface Translation {
  readonly iova: bigint;
  readonly size: bigint;
  readonly userAddress: bigint;
  /** 1 to read, 2 to write, 3 for both. */
  readonly permission: number;
}

/** A back-end that asks on and on and answers nothing gets no more. */
export const MAX_UNANSWERED_UPDATES = 1024;

export interface FrontendIommuOptions {
  /** Where a region of memory lies for the device; at its guest address when absent. Regions must not overlap there. */
  readonly place?: (region: RegionDescription) => bigint;
  /** Bytes that one answer to a miss covers at most, aligned to as many; a whole mapping when absent. */
  readonly granule?: number;
}

/**
 * The IOMMU between a device and the memory that a front-end shares (ACCESS_PLATFORM): what addresses mean to the device, and
 * who is told. Every region is mapped for reading and writing when it is shared. The back-end asks for what it needs, and
 * is told of nothing before.
 *
 * One IOMMU belongs to one front-end.
 */
export class FrontendIommu {
  readonly #place: (region: RegionDescription) => bigint;
  readonly #granule: number | null;
  readonly #table = new Iotlb(Infinity);
  readonly #bases = new WeakMap<MemoryRegion, number>();
  #frontend: Frontend | null = null;
  #unanswered = 0;

  constructor(options: FrontendIommuOptions = {}) {
    this.#place = options.place ?? (({ guestAddress }) => guestAddress);
    this.#granule = options.granule ?? null;
  }

  /** Used by the front-end: memory is shared, or another than before. Throws GuestMemoryError when a place cannot be. */
  share(frontend: Frontend, { memory }: SharedMemory): void {
    this.#frontend = frontend;
    this.#table.setMemory(memory);
    for (const region of memory.regions) {
      if (this.#bases.has(region)) continue;
      const { size, userAddress } = region.description;
      const iova = this.#place(region.description);
      this.#table.update(iova, size, userAddress, Access.readWrite);
      this.#bases.set(region, Number(iova));
    }
  }

  /** The device's address of each window's first byte, by window; NaN where there is no memory. */
  windowAddresses(memory: GuestMemory): Float64Array {
    const ends = memory.regions.map(({ mapping }) => mapping.firstWindow + mapping.windowCount);
    const addresses = new Float64Array(Math.max(0, ...ends)).fill(NaN);
    for (const region of memory.regions) {
      const base = this.#bases.get(region) ?? NaN;
      for (let step = 0; step < region.mapping.windowCount; step++) {
        addresses[region.mapping.firstWindow + step] = base + step * WINDOW_STRIDE;
      }
    }
    return addresses;
  }

  /** The device's address of a place in the shared memory. */
  address(memory: GuestMemory, { window, offset }: { window: number; offset: number }): bigint {
    return BigInt(this.windowAddresses(memory)[window]! + offset);
  }

  /** Maps `size` bytes from `iova` on, in place of what was mapped there. Nobody is told: the back-end asks. */
  async map({ iova, size, userAddress, permission }: Translation, signal?: AbortSignal): Promise<void> {
    const { ranges } = this.#table.update(iova, size, userAddress, permission);
    if (ranges.length > 0) await this.invalidate(iova, size, signal);
  }

  /** Takes what is mapped there away. Resolves when the back-end uses nothing of it any more. */
  async unmap(iova: bigint, size: bigint, signal?: AbortSignal): Promise<void> {
    this.#table.invalidate(iova, size);
    await this.invalidate(iova, size, signal);
  }

  /** Has the back-end forget translations, mapped or not. Resolves when it uses nothing of them; it may ask for them again. */
  async invalidate(iova: bigint, size: bigint, signal?: AbortSignal): Promise<void> {
    const frontend = this.#frontend;
    if (frontend === null || !frontend.connected) return;
    const permission = IotlbPermission.none;
    const type = IotlbType.invalidate;
    const payload = { iova, size, userAddress: 0n, permission, type };
    const answer = await frontend.request('iotlbMsg', payload, bounded(signal));
    if (answer !== 0n) {
      throw new VhostError('ERR_VHOST_REFUSED', `the back-end answered ${answer} to an invalidation`, {
        request: 'VHOST_USER_IOTLB_MSG',
      });
    }
  }

  /**
   * Used by the front-end: tells the back-end what it missed. Rejects when it refuses, and at once when it has left
   * MAX_UNANSWERED_UPDATES unanswered.
   */
  async update(frontend: Frontend, translation: Translation): Promise<void> {
    if (this.#unanswered >= MAX_UNANSWERED_UPDATES) {
      throw new VhostError('ERR_VHOST_STATE', `${this.#unanswered} translations are not answered yet`, {
        request: 'VHOST_USER_IOTLB_MSG',
      });
    }
    this.#unanswered++;
    try {
      const permission = translation.permission as IotlbPermission;
      const answer = await frontend.request('iotlbMsg', {
        ...translation,
        permission,
        type: IotlbType.update,
      });
      if (answer === 0n) return;
      throw new VhostError('ERR_VHOST_REFUSED', `the back-end answered ${answer}`, {
        request: 'VHOST_USER_IOTLB_MSG',
      });
    } finally {
      this.#unanswered--;
    }
  }

  /** What a miss is answered with; null when nothing is mapped there, or not so. */
  translate(iova: bigint, permission: number): Translation | null {
    const entry = this.#table.entryAt(Number(iova));
    if (entry === null || (permission & ~entry.permission) !== 0) return null;
    let { start, end } = entry;
    if (this.#granule !== null) {
      const aligned = Math.floor(Number(iova) / this.#granule) * this.#granule;
      start = Math.max(start, aligned);
      end = Math.min(end, aligned + this.#granule);
    }
    return {
      iova: BigInt(start),
      size: BigInt(end - start),
      userAddress: entry.userAddress + BigInt(start - entry.start),
      permission: entry.permission,
    };
  }
}
