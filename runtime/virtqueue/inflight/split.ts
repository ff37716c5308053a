import { InflightDescriptorSplit, InflightRegionSplit } from '../../../generated/vhost-user/inflight.js';
import { COUNTER_END, FRESH, inflightError, VERSION, type InflightArea } from './region.js';

const ENTRIES = InflightRegionSplit.offset.descriptors;
const ENTRY = InflightDescriptorSplit.size;
const COUNTER = InflightDescriptorSplit.offset.counter >> 2;
const HIGH = 0x1_0000_0000;
const { setInflight, setNext } = InflightDescriptorSplit;
const { setLastBatchHead, setUsedIdx } = InflightRegionSplit;

/** The split ring as it stands in memory when a region is opened; each value was read once. */
export interface SplitRingNow {
  readonly queue: number;
  readonly size: number;
  readonly usedIndex: number;
  readonly availableIndex: number;
  /** Nothing was ever reported in the used ring: it is as a driver makes it. */
  readonly untouched: boolean;
}

/**
 * Keeps the region of a split ring (vhost-user, "Inflight I/O tracking"). One entry a descriptor; that of a chain's head
 * says whether the chain is in flight.
 *
 *   region    … | version | size | last batch's head | used index || inflight, next, counter | …
 *
 * A back-end is killed between two stores, never inside one, and what it stored stays. (The kernel keeps a dead process's
 * stores to shared memory in program order as seen by those who look later; V8 does not reorder stores to typed arrays.)
 * So it is enough that the region is right after every single store:
 *
 *   take      for each chain, in the order of the available ring:
 *             1  counter                 means nothing while the mark is 0
 *             2  inflight := 1           the chain is taken. Chains taken are always the first ones of the available ring,
 *                                        hence the next one is at: used index of the ring + number of marks.
 *             The device sees the chains after the last of these stores. One that was marked and not seen is seen later.
 *   publish   1  next := head before     of each chain of the batch. Nobody follows it yet: the list is walked as far as the
 *                                        ring's used index is ahead of the region's, and that is not at all.
 *             2  last batch's head       likewise
 *             3  used index of the ring  the driver sees the batch; from here on it must not be done again. Until the
 *                                        region says so, the list and the distance of the two indexes tell which they were.
 *             4  inflight := 0           of each chain of the batch. The list still names them, so doing it again harms nobody.
 *             5  used index              the two indexes are equal, the list has no end that anybody looks for
 *
 * Stores 1 to 5 belong to one `publish`; nothing is taken in between, so a head cannot come back while the list needs it.
 * What a completion has written is published before the next chains are taken for the same reason.
 */
export class SplitInflight {
  /** The available index from which the ring goes on, and how many chains are taken again before. */
  readonly nextAvailable: number;
  readonly #area: InflightArea;
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  /** Heads of the chains in flight when the region was opened, in the order in which they were taken. */
  readonly #parked: Uint16Array;
  #resumed = 0;
  readonly #batch: Uint16Array;
  #batchLength = 0;
  #lastBatchHead: number;
  #counter: number;

