import type { PlaceRange } from '../memory/iotlb.js';
export type { PlaceRange };
import { WINDOW_STRIDE } from '../platform/platform.js';
import type { AddressMap } from './address-map.js';
import type { ChainBatch } from './chain-batch.js';

/** An I/O virtual address that the device cannot use as it wants to. */
export interface Fault {
  readonly address: number;
  readonly write: boolean;
}

/** What a queue behind an IOMMU goes by. */
export interface Translation {
  /** The translations of now: another object after each change. */
  readonly map: AddressMap;
  /** The ring waits until it has these translations, and is told by `DeviceVirtqueue.translated`. */
  missed(faults: readonly Fault[]): void;
  /**
   * The translation that is there allows less than this. True when it is the answer to a question about the other way of access
   * and this one was never asked for: a front-end may grant just what it is asked for.
   */
  mayGrant(fault: Fault): boolean;
  /** The driver named memory that it may not use so; the ring breaks. */
  denied(fault: Fault): void;
}

/** Translations that are asked for at once for one chain; the others are when it is walked again. */
export const FAULTS_MAX = 64;

/** Ends the walk of a chain that cannot be taken yet. Nobody's error, and never seen outside the queue. */
export class TranslationMiss {
  readonly faults: readonly Fault[];

  constructor(faults: readonly Fault[]) {
    this.faults = faults;
  }
}

interface Waiter {
  readonly handles: Set<number>;
  readonly done: () => void;
}

/**
 * Where the chains in flight lie, by handle, for those who take memory away from under them: a translation that is invalidated
 * may be acknowledged when no chain uses it any more. Kept only behind an IOMMU.
 *
 *   place = window * WINDOW_STRIDE + offset         each chain: from | to, from | to …
 */
export class ChainPlaces {
  readonly #chains = new Map<number, Float64Array>();
  readonly #waiters = new Set<Waiter>();

  /** Notes the chains in rows 0 to `rows`. */
  taken(batch: ChainBatch, rows: number): void {
    const { chains, segments } = batch;
    for (let row = 0; row < rows; row++) {
      const first = chains[row * 4 + 1]!;
      const count = chains[row * 4 + 2]! + chains[row * 4 + 3]!;
      const places = new Float64Array(count * 2);
      for (let i = 0; i < count; i++) {
        const segment = (first + i) * 4;
        const from = segments[segment]! * WINDOW_STRIDE + segments[segment + 1]!;
        places[i * 2] = from;
        places[i * 2 + 1] = from + segments[segment + 2]!;
      }
      this.#chains.set(chains[row * 4]!, places);
    }
  }

  completed(handle: number): void {
    this.#chains.delete(handle);
    for (const waiter of this.#waiters) {
      if (waiter.handles.delete(handle) && waiter.handles.size === 0) this.#finish(waiter);
    }
  }

  /**
   * Calls `done` when none of the chains that are in flight now and touch one of these ranges is any more; at once if none does.
   * With null every chain counts.
   */
  whenUnused(ranges: readonly PlaceRange[] | null, done: () => void): void {
    const sorted = [...(ranges ?? [])].sort((a, b) => a.from - b.from);
    const handles = new Set<number>(ranges === null ? this.#chains.keys() : []);
    for (const [handle, places] of ranges === null ? [] : this.#chains) {
      for (let i = 0; i < places.length; i += 2) {
        if (overlaps(sorted, places[i]!, places[i + 1]!)) handles.add(handle);
      }
    }
    if (handles.size === 0) done();
    else this.#waiters.add({ handles, done });
  }

  /** Nobody will say any more that the chains in flight are completed. */
  abandon(): void {
    this.#chains.clear();
    for (const waiter of [...this.#waiters]) this.#finish(waiter);
  }

  #finish(waiter: Waiter): void {
    this.#waiters.delete(waiter);
    waiter.done();
  }
}

/** Whether one of the ranges, ascending, touches [from, to). Two of them may overlap each other where memory is aliased. */
function overlaps(ranges: readonly PlaceRange[], from: number, to: number): boolean {
  for (const range of ranges) {
    if (range.from >= to) return false;
    if (range.to > from) return true;
  }
  return false;
}
