import { InflightDescriptorPacked, InflightRegionPacked } from '../../../generated/vhost-user/inflight.js';
import { availableWord, LAP_WORD } from '../packed/layout.js';
import { COUNTER_END, VERSION } from './region.js';

/** A used cursor with its wrap counter. */
export interface PackedPosition {
  readonly used: number;
  readonly wrap: 0 | 1;
}

/** A chain that was in flight, as it stood in the ring. */
export interface PackedChainCopy {
  /** Its first and its last entry. */
  readonly entry: number;
  readonly last: number;
  /** Ring slots that it holds. */
  readonly slots: number;
  /** Its descriptors in the ring's layout, 4 words each. Nothing in them was checked. */
  readonly descriptors: Int32Array;
}

/** What a region says of its ring. */
export interface PackedRegionContent {
  readonly position: PackedPosition;
  /** Whether the last batch counts as published. */
  readonly committed: boolean;
  readonly freeHead: number;
  /** Entries that hold nothing. */
  readonly free: readonly number[];
  readonly next: Uint16Array;
  /** In flight, in the order in which they were taken. */
  readonly parked: readonly PackedChainCopy[];
  /** Above every counter in use. */
  readonly counter: number;
}

/**
 * Reads a region that is not fresh, a private copy of it; `ring` is a copy of the descriptor ring. A string says what is
 * wrong with it.
 */
export function readPackedRegion(
  region: Uint32Array,
  ring: Int32Array,
  size: number,
): PackedRegionContent | string {
  const { version, features, numDescriptors } = InflightRegionPacked;
  if (version(region, 0) !== VERSION) return `its version is ${version(region, 0)}, known is ${VERSION}`;
  if (features(region, 0) !== 0) return `it has unknown features, 0x${features(region, 0).toString(16)}`;
  if (numDescriptors(region, 0) !== size) {
    return `it lists ${numDescriptors(region, 0)} descriptors, the ring has ${size}`;
  }
  const decided = decide(region, ring, size);
  if (typeof decided === 'string') return decided;

  const entries = new Entries(region, size);
  const free: number[] = [];
  for (let entry = decided.freeHead; entry !== size;) {
    if (entry > size) return `its free list names entry ${entry}, there are ${size}`;
    if (!entries.own(entry)) return `its free list loops at entry ${entry}`;
    free.push(entry);
    entry = entries.next[entry]!;
  }
  const found: (PackedChainCopy & { readonly counter: number })[] = [];
  let counter = 0;
  for (let entry = 0; entry < size; entry++) {
    if (entries.isFree(entry, free.length)) continue;
    const mark = InflightDescriptorPacked.inflight(region, InflightRegionPacked.descriptorsIndex(0, entry));
    if (mark > 1) return `the mark of entry ${entry} is ${mark}`;
    if (mark === 0) continue;
    const chain = entries.chain(entry);
    if (typeof chain === 'string') return chain;
    if (chain.counter >= COUNTER_END - 1) return `the counter of entry ${entry} is ${chain.counter}`;
    if (chain.counter >= counter) counter = chain.counter + 1;
    found.push(chain);
  }
  if (entries.owned !== size) {
    return `${size - entries.owned} entries are neither free nor part of a chain in flight`;
  }
  found.sort((a, b) => a.counter - b.counter || a.entry - b.entry);
  return { ...decided, free, next: entries.next, parked: found, counter };
}

/** Which of the two sets of values counts; see PackedInflight. */
function decide(
  region: Uint32Array,
  ring: Int32Array,
  size: number,
): { committed: boolean; position: PackedPosition; freeHead: number } | string {
  const r = InflightRegionPacked;
  const free = r.freeHead(region, 0);
  const oldFree = r.oldFreeHead(region, 0);
  const used = r.usedIdx(region, 0);
  const oldUsed = r.oldUsedIdx(region, 0);
  const wrap = r.usedWrapCounter(region, 0);
  const oldWrap = r.oldUsedWrapCounter(region, 0);
  if (free > size || oldFree > size)
    return `its free list starts at entry ${free} or ${oldFree}, there are ${size}`;
  if (used >= size || oldUsed >= size) return `its used index is ${used} or ${oldUsed}, the ring has ${size}`;
  if (!isWrap(wrap) || !isWrap(oldWrap)) return `its wrap counters are ${wrap} and ${oldWrap}`;
  const moved = used !== oldUsed || wrap !== oldWrap;
  const untouched = (ring[oldUsed * 4 + 3]! & LAP_WORD) === availableWord(oldWrap);
  const committed = free === oldFree || (moved && !untouched);
  return committed
    ? { committed, position: { used, wrap }, freeHead: free }
    : { committed, position: { used: oldUsed, wrap: oldWrap }, freeHead: oldFree };
}

function isWrap(value: number): value is 0 | 1 {
  return value <= 1;
}

/** The entries of a region and which of them were accounted for. */
class Entries {
  readonly next: Uint16Array;
  readonly #region: Uint32Array;
  readonly #size: number;
  /** In which order entries were accounted for, from 1 on. */
  readonly #order: Uint16Array;
  #owned = 0;

  constructor(region: Uint32Array, size: number) {
    this.#region = region;
    this.#size = size;
    this.#order = new Uint16Array(size);
    this.next = Uint16Array.from({ length: size }, (_, i) =>
      InflightDescriptorPacked.next(region, InflightRegionPacked.descriptorsIndex(0, i)),
    );
  }

  get owned(): number {
    return this.#owned;
  }

  /** Accounts for an entry; false when that was done before. */
  own(entry: number): boolean {
    if (this.#order[entry] !== 0) return false;
    this.#order[entry] = ++this.#owned;
    return true;
  }

  /** Whether the entry was among the first `count` accounted for. */
  isFree(entry: number, count: number): boolean {
    return this.#order[entry] !== 0 && this.#order[entry]! <= count;
  }

  chain(head: number): (PackedChainCopy & { readonly counter: number }) | string {
    const index = (entry: number): number => InflightRegionPacked.descriptorsIndex(0, entry);
    const { num, last, counter } = InflightDescriptorPacked;
    const slots = num(this.#region, index(head));
    if (slots === 0 || slots > this.#size)
      return `the chain of entry ${head} has ${slots} descriptors, the ring has ${this.#size}`;
    const descriptors = new Int32Array(slots * 4);
    let entry = head;
    let end = head;
    for (let i = 0; i < slots; i++) {
      if (entry >= this.#size)
        return `the chain of entry ${head} names entry ${entry}, there are ${this.#size}`;
      if (!this.own(entry)) return `the chain of entry ${head} runs into another list at entry ${entry}`;
      const word = index(entry);
      descriptors[i * 4] = this.#region[word + 6]!;
      descriptors[i * 4 + 1] = this.#region[word + 7]!;
      descriptors[i * 4 + 2] = this.#region[word + 5]!;
      descriptors[i * 4 + 3] = this.#region[word + 4]!;
      end = entry;
      entry = this.next[entry]!;
    }
    if (last(this.#region, index(head)) !== end) {
      return `the chain of entry ${head} ends at entry ${end}, not at ${last(this.#region, index(head))}`;
    }
    return { entry: head, last: end, slots, descriptors, counter: counter(this.#region, index(head)) };
  }
}