  /**
   * Opens a region for a ring. `fallback` is the available index of a ring that nothing is known of. Throws VirtqueueError
   * (ERR_VIRTQ_INFLIGHT) when it contradicts itself or the ring; then it was not written to.
   */
  constructor(area: InflightArea, ring: SplitRingNow, fallback: number) {
    this.#area = area;
    this.#u8 = area.u8;
    this.#u16 = area.u16;
    this.#u32 = area.u32;
    this.#batch = new Uint16Array(ring.size);
    const region = area.snapshot();
    if (InflightRegionSplit.version(region, 0) === FRESH) {
      this.#start(ring);
      this.#parked = new Uint16Array(0);
      this.#lastBatchHead = this.#counter = 0;
      this.nextAvailable = fallback;
      return;
    }
    const found = read(region, ring);
    if (typeof found === 'string') {
      if (!isOfAnotherLife(region, ring)) throw inflightError(ring.queue, found);
      this.#start(ring);
      this.#parked = new Uint16Array(0);
      this.#lastBatchHead = this.#counter = 0;
      this.nextAvailable = ring.usedIndex;
      return;
    }
    // What the process before was about to do after its store 3: the same stores, which may be repeated.
    for (const head of found.published) setInflight(this.#u8, ENTRIES + head * ENTRY, 0);
    setUsedIdx(this.#u16, 0, ring.usedIndex);
    this.#parked = Uint16Array.from(found.parked);
    this.#lastBatchHead = found.lastBatchHead;
    this.#counter = found.counter;
    this.nextAvailable = (ring.usedIndex + found.parked.length) & 0xffff;
  }

  /** Chains that were in flight when the region was opened and wait to be given to the device again. */
  get parked(): number {
    return this.#parked.length - this.#resumed;
  }

  /** Head of the parked chain that was taken first. */
  get nextParked(): number {
    return this.#parked[this.#resumed]!;
  }

  /** It was given to the device. In the region it is in flight as before. */
  resume(): void {
    this.#resumed++;
  }

  /** The chains of rows 0 to `rows` were taken from the available ring, in its order. */
  take(chains: Int32Array, rows: number): void {
    const u8 = this.#u8;
    const u32 = this.#u32;
    let high = Math.floor(this.#counter / HIGH);
    let low = this.#counter % HIGH;
    for (let row = 0; row < rows; row++) {
      const entry = ENTRIES + chains[row << 2]! * ENTRY;
      // The counter by halves, as `setCounter` would store it.
      u32[(entry >> 2) + COUNTER] = low;
      u32[(entry >> 2) + COUNTER + 1] = high;
      setInflight(u8, entry, 1);
      if (++low === HIGH) {
        low = 0;
        high++;
      }
    }
    this.#counter += rows;
  }

  /** A chain's used element was written. */
  complete(head: number): void {
    this.#batch[this.#batchLength++] = head;
  }

  /** The same for rows 0 to `rows`. */
  completeRows(chains: Int32Array, rows: number): void {
    const batch = this.#batch;
    let length = this.#batchLength;
    for (let row = 0; row < rows; row++) batch[length++] = chains[row << 2]!;
    this.#batchLength = length;
  }

  /** Right before the used index is stored. */
  beforePublish(): void {
    const batch = this.#batch;
    const u16 = this.#u16;
    const length = this.#batchLength;
    let head = this.#lastBatchHead;
    for (let i = 0; i < length; i++) {
      const next = batch[i]!;
      setNext(u16, (ENTRIES + next * ENTRY) >> 1, head);
      head = next;
    }
    setLastBatchHead(u16, 0, head);
    this.#lastBatchHead = head;
  }

  /** Right after it was stored. */
  afterPublish(usedIndex: number): void {
    const batch = this.#batch;
    const u8 = this.#u8;
    const length = this.#batchLength;
    for (let i = 0; i < length; i++) setInflight(u8, ENTRIES + batch[i]! * ENTRY, 0);
    setUsedIdx(this.#u16, 0, usedIndex);
    this.#batchLength = 0;
  }

  /** Lists nothing in flight and starts at the live ring's index: with 0 there, slot 0 would be taken for completed. */
  #start(ring: SplitRingNow): void {
    this.#area.initialise(ring.size, () => {
      setLastBatchHead(this.#u16, 0, 0);
      setUsedIdx(this.#u16, 0, ring.usedIndex);
    });
  }
}

interface Found {
  /** Reported to the driver, and perhaps still marked. */
  readonly published: readonly number[];
  /** In flight, in the order in which they were taken. */
  readonly parked: readonly number[];
  readonly lastBatchHead: number;
  /** Above every counter in use. */
  readonly counter: number;
}

/** Reads a region that is not fresh, a private copy of it; a string says what is wrong with it. */
function read(region: Uint32Array, ring: SplitRingNow): Found | string {
  const { size, usedIndex, availableIndex } = ring;
  const { version, features, numDescriptors, lastBatchHead, usedIdx, descriptorsIndex } = InflightRegionSplit;
  if (version(region, 0) !== VERSION) return `its version is ${version(region, 0)}, known is ${VERSION}`;
  if (features(region, 0) !== 0) return `it has unknown features, 0x${features(region, 0).toString(16)}`;
  // libvhost-user lists as many as the queue can have, whatever the driver made of it.
  const listed = numDescriptors(region, 0);
  if (listed < size || listed > capacityOf(region)) {
    return `it lists ${listed} descriptors, the ring has ${size}`;
  }

  const ahead = (usedIndex - usedIdx(region, 0)) & 0xffff;
  if (ahead > size) {
    return `the ring's used index ${usedIndex} is ${ahead} ahead of its own; the ring has ${size}`;
  }
  const published: number[] = [];
  const reported = new Uint8Array(size);
  for (let head = lastBatchHead(region, 0); published.length < ahead;) {
    if (head >= size) return `its last batch names descriptor ${head}, the ring has ${size}`;
    if (reported[head] === 1)
      return `its last batch holds ${published.length} chains, the ring reported ${ahead}`;
    reported[head] = 1;
    published.push(head);
    head = InflightDescriptorSplit.next(region, descriptorsIndex(0, head));
  }

  const parked: number[] = [];
  const counters = new Float64Array(size);
  let counter = 0;
  for (let head = 0; head < listed; head++) {
    const entry = descriptorsIndex(0, head);
    const mark = InflightDescriptorSplit.inflight(region, entry);
    if (mark > 1) return `the mark of descriptor ${head} is ${mark}`;
    if (mark === 0) continue;
    if (head >= size) return `descriptor ${head} is in flight, the ring has ${size}`;
    const own = InflightDescriptorSplit.counter(region, entry);
    if (own >= COUNTER_END - 1) return `the counter of descriptor ${head} is ${own}`;
    if (reported[head] === 1) continue;
    counters[head] = own;
    if (own >= counter) counter = own + 1;
    parked.push(head);
  }
  const outstanding = (availableIndex - usedIndex) & 0xffff;
  if (parked.length > outstanding) {
    return `${parked.length} chains are in flight, the driver waits for ${outstanding}`;
  }
  parked.sort((a, b) => counters[a]! - counters[b]! || a - b);
  return { published, parked, lastBatchHead: published[0] ?? lastBatchHead(region, 0), counter };
}

/**
 * Whether a region that does not fit may be begun anew since it was left from before the guest made its rings again: it
 * has nothing in flight, or the driver waits for nothing, or has never had an answer in this ring. Whatever the driver
 * waits for then stands in the available ring from the used index on, so nothing is lost.
 */
function isOfAnotherLife(region: Uint32Array, ring: SplitRingNow): boolean {
  if (InflightRegionSplit.version(region, 0) !== VERSION || InflightRegionSplit.features(region, 0) !== 0)
    return false;
  if (ring.availableIndex === ring.usedIndex || ring.untouched) return true;
  for (let head = 0; head < capacityOf(region); head++) {
    if (InflightDescriptorSplit.inflight(region, InflightRegionSplit.descriptorsIndex(0, head)) !== 0)
      return false;
  }
  return true;
}

function capacityOf(region: Uint32Array): number {
  return Math.floor((region.byteLength - ENTRIES) / ENTRY);
}
