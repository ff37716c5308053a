import { GuestMemoryError } from '../errors.js';
import { type Platform, SEGMENT_MAX, WINDOW_STRIDE } from '../platform/platform.js';
import { GuestMemory, MemoryRegion } from './guest-memory.js';

/** One stretch of guest addresses; both in bytes. */
export interface SharedRegionLayout {
  readonly guestAddress: bigint;
  readonly size: bigint;
}

export interface SharedMemoryOptions {
  /** Size in bytes of the whole; 16 MiB when absent. Divided evenly when there are several regions. */
  readonly size?: number;
  /** How many regions, with holes between them; 1 when absent. */
  readonly regions?: number;
  /** Exactly these regions instead. */
  readonly layout?: readonly SharedRegionLayout[];
  /** Sizes that are not given exactly are rounded up to 2 MiB then. Throws where the machine has no huge pages free. */
  readonly hugePages?: boolean;
  /** Each region in a file of its own; without it they share one, so that all but the first have an mmap offset. */
  readonly filePerRegion?: boolean;
}

/** A region of shared memory: what a front-end tells of it, and the file that it lies in. */
export interface SharedRegion {
  readonly region: MemoryRegion;
  /** Stays the memory's. */
  readonly fd: number;
}

const PAGE = 4096;
const HUGE_PAGE = 2 << 20;
const DEFAULT_SIZE = 16 << 20;
/** Where the front-end claims to have the guest's memory. Unlike any guest address, so that mixing them up shows. */
const USER_BASE = 0x7e00_0000_0000n;

interface Range {
  readonly start: number;
  readonly end: number;
}

/** The file, closed with the last region in it. */
class RegionFile {
  readonly fd: number;
  readonly #platform: Platform;
  #holders = 0;

  constructor(platform: Platform, size: bigint, hugePages: boolean) {
    this.#platform = platform;
    this.fd = platform.createSharedMemory('guest-memory', size, { hugePages });
  }

  retain(): this {
    this.#holders++;
    return this;
  }

  release(): void {
    if (--this.#holders <= 0) this.#platform.closeFd(this.fd);
  }
}

/** A region with the book of what is free in it: holes in ascending order, byte distances from its start. */
class Part implements SharedRegion {
  readonly region: MemoryRegion;
  readonly file: RegionFile;
  holes: Range[];

  constructor(region: MemoryRegion, file: RegionFile) {
    this.region = region;
    this.file = file.retain();
    this.holes = [{ start: 0, end: Number(region.description.size) }];
  }

  get fd(): number {
    return this.file.fd;
  }

  get freeBytes(): number {
    return this.holes.reduce((sum, hole) => sum + hole.end - hole.start, 0);
  }

  /** The first range of `length` bytes whose guest address is aligned; null when there is none. */
  take(length: number, alignment: number): Range | null {
    const base = Number(this.region.description.guestAddress);
    for (const [i, hole] of this.holes.entries()) {
      const start = Math.ceil((base + hole.start) / alignment) * alignment - base;
      const end = start + length;
      if (end > hole.end) continue;
      const rest = [
        { start: hole.start, end: start },
        { start: end, end: hole.end },
      ].filter((piece) => piece.start < piece.end);
      this.holes.splice(i, 1, ...rest);
      return { start, end };
    }
    return null;
  }

  give(range: Range): void {
    const at = this.holes.findIndex((hole) => hole.start >= range.end);
    const index = at < 0 ? this.holes.length : at;
    this.holes.splice(index, 0, range);
    for (const i of [index, index - 1]) {
      const [hole, next] = [this.holes[i], this.holes[i + 1]];
      if (hole === undefined || next === undefined || hole.end !== next.start) continue;
      this.holes.splice(i, 2, { start: hole.start, end: next.end });
    }
  }
}

/** A piece of shared memory, the caller's until `free`. */
export class GuestBuffer implements Disposable {
  readonly window: number;
  /** Offset in bytes in the window. */
  readonly offset: number;
  /** Length in bytes. */
  readonly length: number;
  readonly guestAddress: number;
  readonly #memory: SharedMemory;

  constructor(
    memory: SharedMemory,
    place: { window: number; offset: number },
    guestAddress: number,
    length: number,
  ) {
    this.#memory = memory;
    this.window = place.window;
    this.offset = place.offset;
    this.guestAddress = guestAddress;
    this.length = length;
  }

  /** The bytes themselves: writing here writes guest memory. */
  get bytes(): Uint8Array {
    return this.#memory.platform.windows.u8[this.window]!.subarray(this.offset, this.offset + this.length);
  }

