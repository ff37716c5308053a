import { GuestMemoryError } from '../errors.js';
import type { Mapping, Platform } from '../platform/platform.js';
import { SEGMENT_MAX, WINDOW_STRIDE } from '../platform/platform.js';

/** One region as a front-end describes it. Addresses and sizes in bytes. */
export interface RegionDescription {
  readonly guestAddress: bigint;
  readonly size: bigint;
  /** Address of the region in the front-end's own process; names ring areas only. */
  readonly userAddress: bigint;
  /** Where the region starts in the file. */
  readonly mmapOffset: bigint;
}

/**
 * What the start of a region is a multiple of, in the guest, in the front-end and in the file: the strictest alignment
 * of a ring structure (2.7, 2.8.10 of the virtio text: 16 for a descriptor table). With it a structure that is aligned by its
 * address is aligned in the views of its window too, and reading it as 32-bit words hits it.
 */
const REGION_ALIGNMENT = 16n;

/** A mapped region. Shared by every GuestMemory that holds it; unmapped when the last one lets go. */
export class MemoryRegion {
  readonly description: RegionDescription;
  readonly mapping: Mapping;
  #holders = 1;

  private constructor(description: RegionDescription, mapping: Mapping) {
    this.description = description;
    this.mapping = mapping;
  }

