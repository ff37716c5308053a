import { GuestMemoryError } from '../errors.js';
import { WINDOW_STRIDE } from '../platform/platform.js';
import type { GuestMemory } from './guest-memory.js';

/** What a translation allows; the values of VHOST_ACCESS_*. */
export const Access = { read: 1, write: 2, readWrite: 3 } as const;

/** I/O virtual addresses are numbers here, which end where numbers are exact. */
const ADDRESS_END = 2 ** 53;
const ADDRESS_SPACE = 1n << 64n;

/** A range of I/O virtual addresses; integers, `end` exclusive. */
export interface AddressRange {
  readonly start: number;
  readonly end: number;
}

/** A stretch of I/O virtual addresses that is contiguous in one mapping: its first byte lies at `offset` of `window`. */
export interface TranslatedRun extends AddressRange {
  readonly window: number;
  /** Less than WINDOW_STRIDE. */
  readonly offset: number;
  readonly permission: number;
}

/** Bytes of mapped memory: window * WINDOW_STRIDE + offset, of which each byte of a mapping has one. `to` is exclusive. */
export interface PlaceRange {
  readonly from: number;
  readonly to: number;
}

/** What went out of the table: nothing may use it any more once its taking out is acknowledged. */
export interface Removed {
  readonly ranges: readonly AddressRange[];
  readonly places: readonly PlaceRange[];
}

export interface IotlbEntry extends AddressRange {
  /** The front-end's address of the first byte. */
  readonly userAddress: bigint;
  readonly permission: number;
}

interface Entry extends IotlbEntry {
  /** When it came; the oldest goes first when the table is full. */
  readonly age: number;
  readonly runs: readonly TranslatedRun[];
}

/** Entries that a table holds when nobody says otherwise. */
export const DEFAULT_IOTLB_ENTRIES = 8192;

/**
 * The translations that a front-end gave for I/O virtual addresses (VIRTIO_F_ACCESS_PLATFORM): a sorted table of intervals
 * that do not overlap, each leading through one or several memory regions to mapped memory.
 *
 *   iova      |----4k----|--------64k--------|      |--4k--|
 *   user      |--------- region A ---------|- region B ------------|
 *   runs      |----------|--------|--------|        |------|         cut where region or mapping changes
 *
 * It is a cache: an entry that goes is asked for again. A newer entry takes the place of what it overlaps, and a full table
 * drops its oldest entry. What a change takes out is handed back, so that the caller can wait for those who use it.
 */
export class Iotlb {
  readonly limit: number;
  #memory: GuestMemory | null = null;
  #entries: Entry[] = [];
  #age = 0;
  #runs: readonly TranslatedRun[] | null = null;

  /** `limit`: entries at most. */
  constructor(limit = DEFAULT_IOTLB_ENTRIES) {
    this.limit = limit;
  }

  /** The entries, ascending. */
  get entries(): readonly IotlbEntry[] {
    return this.#entries;
  }

