import { InflightDescriptorPacked, InflightRegionPacked } from '../../../generated/vhost-user/inflight.js';
import { LAP_WORD, availableWord } from '../packed/layout.js';
import { readPackedRegion, type PackedChainCopy, type PackedPosition } from './packed-reader.js';
import { FRESH, inflightError, type InflightArea } from './region.js';
import { isOfAnotherLife } from './packed-ring-history.js';

const ENTRIES = InflightRegionPacked.offset.descriptors;
const ENTRY = InflightDescriptorPacked.size;
const { setInflight, setNext, setLast, setNum } = InflightDescriptorPacked;
const { setFreeHead, setOldFreeHead, setUsedIdx, setOldUsedIdx, setUsedWrapCounter, setOldUsedWrapCounter } =
  InflightRegionPacked;

/** Where words stand in an entry. */
const COUNTER = InflightDescriptorPacked.offset.counter >> 2;
const HIGH = 0x1_0000_0000;
const ID_FLAGS = InflightDescriptorPacked.offset.id >> 2;
const LENGTH = InflightDescriptorPacked.offset.len >> 2;
const ADDRESS = InflightDescriptorPacked.offset.addr >> 2;

/** The packed ring when a region is opened. */
export interface PackedRingNow {
  readonly queue: number;
  readonly size: number;
  /** The descriptor ring itself, for repairs. */
  readonly descriptors: Int32Array;
  /** Its flags as u16, stride 8. */
  readonly halves: Uint16Array;
}

/**
 * Keeps the region of a packed ring (vhost-user, "Inflight I/O tracking"). Used elements overwrite the descriptors of
 * chains in flight, so every descriptor taken is copied into an entry. The entries of one chain are linked from its head
 * entry on; those that hold nothing form the free list, which ends with the number of entries.
 *
 *   region   … | free head, old free head | used index, old one | wrap counters || entries …
 *   entry    inflight | next | last | num | counter | id, flags, len, addr of the descriptor
 *
 * A back-end is killed between two stores, and what it stored stays; see SplitInflight. The region is right after every
 * single one:
 *
 *   take      1  entries from the free list on: the descriptors; in a chain's first also last, num, counter, inflight := 1
 *             2  free head               and
 *             3  old free head           until here all of it is still in the free list, whose marks mean nothing
 *             The device sees the chains after store 3. All chains of a drain become taken by one store.
 *   publish   1  next of the last entry of each chain of the batch, so that the entries will lead to the free list. Nobody
 *                follows them yet.
 *             2  free head, then used index and wrap counter: what will be so
 *             3  flags of the first used descriptor of the batch: the driver sees it all
 *             4  inflight := 0           of each chain of the batch
 *             5  old free head, then old used index and wrap counter := the new ones
 *
 *   Whoever resumes looks at the two free heads. When they are equal, no batch is being published or its store 5 has begun:
 *   the new values count. Otherwise, when the two positions are equal, it was store 2 of either kind, and the old free head
 *   counts. Otherwise the descriptor at the old position tells: while it is what the driver made available, store 3 has not
 *   been done and the old values count. It need not read as used after store 3, since the driver may have put the next
 *   lap's descriptor there. Marks in the free list that counts are cleared.
 *
 * The flags of used elements behind the first are in the ring before store 3. A process killed there leaves them behind,
 * in slots of chains that are in flight, and the driver would take them for used as soon as it comes by. So a resumed
 * ring first makes them available again; these slots are the device's.
 *
 * Nothing is taken between the stores of one `publish`, and what was completed is published before the next chains are
 * taken: an entry in flight is never given out twice.
 */
export class PackedInflight {
  /** Where used elements go on, and how many slots the chains in flight have taken from there on. */
  readonly position: PackedPosition;
  readonly slotsParked: number;
  readonly #area: InflightArea;
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #size: number;
  /** Private copies of what the region says; it is not read again. */
  readonly #next: Uint16Array;
  readonly #last: Uint16Array;
  /** Head entry of the chain with this buffer id. */
  readonly #entryOf: Uint16Array;
  #freeHead: number;
  #counter: number;
  readonly #parked: readonly PackedChainCopy[];
  #resumed = 0;
  readonly #batch: Uint16Array;
  #batchLength = 0;