  /**
   * Maps a region, `lazy` as Platform.map has it; does not consume the fd. Throws GuestMemoryError with the platform's
   * error as cause.
   */
  static map(
    platform: Platform,
    description: RegionDescription,
    fd: number,
    options?: { lazy?: boolean },
  ): MemoryRegion {
    checkDescription(description);
    try {
      const { mmapOffset, size } = description;
      return new MemoryRegion(description, platform.map(fd, mmapOffset, size, options));
    } catch (cause) {
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_REGION',
        `region at guest address ${hex(description.guestAddress)}, ${description.size} bytes: cannot map`,
        { cause },
      );
    }
  }

  retain(): this {
    checkHeld(this.#holders);
    this.#holders++;
    return this;
  }

  release(): void {
    checkHeld(this.#holders);
    if (--this.#holders === 0) this.mapping.unmap();
  }
}

/**
 * Maps one region for each description, from the fd at the same place; consumes no fd. All or nothing: when one cannot
 * be mapped or two overlap, those mapped before are unmapped and GuestMemoryError is thrown.
 */
export function mapRegions(
  platform: Platform,
  descriptions: readonly RegionDescription[],
  fds: readonly number[],
): MemoryRegion[] {
  if (fds.length !== descriptions.length) {
    throw new GuestMemoryError(
      'ERR_GUEST_MEMORY_REGION',
      `${descriptions.length} regions need as many fds, there are ${fds.length}`,
    );
  }
  checkOverlap(descriptions);
  const mapped: MemoryRegion[] = [];
  try {
    for (const [i, description] of descriptions.entries()) {
      mapped.push(MemoryRegion.map(platform, description, fds[i]!));
    }
  } catch (cause) {
    for (const region of mapped) region.release();
    throw cause;
  }
  return mapped;
}

/**
 * An immutable snapshot of the session's memory map. A new table makes a new snapshot; regions that stay are shared.
 * The hot path reads the three tables directly and translates inline; `translate` is the same in words.
 *
 *   starts[i] <= address && address + length <= ends[i]   (Float64: every end is below 2^53, so what rounds fails)
 *   window = firstWindows[i] + floor((address - starts[i]) / WINDOW_STRIDE)
 *   offset = (address - starts[i]) mod WINDOW_STRIDE      (then at most SEGMENT_MAX bytes are contiguous)
 */
export class GuestMemory implements Disposable {
  readonly regions: readonly MemoryRegion[];
  readonly count: number;
  readonly starts: Float64Array;
  readonly ends: Float64Array;
  readonly firstWindows: Int32Array;
  #holders = 1;

  /**
   * Takes over one hold on each region. Throws GuestMemoryError (ERR_GUEST_MEMORY_REGION) when two overlap; the holds are
   * the caller's then.
   */
  constructor(regions: readonly MemoryRegion[]) {
    checkOverlap(regions.map((region) => region.description));
    this.regions = regions;
    this.count = regions.length;
    this.starts = Float64Array.from(regions, (region) => Number(region.description.guestAddress));
    this.ends = Float64Array.from(regions, (region) =>
      Number(region.description.guestAddress + region.description.size),
    );
    this.firstWindows = Int32Array.from(regions, (region) => region.mapping.firstWindow);
  }

  /** True once any region lost pages because its file was truncated. */
  get damaged(): boolean {
    return this.regions.some((region) => region.mapping.damaged);
  }

  /**
   * Finds the place of a range that must lie in one region.
   * Null when it does not, or when it is longer than SEGMENT_MAX.
   */
  translate(address: number, length: number): { window: number; offset: number } | null {
    if (length > SEGMENT_MAX) return null;
    for (let i = 0; i < this.count; i++) {
      const start = this.starts[i]!;
      if (address < start || address + length > this.ends[i]!) continue;
      return this.#place(i, address - start);
    }
    return null;
  }

  /** The same by the front-end's own addresses, which SET_VRING_ADDR uses. bigint: these may lie anywhere in 64 bits. */
  translateUser(address: bigint, length: number): { window: number; offset: number } | null {
    if (length > SEGMENT_MAX) return null;
    for (let i = 0; i < this.count; i++) {
      const { userAddress, size } = this.regions[i]!.description;
      if (address < userAddress || address + BigInt(length) > userAddress + size) continue;
      return this.#place(i, Number(address - userAddress));
    }
    return null;
  }

  /** Keeps the snapshot's mappings while native work or an in-flight chain still points into them. */
  /**
   * Guest-physical address of the first byte of each window, by window; NaN for windows that are none of this memory's.
   * The dirty log goes by it, also where descriptors hold other addresses (ACCESS_PLATFORM).
   */
  windowAddresses(): Float64Array {
    const ends = this.regions.map(({ mapping }) => mapping.firstWindow + mapping.windowCount);
    const addresses = new Float64Array(Math.max(0, ...ends)).fill(NaN);
    for (const { description, mapping } of this.regions) {
      for (let step = 0; step < mapping.windowCount; step++) {
        addresses[mapping.firstWindow + step] = Number(description.guestAddress) + step * WINDOW_STRIDE;
      }
    }
    return addresses;
  }

  retain(): this {
    checkHeld(this.#holders);
    this.#holders++;
    return this;
  }

  release(): void {
    checkHeld(this.#holders);
    if (--this.#holders > 0) return;
    for (const region of this.regions) region.release();
  }

  [Symbol.dispose](): void {
    this.release();
  }

  #place(region: number, distance: number): { window: number; offset: number } {
    const step = Math.floor(distance / WINDOW_STRIDE);
    return { window: this.firstWindows[region]! + step, offset: distance - step * WINDOW_STRIDE };
  }
}

function checkDescription(description: RegionDescription): void {
  const { guestAddress, size, userAddress, mmapOffset } = description;
  const wrong =
    size === 0n
      ? 'is empty'
      : guestAddress + size >= 1n << 53n
        ? 'does not end below guest address 2^53'
        : userAddress + size > 1n << 64n
          ? 'wraps around in user addresses'
          : mmapOffset + size > (1n << 63n) - 1n
            ? 'ends beyond the largest file offset'
            : (guestAddress | userAddress | mmapOffset) % REGION_ALIGNMENT !== 0n
              ? `starts at no multiple of ${REGION_ALIGNMENT} (user address ${hex(userAddress)}, file offset ${hex(mmapOffset)})`
              : null;
  if (wrong !== null) {
    throw new GuestMemoryError(
      'ERR_GUEST_MEMORY_REGION',
      `region at guest address ${hex(guestAddress)}, ${size} bytes, ${wrong}`,
    );
  }
}

function checkOverlap(descriptions: readonly RegionDescription[]): void {
  for (const key of ['guestAddress', 'userAddress'] as const) {
    const sorted = [...descriptions].sort((a, b) => (a[key] < b[key] ? -1 : 1));
    for (let i = 1; i < sorted.length; i++) {
      const before = sorted[i - 1]!;
      const after = sorted[i]!;
      if (before[key] + before.size <= after[key]) continue;
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_REGION',
        `regions overlap at ${key} ${hex(after[key])}: the one before ends at ${hex(before[key] + before.size)}`,
      );
    }
  }
}

/** Letting go twice, or reviving what is unmapped, is a defect of this package; going on would touch memory that is gone. */
function checkHeld(holders: number): void {
  if (holders > 0) return;
  throw new GuestMemoryError(
    'ERR_GUEST_MEMORY_UNMAPPED',
    'guest memory was used after its last holder let it go',
  );
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