  /** Gives the memory back. Idempotent. */
  free(): void {
    this.#memory.release(this);
  }

  [Symbol.dispose](): void {
    this.free();
  }
}

/**
 * Guest memory from a front-end's side: memory files in one or many regions, mapped here and shared with a back-end, with
 * an allocator in guest addresses. Regions can be added and, when nothing is allocated in them, taken away; each change
 * makes a new `memory` snapshot, and whoever shares the memory tells the back-end (`Frontend.addMemory`).
 */
export class SharedMemory implements Disposable {
  readonly platform: Platform;
  readonly #hugePages: boolean;
  #parts: Part[] = [];
  #memory: GuestMemory;
  readonly #allocated = new Map<GuestBuffer, { part: Part; range: Range }>();
  #disposed = false;

  /** Throws PlatformError or GuestMemoryError when the memory cannot be had. */
  constructor(platform: Platform, options: SharedMemoryOptions = {}) {
    this.platform = platform;
    this.#hugePages = options.hugePages ?? false;
    const layout =
      options.layout ??
      evenLayout(options.size ?? DEFAULT_SIZE, options.regions ?? 1, this.#hugePages ? HUGE_PAGE : PAGE);
    const groups = options.filePerRegion === true ? layout.map((region) => [region]) : [layout];
    try {
      for (const group of groups) this.#parts.push(...this.#map(group));
      this.#memory = new GuestMemory(this.#parts.map((part) => part.region));
    } catch (error) {
      for (const part of this.#parts) discard(part);
      throw error;
    }
  }

  /** The map as it is now. Snapshots that were taken before stay valid while they are held. */
  get memory(): GuestMemory {
    return this.#memory;
  }

  get regions(): readonly SharedRegion[] {
    return this.#parts;
  }

  /**
   * Takes `length` zeroed bytes aligned to `alignment` (a power of two) in guest addresses, out of the first region that
   * has them, or out of the region with that index. Throws GuestMemoryError (ERR_GUEST_MEMORY_LIMIT) without room.
   */
  allocate(length: number, alignment = 64, region = -1): GuestBuffer {
    if (!Number.isInteger(length) || length < 1 || length > SEGMENT_MAX) {
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_LIMIT',
        `cannot allocate ${length} bytes; 1 to ${SEGMENT_MAX} can be`,
      );
    }
    for (const part of region < 0 ? this.#parts : this.#parts.slice(region, region + 1)) {
      const range = part.take(length, alignment);
      if (range === null) continue;
      const { description, mapping } = part.region;
      const step = Math.floor(range.start / WINDOW_STRIDE);
      const place = { window: mapping.firstWindow + step, offset: range.start - step * WINDOW_STRIDE };
      const buffer = new GuestBuffer(this, place, Number(description.guestAddress) + range.start, length);
      this.#allocated.set(buffer, { part, range });
      buffer.bytes.fill(0);
      return buffer;
    }
    if (this.#disposed) {
      throw new GuestMemoryError('ERR_GUEST_MEMORY_LIMIT', 'the guest memory was given back');
    }
    throw new GuestMemoryError(
      'ERR_GUEST_MEMORY_LIMIT',
      `no ${length} contiguous bytes are left in ${region < 0 ? 'guest memory' : `region ${region}`}`,
    );
  }

  /** Used by GuestBuffer. */
  release(buffer: GuestBuffer): void {
    const entry = this.#allocated.get(buffer);
    if (entry === undefined) return;
    this.#allocated.delete(buffer);
    entry.part.give(entry.range);
  }

  /** Bytes that are not allocated. */
  get freeBytes(): number {
    return this.#parts.reduce((sum, part) => sum + part.freeBytes, 0);
  }

  /** The guest's address of a place. Throws ERR_GUEST_MEMORY_UNMAPPED when it is none of this memory. */
  guestAddress(place: { window: number; offset: number }): bigint {
    const { description, distance } = this.#locate(place);
    return description.guestAddress + distance;
  }

  /** The front-end's address of a place, as SET_VRING_ADDR takes it. */
  userAddress(place: { window: number; offset: number }): bigint {
    const { description, distance } = this.#locate(place);
    return description.userAddress + distance;
  }

  /** The guest's address of what lies at one of the front-end's. Throws ERR_GUEST_MEMORY_UNMAPPED when nothing does. */
  guestAddressOf(userAddress: bigint): bigint {
    for (const { region } of this.#parts) {
      const { description } = region;
      const distance = userAddress - description.userAddress;
      if (distance >= 0n && distance < description.size) return description.guestAddress + distance;
    }
    throw new GuestMemoryError(
      'ERR_GUEST_MEMORY_UNMAPPED',
      `user address 0x${userAddress.toString(16)} is not guest memory`,
    );
  }

  /**
   * Adds a region in a file of its own, behind all others unless it says where. Returns it. Nobody is told.
   * Throws GuestMemoryError or PlatformError, with nothing changed.
   */
  addRegion(size: number, guestAddress: bigint = this.#behindAll()): SharedRegion {
    const unit = this.#hugePages ? HUGE_PAGE : PAGE;
    const [part] = this.#map([{ guestAddress, size: BigInt(Math.ceil(size / unit) * unit) }]);
    try {
      this.#replace([...this.#parts, part!]);
    } catch (error) {
      discard(part!);
      throw error;
    }
    return part!;
  }

  /**
   * Takes a region away; its mapping goes with the last snapshot that holds it. Throws GuestMemoryError
   * (ERR_GUEST_MEMORY_REGION) while something is allocated in it.
   */
  removeRegion(shared: SharedRegion): void {
    const part = this.#parts.find((each) => each === shared);
    if (part === undefined || this.#parts.length === 1 || this.#inUse(part)) {
      const { guestAddress } = shared.region.description;
      const why =
        part === undefined ? 'not there' : this.#parts.length === 1 ? 'the only one' : 'still allocated from';
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_REGION',
        `cannot remove the region at 0x${guestAddress.toString(16)}: it is ${why}`,
      );
    }
    this.#replace(this.#parts.filter((each) => each !== part));
    part.file.release();
  }

