import { GuestMemoryError } from '../errors.js';
import { GuestMemory, MemoryRegion, type RegionDescription } from '../memory/guest-memory.js';
import type { Platform } from '../platform/platform.js';
import type { OwnedFd } from './fd-bundle.js';

/** Regions with their files. */
export type RegionTable = readonly { readonly description: RegionDescription; readonly fd: OwnedFd }[];

/** Memory that is mapped and not in use yet. One of the two ends it. */
export interface PreparedMemory {
  readonly regions: readonly MemoryRegion[];
  /** Makes it the current memory. */
  install(): void;
  /** Lets go of it. */
  cancel(): void;
}

/**
 * The front-end's memory as it now stands. Every change makes a new GuestMemory and lets go of the one before, which lives
 * on while rings or chains in flight still use it. A change that fails leaves everything as it was.
 */
export class MemorySlots implements Disposable {
  readonly #platform: Platform;
  /** Regions that may be there at once. */
  readonly limit: number;
  #current: GuestMemory | null = null;
  /** The file of each region, and how often it was added again; see `add`. */
  readonly #origins = new WeakMap<MemoryRegion, { readonly file: string; repeats: number }>();

  constructor(platform: Platform, limit: number) {
    this.#platform = platform;
    this.limit = limit;
  }

  /** null before the first region came. The session's own hold; whoever keeps it calls `retain`. */
  get current(): GuestMemory | null {
    return this.#current;
  }

  /**
   * SET_MEM_TABLE: these regions instead of all before. The fds are only used to map. What does not change stays mapped:
   * QEMU sends the whole table again for every little change, and mapping a large guest takes long.
   */
  replace(table: RegionTable): void {
    this.prepare(table).install();
  }

  /** The first half of `replace`: maps what is to come, while what is there stays. */
  prepare(table: RegionTable): PreparedMemory {
    this.#checkLimit(table.length);
    const regions: MemoryRegion[] = [];
    const memory = this.#complete(regions, () => {
      for (const { description, fd } of table) {
        regions.push(this.#same(description, fd)?.retain() ?? this.#map(description, fd));
      }
    });
    return {
      regions,
      install: () => {
        for (const region of regions) this.#origins.get(region)!.repeats = 0;
        this.#become(memory);
      },
      cancel: () => memory.release(),
    };
  }

  /**
   * ADD_MEM_REG. A region that is there already, the same in everything and of the same file, is counted and has to be removed as
   * often: QEMU before 8.0 adds the memory of a network card once for each pair of queues.
   */
  add(description: RegionDescription, fd: OwnedFd): void {
    const present = this.#same(description, fd);
    if (present !== undefined) {
      this.#origins.get(present)!.repeats++;
      return;
    }
    const regions = this.#held();
    const memory = this.#complete(regions, () => {
      this.#checkLimit(regions.length + 1);
      regions.push(this.#map(description, fd));
    });
    this.#become(memory);
  }

  /** REM_MEM_REG: the region with these addresses and this size; the file offset does not matter. */
  remove(wanted: RegionDescription): void {
    const present = this.#find(wanted);
    if (present === undefined) {
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_REGION',
        `no region at guest address 0x${wanted.guestAddress.toString(16)}, user address ` +
          `0x${wanted.userAddress.toString(16)}, ${wanted.size} bytes`,
      );
    }
    const origin = this.#origins.get(present)!;
    if (origin.repeats > 0) {
      origin.repeats--;
      return;
    }
    const regions = this.#held();
    const memory = this.#complete(regions, () => {
      for (const region of regions.splice(regions.indexOf(present), 1)) region.release();
    });
    this.#become(memory);
  }

  /** Lets go of everything. */
  [Symbol.dispose](): void {
    this.#current?.release();
    this.#current = null;
  }

  #find(wanted: RegionDescription): MemoryRegion | undefined {
    return this.#current?.regions.find(
      ({ description }) =>
        description.guestAddress === wanted.guestAddress &&
        description.userAddress === wanted.userAddress &&
        description.size === wanted.size,
    );
  }

  /** A region that is there, in everything what mapping this one would give; not one that lost pages. */
  #same(wanted: RegionDescription, fd: OwnedFd): MemoryRegion | undefined {
    const present = this.#find(wanted);
    if (present?.description.mmapOffset !== wanted.mmapOffset || present.mapping.damaged) return undefined;
    return this.#origins.get(present)!.file === this.#platform.fileIdentity(fd.fd) ? present : undefined;
  }

  #map(description: RegionDescription, fd: OwnedFd): MemoryRegion {
    const file = this.#platform.fileIdentity(fd.fd);
    const region = MemoryRegion.map(this.#platform, description, fd.fd, { lazy: true });
    this.#origins.set(region, { file, repeats: 0 });
    return region;
  }

  /** The regions of now, each held once more for the table to come. */
  #held(): MemoryRegion[] {
    return (this.#current?.regions ?? []).map((region) => region.retain());
  }

  /** Completes `regions`, each held once, to a memory; on a failure lets go of them. */
  #complete(regions: MemoryRegion[], complete: () => void): GuestMemory {
    try {
      complete();
      return new GuestMemory(regions);
    } catch (error) {
      for (const region of regions) region.release();
      throw error;
    }
  }

  #become(memory: GuestMemory): void {
    this.#current?.release();
    this.#current = memory;
  }

  #checkLimit(count: number): void {
    if (count <= this.limit) return;
    throw new GuestMemoryError(
      'ERR_GUEST_MEMORY_LIMIT',
      `${count} memory regions, ${this.limit} are allowed`,
    );
  }
}