  /**
   * Opens a region for a ring. `base` is the front-end's position, for a ring that the region knows nothing of. Throws
   * VirtqueueError (ERR_VIRTQ_INFLIGHT) when it contradicts itself or the ring; then neither was written to.
   */
  constructor(area: InflightArea, ring: PackedRingNow, base: PackedPosition) {
    const { size, queue } = ring;
    this.#area = area;
    this.#u8 = area.u8;
    this.#u16 = area.u16;
    this.#u32 = area.u32;
    this.#size = size;
    this.#entryOf = new Uint16Array(size);
    this.#batch = new Uint16Array(size);
    this.#last = new Uint16Array(size);

    const region = area.snapshot();
    const before = ring.descriptors.slice();
    const fresh = InflightRegionPacked.version(region, 0) === FRESH;
    const found = fresh ? null : readPackedRegion(region, before, size);
    if (found === null || isOfAnotherLife(region, found, before, size, base)) {
      this.position = base;
      this.slotsParked = 0;
      this.#parked = [];
      this.#next = Uint16Array.from({ length: size }, (_, i) => i + 1);
      this.#freeHead = this.#counter = 0;
      this.#start(base);
      return;
    }
    if (typeof found === 'string') throw inflightError(queue, found);
    this.position = found.position;
    this.#next = found.next;
    this.#freeHead = found.freeHead;
    this.#counter = found.counter;
    this.#parked = found.parked;
    this.slotsParked = found.parked.reduce((sum, { slots }) => sum + slots, 0);
    this.#decide(found.committed, found.position, found.freeHead);
    for (const entry of found.free) setInflight(this.#u8, ENTRIES + entry * ENTRY, 0);
    this.#repair(ring, before);
  }

  /** Chains that were in flight when the region was opened and wait to be given to the device again. */
  get parked(): number {
    return this.#parked.length - this.#resumed;
  }

  /** The parked chain that was taken first. */
  get nextParked(): PackedChainCopy {
    return this.#parked[this.#resumed]!;
  }

  /** It was given to the device under this buffer id. In the region it is in flight as before. */
  resume(id: number): void {
    const { entry, last } = this.#parked[this.#resumed++]!;
    this.#entryOf[id] = entry;
    this.#last[entry] = last;
  }

  /**
   * The chains of rows 0 to `rows` were taken from the ring, the first one from `slot` on; `book` has each one's slots. Returns
   * the slot behind the last.
   */
  take(chains: Int32Array, rows: number, book: Int32Array, slot: number, descriptors: Int32Array): number {
    const u8 = this.#u8;
    const u16 = this.#u16;
    const u32 = this.#u32;
    const next = this.#next;
    const ringEnd = this.#size << 2;
    let high = Math.floor(this.#counter / HIGH);
    let low = this.#counter % HIGH;
    let entry = this.#freeHead;
    let from = slot << 2;
    for (let row = 0; row < rows; row++) {
      const id = chains[row << 2]!;
      const slots = book[id << 1]!;
      const head = entry;
      let last = head;
      for (let i = 0; i < slots; i++) {
        const to = (ENTRIES + entry * ENTRY) >> 2;
        // The same 16 bytes in another order:  ring  addr | len | id, flags      entry  id, flags | len | addr
        u32[to + ID_FLAGS] = descriptors[from + 3]!;
        u32[to + LENGTH] = descriptors[from + 2]!;
        u32[to + ADDRESS] = descriptors[from]!;
        u32[to + ADDRESS + 1] = descriptors[from + 1]!;
        last = entry;
        entry = next[entry]!;
        from += 4;
        if (from === ringEnd) from = 0;
      }
      const bytes = ENTRIES + head * ENTRY;
      setLast(u16, bytes >> 1, last);
      setNum(u16, bytes >> 1, slots);
      // The counter by halves, as `setCounter` would store it.
      u32[(bytes >> 2) + COUNTER] = low;
      u32[(bytes >> 2) + COUNTER + 1] = high;
      setInflight(u8, bytes, 1);
      this.#entryOf[id] = head;
      this.#last[head] = last;
      if (++low === HIGH) {
        low = 0;
        high++;
      }
    }
    this.#counter += rows;
    this.#freeHead = entry;
    // Now all of them are in flight.
    setFreeHead(u16, 0, entry);
    setOldFreeHead(u16, 0, entry);
    return from >> 2;
  }

  /** A chain's used element was written, except for the flags of the batch's first. */
  complete(id: number): void {
    this.#batch[this.#batchLength++] = this.#entryOf[id]!;
  }

  /** The same for rows 0 to `rows`. */
  completeRows(chains: Int32Array, rows: number): void {
    const batch = this.#batch;
    const entryOf = this.#entryOf;
    let length = this.#batchLength;
    for (let row = 0; row < rows; row++) batch[length++] = entryOf[chains[row << 2]!]!;
    this.#batchLength = length;
  }

  /** Right before those flags are stored; the position is the one behind the batch. */
  beforePublish(used: number, wrap: 0 | 1): void {
    const batch = this.#batch;
    const u16 = this.#u16;
    const next = this.#next;
    const length = this.#batchLength;
    let free = this.#freeHead;
    for (let i = 0; i < length; i++) {
      const entry = batch[i]!;
      const last = this.#last[entry]!;
      next[last] = free;
      setNext(u16, (ENTRIES + last * ENTRY) >> 1, free);
      free = entry;
    }
    this.#freeHead = free;
    setFreeHead(u16, 0, free);
    setUsedIdx(u16, 0, used);
    setUsedWrapCounter(this.#u8, 0, wrap);
  }

  /** Right after they were stored. */
  afterPublish(used: number, wrap: 0 | 1): void {
    const batch = this.#batch;
    const u8 = this.#u8;
    const u16 = this.#u16;
    const length = this.#batchLength;
    for (let i = 0; i < length; i++) setInflight(u8, ENTRIES + batch[i]! * ENTRY, 0);
    this.#batchLength = 0;
    setOldFreeHead(u16, 0, this.#freeHead);
    setOldUsedIdx(u16, 0, used);
    setOldUsedWrapCounter(u8, 0, wrap);
  }

  /** Lists nothing in flight, at the position of the live ring. */
  #start({ used, wrap }: PackedPosition): void {
    this.#area.initialise(this.#size, () => {
      for (let i = 0; i < this.#size; i++) setNext(this.#u16, (ENTRIES + i * ENTRY) >> 1, i + 1);
      setFreeHead(this.#u16, 0, 0);
      setOldFreeHead(this.#u16, 0, 0);
      setUsedIdx(this.#u16, 0, used);
      setOldUsedIdx(this.#u16, 0, used);
      setUsedWrapCounter(this.#u8, 0, wrap);
      setOldUsedWrapCounter(this.#u8, 0, wrap);
    });
  }

  /**
   * Makes old and new values the same. Killed in between, the next process decides the same: with equal free heads the new
   * values count, so a batch that counts begins with these and one that does not ends with them.
   */
  #decide(committed: boolean, { used, wrap }: PackedPosition, freeHead: number): void {
    if (committed) {
      setOldFreeHead(this.#u16, 0, freeHead);
      setOldUsedIdx(this.#u16, 0, used);
      setOldUsedWrapCounter(this.#u8, 0, wrap);
    } else {
      setUsedIdx(this.#u16, 0, used);
      setUsedWrapCounter(this.#u8, 0, wrap);
      setFreeHead(this.#u16, 0, freeHead);
    }
  }

  /** Takes back used flags in slots of chains in flight; see above. */
  #repair({ halves }: PackedRingNow, before: Int32Array): void {
    let { used: slot, wrap } = this.position;
    for (let i = 0; i < this.slotsParked; i++) {
      const flags = before[slot * 4 + 3]! >>> 16;
      const available = availableWord(wrap) >>> 16;
      const lap = LAP_WORD >>> 16;
      if ((flags & lap) !== available) halves[slot * 8 + 7] = (flags & ~lap) | available;
      if (++slot === this.#size) {
        slot = 0;
        wrap = wrap === 1 ? 0 : 1;
      }
    }
  }
}