  /** Unmaps the memory, but for snapshots that others hold, and closes its files. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#memory.release();
    for (const part of this.#parts.splice(0)) part.file.release();
  }

  #map(layout: readonly SharedRegionLayout[]): Part[] {
    const total = layout.reduce((sum, region) => sum + region.size, 0n);
    const file = new RegionFile(this.platform, total, this.#hugePages).retain();
    const parts: Part[] = [];
    try {
      let mmapOffset = 0n;
      for (const { guestAddress, size } of layout) {
        const description = { guestAddress, size, userAddress: USER_BASE + guestAddress, mmapOffset };
        parts.push(new Part(MemoryRegion.map(this.platform, description, file.fd), file));
        mmapOffset += size;
      }
    } catch (error) {
      for (const part of parts) discard(part);
      throw error;
    } finally {
      file.release();
    }
    return parts;
  }

  /** A snapshot of `parts` takes the place of the present one; regions in both keep their mapping. */
  #replace(parts: Part[]): void {
    const kept = parts.filter((part) => this.#parts.includes(part)).map((part) => part.region.retain());
    let memory: GuestMemory;
    try {
      memory = new GuestMemory(parts.map((part) => part.region));
    } catch (error) {
      for (const region of kept) region.release();
      throw error;
    }
    this.#memory.release();
    this.#memory = memory;
    this.#parts = parts;
  }

  #inUse(part: Part): boolean {
    return part.freeBytes !== Number(part.region.description.size);
  }

  #behindAll(): bigint {
    const ends = this.#parts.map(
      ({ region: { description } }) => description.guestAddress + description.size,
    );
    const end = ends.reduce((a, b) => (a > b ? a : b), 0n);
    const unit = BigInt(HUGE_PAGE);
    return ((end + unit - 1n) / unit + 1n) * unit;
  }

  #locate({ window, offset }: { window: number; offset: number }): {
    description: MemoryRegion['description'];
    distance: bigint;
  } {
    for (const { region } of this.#parts) {
      const step = window - region.mapping.firstWindow;
      if (step < 0 || step >= region.mapping.windowCount) continue;
      return { description: region.description, distance: BigInt(step * WINDOW_STRIDE + offset) };
    }
    throw new GuestMemoryError('ERR_GUEST_MEMORY_UNMAPPED', `window ${window} is not guest memory`);
  }
}

/** Gives up a part that no snapshot has taken over; the region of one that was is released with the snapshot. */
function discard(part: Part): void {
  part.region.release();
  part.file.release();
}

/** Regions of whole pages, the first at address 0 as in a real machine, each behind a hole as large as itself. */
function evenLayout(size: number, count: number, unit: number): SharedRegionLayout[] {
  const each = Math.ceil(size / count / unit) * unit;
  return Array.from({ length: count }, (_, i) => ({
    guestAddress: BigInt(i * 2 * each),
    size: BigInt(each),
  }));
}
