import { GuestMemoryError } from '../errors.js';
import { GuestMemory, MemoryRegion } from '../memory/guest-memory.js';
import { type Platform, SEGMENT_MAX, WINDOW_STRIDE } from '../platform/platform.js';
import type { MemoryPlace } from '../virtqueue/device-virtqueue.js';

/** One stretch of guest addresses; both in bytes. */
export interface GuestRamRegion {
  readonly guestAddress: bigint;
  readonly size: bigint;
}

export interface GuestRamOptions {
  /** Size in bytes of the whole; 16 MiB when absent. Divided evenly when there are several regions. */
  readonly size?: number;
  /** How many regions, with holes between them; 1 when absent. */
  readonly regions?: number;
  /** Exactly these regions instead. */
  readonly layout?: readonly GuestRamRegion[];
  readonly hugePages?: boolean;
}

const PAGE = 4096;
const DEFAULT_SIZE = 16 << 20;
/** Where the front-end claims to have the guest's memory. Unlike any guest address, so that mixing them up shows. */
const USER_BASE = 0x7e00_0000_0000n;

/** A piece of guest memory, the caller's until `free`. */
export class GuestBuffer implements Disposable {
  readonly window: number;
  /** Offset in bytes in the window. */
  readonly offset: number;
  /** Length in bytes. */
  readonly length: number;
  readonly #ram: GuestRam;

  constructor(ram: GuestRam, place: MemoryPlace, length: number) {
    this.#ram = ram;
    this.window = place.window;
    this.offset = place.offset;
    this.length = length;
  }

  get guestAddress(): number {
    return this.#ram.guestAddress(this);
  }

  /** The bytes themselves: writing here writes guest memory. */
  get bytes(): Uint8Array {
    return this.#ram.platform.windows.u8[this.window]!.subarray(this.offset, this.offset + this.length);
  }

  /** Gives the memory back. Idempotent. */
  free(): void {
    this.#ram.release(this);
  }

  [Symbol.dispose](): void {
    this.free();
  }
}

/**
 * The memory of a pretended guest: one shared memory file in one or many regions, as a front-end shares it, with a small
 * allocator. Regions lie in the file one behind the other, so all but the first have an mmap offset.
 */
export class GuestRam implements Disposable {
  readonly platform: Platform;
  readonly memory: GuestMemory;
  /** The shared memory file. Stays the ram's. */
  readonly fd: number;
  readonly #free: { region: number; start: number; end: number }[];
  readonly #allocated = new Map<GuestBuffer, { region: number; start: number; end: number }>();
  #disposed = false;

  /** Throws PlatformError or GuestMemoryError when the memory cannot be had. */
  constructor(platform: Platform, options: GuestRamOptions = {}) {
    this.platform = platform;
    const layout = options.layout ?? evenLayout(options.size ?? DEFAULT_SIZE, options.regions ?? 1);
    const total = layout.reduce((sum, region) => sum + region.size, 0n);
    this.fd = platform.createSharedMemory('guest-ram', total, { hugePages: options.hugePages ?? false });
    const regions: MemoryRegion[] = [];
    try {
      let mmapOffset = 0n;
      for (const { guestAddress, size } of layout) {
        const userAddress = USER_BASE + guestAddress;
        regions.push(MemoryRegion.map(platform, { guestAddress, size, userAddress, mmapOffset }, this.fd));
        mmapOffset += size;
      }
      this.memory = new GuestMemory(regions);
    } catch (error) {
      for (const region of regions) region.release();
      platform.closeFd(this.fd);
      throw error;
    }
    this.#free = layout.map(({ size }, region) => ({ region, start: 0, end: Number(size) }));
  }

  /**
   * Takes `length` zeroed bytes aligned to `alignment` (a power of two up to a page) out of the first region that has
   * them, or out of region `region`. Throws GuestMemoryError (ERR_GUEST_MEMORY_LIMIT) when there is no room.
   */
  allocate(length: number, alignment = 64, region = -1): GuestBuffer {
    if (!Number.isInteger(length) || length < 1 || length > SEGMENT_MAX) {
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_LIMIT',
        `cannot allocate ${length} bytes; 1 to ${SEGMENT_MAX} can be`,
      );
    }
    for (let i = 0; i < this.#free.length; i++) {
      const hole = this.#free[i]!;
      if (region >= 0 && hole.region !== region) continue;
      const start = Math.ceil(hole.start / alignment) * alignment;
      const end = start + length;
      if (end > hole.end) continue;
      const rest = [
        { region: hole.region, start: hole.start, end: start },
        { region: hole.region, start: end, end: hole.end },
      ].filter((piece) => piece.start < piece.end);
      this.#free.splice(i, 1, ...rest);
      const place = this.memory.translate(this.memory.starts[hole.region]! + start, length)!;
      const buffer = new GuestBuffer(this, place, length);
      this.#allocated.set(buffer, { region: hole.region, start, end });
      buffer.bytes.fill(0);
      return buffer;
    }
    throw new GuestMemoryError(
      'ERR_GUEST_MEMORY_LIMIT',
      `no ${length} contiguous bytes are left in guest memory`,
    );
  }

  /** Used by GuestBuffer. */
  release(buffer: GuestBuffer): void {
    const range = this.#allocated.get(buffer);
    if (range === undefined) return;
    this.#allocated.delete(buffer);
    const holes = this.#free;
    const at = holes.findIndex(
      (hole) => hole.region > range.region || (hole.region === range.region && hole.start >= range.end),
    );
    const index = at < 0 ? holes.length : at;
    holes.splice(index, 0, range);
    for (const i of [index, index - 1]) {
      const hole = holes[i];
      const next = holes[i + 1];
      if (hole === undefined || next === undefined) continue;
      if (hole.region !== next.region || hole.end !== next.start) continue;
      holes.splice(i, 2, { region: hole.region, start: hole.start, end: next.end });
    }
  }

  /** Bytes that are not allocated. */
  get freeBytes(): number {
    return this.#free.reduce((sum, hole) => sum + hole.end - hole.start, 0);
  }

  /** The guest's address of a place. */
  guestAddress(place: MemoryPlace): number {
    const { region, distance } = this.#locate(place);
    return this.memory.starts[region]! + distance;
  }

  /** The front-end's address of a place, as SET_VRING_ADDR takes it. */
  userAddress(place: MemoryPlace): bigint {
    const { region, distance } = this.#locate(place);
    return this.memory.regions[region]!.description.userAddress + BigInt(distance);
  }

  /** Unmaps the memory and closes its file. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.memory.release();
    this.platform.closeFd(this.fd);
  }

  #locate({ window, offset }: MemoryPlace): { region: number; distance: number } {
    const { regions } = this.memory;
    const region = regions.findIndex(
      ({ mapping }) => window >= mapping.firstWindow && window < mapping.firstWindow + mapping.windowCount,
    );
    if (region < 0) {
      throw new GuestMemoryError('ERR_GUEST_MEMORY_UNMAPPED', `window ${window} is not guest memory`);
    }
    const step = window - regions[region]!.mapping.firstWindow;
    return { region, distance: step * WINDOW_STRIDE + offset };
  }
}

/** Regions of whole pages, the first at address 0 as in a real machine, each behind a hole as large as itself. */
function evenLayout(size: number, count: number): GuestRamRegion[] {
  const pages = Math.ceil(size / count / PAGE);
  return Array.from({ length: count }, (_, i) => ({
    guestAddress: BigInt(i * 2 * pages * PAGE),
    size: BigInt(pages * PAGE),
  }));
}
