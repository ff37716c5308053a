import { InflightDescriptorPacked, InflightRegionPacked } from '../../../generated/vhost-user/inflight.js';
import { LAP_WORD, availableWord } from '../packed/layout.js';
import { readPackedRegion, type PackedChainCopy, type PackedPosition } from './packed-reader.js';
import { FRESH, inflightError, type InflightArea } from './region.js';
import { isOfAnotherLife } from './packed-ring-history.js';

const ENTRIES = InflightRegionPacked.offset.descriptors;
const ENTRY = InflightDescriptorPacked.size;
const { setInflight, setNext, setLast, setNum, setCounter } = InflightDescriptorPacked;
const { setFreeHead, setOldFreeHead, setUsedIdx, setOldUsedIdx, setUsedWrapCounter, setOldUsedWrapCounter } =
  InflightRegionPacked;

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

  /** A chain was taken from ring slots `slot` on. It counts from `commitTaken` on. */
  take(id: number, slot: number, slots: number, descriptors: Int32Array): void {
    const head = this.#freeHead;
    let entry = head;
    let last = head;
    let from = slot;
    for (let i = 0; i < slots; i++) {
      const to = (ENTRIES + entry * ENTRY) >> 2;
      // The same 16 bytes in another order:  ring  addr | len | id, flags      entry  id, flags | len | addr
      this.#u32[to + ID_FLAGS] = descriptors[from * 4 + 3]!;
      this.#u32[to + LENGTH] = descriptors[from * 4 + 2]!;
      this.#u32[to + ADDRESS] = descriptors[from * 4]!;
      this.#u32[to + ADDRESS + 1] = descriptors[from * 4 + 1]!;
      last = entry;
      entry = this.#next[entry]!;
      if (++from === this.#size) from = 0;
    }
    const bytes = ENTRIES + head * ENTRY;
    setLast(this.#u16, bytes >> 1, last);
    setNum(this.#u16, bytes >> 1, slots);
    setCounter(this.#u32, bytes >> 2, this.#counter++);
    setInflight(this.#u8, bytes, 1);
    this.#entryOf[id] = head;
    this.#last[head] = last;
    this.#freeHead = entry;
  }

  /** The chains taken since the last time are in flight. */
  commitTaken(): void {
    setFreeHead(this.#u16, 0, this.#freeHead);
    setOldFreeHead(this.#u16, 0, this.#freeHead);
  }

  /** A chain's used element was written, except for the flags of the batch's first. */
  complete(id: number): void {
    this.#batch[this.#batchLength++] = this.#entryOf[id]!;
  }

  /** Right before those flags are stored; the position is the one behind the batch. */
  beforePublish(used: number, wrap: 0 | 1): void {
    let free = this.#freeHead;
    for (let i = 0; i < this.#batchLength; i++) {
      const entry = this.#batch[i]!;
      const last = this.#last[entry]!;
      this.#next[last] = free;
      setNext(this.#u16, (ENTRIES + last * ENTRY) >> 1, free);
      free = entry;
    }
    this.#freeHead = free;
    setFreeHead(this.#u16, 0, free);
    setUsedIdx(this.#u16, 0, used);
    setUsedWrapCounter(this.#u8, 0, wrap);
  }

  /** Right after they were stored. */
  afterPublish(used: number, wrap: 0 | 1): void {
    for (let i = 0; i < this.#batchLength; i++) {
      setInflight(this.#u8, ENTRIES + this.#batch[i]! * ENTRY, 0);
    }
    this.#batchLength = 0;
    setOldFreeHead(this.#u16, 0, this.#freeHead);
    setOldUsedIdx(this.#u16, 0, used);
    setOldUsedWrapCounter(this.#u8, 0, wrap);
  }

  /** The driver has given up on all chains, by a reset. */
  forget(): void {
    this.#area.forget();
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

/** Where the copied words stand in an entry. */
const ID_FLAGS = InflightDescriptorPacked.offset.id >> 2;
const LENGTH = InflightDescriptorPacked.offset.len >> 2;
const ADDRESS = InflightDescriptorPacked.offset.addr >> 2;