  /** All entries as runs, ascending, joined where one continues another. The same array until something changes. */
  get runs(): readonly TranslatedRun[] {
    return (this.#runs ??= joined(this.#entries));
  }

  /**
   * The memory map changed: what the entries lead to is looked up again, and entries that lead out of it are dropped. The
   * memory is the caller's, who keeps it while translations are used.
   */
  setMemory(memory: GuestMemory | null): void {
    this.#memory = memory;
    this.#replace(
      this.#entries.flatMap((entry) => {
        const runs = this.#resolve(entry);
        return runs === null ? [] : [{ ...entry, runs }];
      }),
    );
  }

  /**
   * Adds a translation of `size` bytes. Throws GuestMemoryError, with nothing changed, when it is empty, wraps, ends beyond
   * 2^53, or leads out of the memory regions. `pinned` says which ranges a full table should rather keep.
   */
  update(
    iova: bigint,
    size: bigint,
    userAddress: bigint,
    permission: number,
    pinned: (range: AddressRange) => boolean = () => false,
  ): Removed {
    if (size === 0n || iova + size > BigInt(ADDRESS_END) || userAddress + size > ADDRESS_SPACE) {
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_REGION',
        `translation of IOVA 0x${iova.toString(16)}, ${size} bytes, to user address ` +
          `0x${userAddress.toString(16)}: it is empty, wraps around or ends beyond IOVA 2^53`,
      );
    }
    const place = { start: Number(iova), end: Number(iova + size), userAddress, permission };
    const runs = this.#resolve(place);
    if (runs === null) {
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_UNMAPPED',
        `translation of IOVA 0x${iova.toString(16)}, ${size} bytes, to user address ` +
          `0x${userAddress.toString(16)}: it does not lie in memory regions`,
      );
    }
    const entry: Entry = { ...place, runs, age: this.#age++ };
    const gone = this.#cut(entry).filter((old) => !continues(old, entry));
    this.#entries.splice(this.#firstFrom(entry.start), 0, entry);
    while (this.#entries.length > this.limit) gone.push(this.#evict(entry, pinned));
    this.#runs = null;
    return removed(gone);
  }

  /**
   * Takes every translation of the range away. A size of 0 and a range that wraps around mean everything from `iova` on:
   * front-ends count the whole address space in 64 bits.
   */
  invalidate(iova: bigint, size: bigint): Removed {
    const end = size === 0n ? ADDRESS_SPACE : iova + size;
    const gone = this.#cut({ start: clamp(iova), end: clamp(end) });
    if (gone.length > 0) this.#runs = null;
    return removed(gone);
  }

  /** Forgets everything. */
  flush(): Removed {
    return this.invalidate(0n, 0n);
  }

  /** The entry that holds `address`; null when none does. */
  entryAt(address: number): IotlbEntry | null {
    const entry = this.#entries[this.#firstFrom(address)];
    return entry !== undefined && entry.start <= address ? entry : null;
  }

  /** The run that holds `address`; null when there is none. */
  find(address: number): TranslatedRun | null {
    const { runs } = this;
    let low = 0;
    let high = runs.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (runs[middle]!.start <= address) low = middle;
      else high = middle - 1;
    }
    const run = runs[low];
    return run !== undefined && address >= run.start && address < run.end ? run : null;
  }

  #replace(entries: Entry[]): void {
    this.#entries = entries;
    this.#runs = null;
  }

  /** Index of the first entry that ends behind `address`. */
  #firstFrom(address: number): number {
    let low = 0;
    let high = this.#entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#entries[middle]!.end <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Takes a range out, keeping what entries have on either side of it, and gives what was taken out. */
  #cut({ start, end }: AddressRange): Entry[] {
    const first = this.#firstFrom(start);
    let last = first;
    while (last < this.#entries.length && this.#entries[last]!.start < end) last++;
    const overlapped = this.#entries.slice(first, last);
    const kept = overlapped.flatMap((entry) => [
      ...part(entry, entry.start, start),
      ...part(entry, end, entry.end),
    ]);
    this.#entries.splice(first, last - first, ...kept);
    return overlapped.flatMap((entry) => part(entry, start, end));
  }

  #evict(newest: Entry, pinned: (range: AddressRange) => boolean): Entry {
    let victim = -1;
    for (const [i, entry] of this.#entries.entries()) {
      if (entry === newest || (victim >= 0 && this.#entries[victim]!.age <= entry.age)) continue;
      if (!pinned(entry)) victim = i;
    }
    if (victim < 0) victim = this.#entries[0] === newest ? this.#entries.length - 1 : 0;
    return this.#entries.splice(victim, 1)[0]!;
  }

  /** Where the range leads: runs without a gap; null when a part of it leads nowhere. */
  #resolve({ start, end, userAddress, permission }: IotlbEntry): TranslatedRun[] | null {
    const runs: TranslatedRun[] = [];
    for (let at = start; at < end;) {
      const user = userAddress + BigInt(at - start);
      const region = this.#memory?.regions.find(
        ({ description }) =>
          user >= description.userAddress && user < description.userAddress + description.size,
      );
      if (region === undefined) return null;
      const distance = Number(user - region.description.userAddress);
      const step = Math.floor(distance / WINDOW_STRIDE);
      const length = Math.min(end - at, Number(region.description.size) - distance);
      runs.push({
        start: at,
        end: at + length,
        window: region.mapping.firstWindow + step,
        offset: distance - step * WINDOW_STRIDE,
        permission,
      });
      at += length;
    }
    return runs;
  }
}

function clamp(address: bigint): number {
  return address > BigInt(ADDRESS_END) ? ADDRESS_END : Number(address);
}

/** The part of an entry between `from` and `to`; none when there is nothing between. */
function part(entry: Entry, from: number, to: number): Entry[] {
  const start = Math.max(entry.start, from);
  const end = Math.min(entry.end, to);
  if (start >= end) return [];
  if (start === entry.start && end === entry.end) return [entry];
  const runs = entry.runs.flatMap((run) => partOfRun(run, start, end));
  return [{ ...entry, start, end, userAddress: entry.userAddress + BigInt(start - entry.start), runs }];
}

function partOfRun(run: TranslatedRun, from: number, to: number): TranslatedRun[] {
  const start = Math.max(run.start, from);
  const end = Math.min(run.end, to);
  if (start >= end) return [];
  const distance = run.offset + (start - run.start);
  const step = Math.floor(distance / WINDOW_STRIDE);
  return [{ ...run, start, end, window: run.window + step, offset: distance - step * WINDOW_STRIDE }];
}

/** Whether the new entry says the same as the old one, and allows no less. */
function continues(old: Entry, entry: Entry): boolean {
  const same = old.userAddress - BigInt(old.start) === entry.userAddress - BigInt(entry.start);
  return same && (old.permission & ~entry.permission) === 0;
}

function linear({ window, offset }: { window: number; offset: number }): number {
  return window * WINDOW_STRIDE + offset;
}

function joined(entries: readonly Entry[]): TranslatedRun[] {
  const all: TranslatedRun[] = [];
  for (const { runs } of entries) {
    for (const run of runs) {
      const before = all.at(-1);
      if (
        before !== undefined &&
        before.end === run.start &&
        before.permission === run.permission &&
        linear(before) + (before.end - before.start) === linear(run) &&
        // The first window of another mapping lies right behind the last one of this.
        run.offset !== 0
      ) {
        all[all.length - 1] = { ...before, end: run.end };
      } else {
        all.push(run);
      }
    }
  }
  return all;
}

function removed(entries: readonly Entry[]): Removed {
  const places = entries.flatMap(({ runs }) =>
    runs.map((run) => ({ from: linear(run), to: linear(run) + (run.end - run.start) })),
  );
  return { ranges: entries.map(({ start, end }) => ({ start, end })), places };
}
