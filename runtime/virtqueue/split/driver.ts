import type { WindowTable } from '../../platform/platform.js';
import { BaseDriverVirtqueue } from '../base-driver-virtqueue.js';
import type { VirtqueueState } from '../device-virtqueue.js';
import { type DriverVirtqueueConfiguration, ringLayout, type UsedBatch } from '../driver-virtqueue.js';
import { PLAIN_LOAD_ACQUIRES } from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import { INDIRECT, NEXT, NO_INTERRUPT, NO_NOTIFY, WRITE } from './layout.js';

/**
 * The driver's side of a split virtqueue (virtio 1.4, 2.7). The id of a chain is its head descriptor.
 *
 *   descriptor   i32 [4i] address low | [4i+1] address high | [4i+2] length | [4i+3] flags, next << 16
 *   available    u16 [0] flags | [1] idx | [2..] heads | [2+size] used_event
 *   used         u16 [0] flags | [1] idx; i32 [1+2i] id | [2+2i] length; u16 [2+4*size] avail_event
 *
 * Order (2.7.13): descriptors and heads are stored plainly, then `idx` by Atomics.store, a release; the event fields are
 * read after it by Atomics.load, since store and load of two sides must not pass each other. `used.idx` is loaded once a
 * collect, before the entries it announces.
 *
 * Free descriptors are a list in `nextFree`, private memory: the table is the device's to read and must not be trusted.
 * With in-order use the list is never relinked, so descriptors are taken in table order, as 2.7.5.1 asks.
 */
export class SplitDriverVirtqueue extends BaseDriverVirtqueue {
  readonly format = 'split';
  readonly #descriptorArea: RingArea;
  readonly #driverArea: RingArea;
  readonly #deviceArea: RingArea;
  readonly #descriptors: Int32Array;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedEntries: Int32Array;
  readonly #mask: number;
  readonly #nextFree: Uint16Array;
  /** By id: last descriptor of the chain. */
  readonly #last: Uint16Array;
  #freeHead = 0;
  /** Free-running over 16 bits, as in the ring: chains added, and used entries collected. */
  #nextAvailable: number;
  #nextUsed: number;
  /** Chains published since needsKick was last asked; 65536 or more forces a kick, as the first one does. */
  #sinceKick = 0x1_0000;

  constructor(configuration: DriverVirtqueueConfiguration, windows: WindowTable) {
    super(configuration, windows);
    const { size, index, areas, state } = configuration;
    if ((size & (size - 1)) !== 0) {
      throw this.error('ERR_VIRTQ_CONFIGURATION', `size of a split ring must be a power of two, is ${size}`);
    }
    const layout = ringLayout('split', size);
    const area = (name: keyof typeof areas) =>
      new RingArea(windows, areas[name], layout[name].length, layout[name].alignment, `${name} area`, index);
    this.#descriptorArea = area('descriptor');
    this.#driverArea = area('driver');
    this.#deviceArea = area('device');
    this.#descriptors = this.#descriptorArea.i32();
    this.#available = this.#driverArea.u16();
    this.#used = this.#deviceArea.u16();
    this.#usedEntries = this.#deviceArea.i32();
    this.#mask = size - 1;
    this.#nextFree = Uint16Array.from({ length: size }, (_, i) => (i + 1) & this.#mask);
    this.#last = new Uint16Array(size);
    this.#nextAvailable = this.#initialise(state);
    this.#nextUsed = this.#nextAvailable;
  }

  add(segments: Int32Array, first: number, readable: number, writable: number): number {
    const total = readable + writable;
    this.checkShape(readable, writable, this.size);
    if (total > this.freeSlots || this.broken !== null) return -1;
    const bases = this.bases;
    const descriptors = this.#descriptors;
    const nextFree = this.#nextFree;
    const head = this.#freeHead;
    let descriptor = head;
    let last = head;
    let writableBytes = 0;
    for (let i = 0; i < total; i = (i + 1) | 0) {
      const row = (first + i) << 2;
      const address = bases[segments[row]!]! + segments[row + 1]!;
      const length = segments[row + 2]!;
      if (!(address >= 0 && length >= 0)) this.refuseSegment(segments, row);
      const next = nextFree[descriptor]!;
      const p = descriptor << 2;
      let word = 0;
      if (i >= readable) {
        word = WRITE;
        writableBytes += length;
      }
      if (i + 1 < total) word |= NEXT | (next << 16);
      descriptors[p] = address;
      descriptors[p + 1] = address / 4294967296;
      descriptors[p + 2] = length;
      descriptors[p + 3] = word;
      last = descriptor;
      descriptor = next;
    }
    if (writableBytes > 0xffff_ffff) this.refuseBytes(writableBytes);
    this.#freeHead = descriptor;
    this.#last[head] = last;
    this.writable[head] = writableBytes;
    this.#offer(head, total, total);
    return head;
  }

  addIndirect(segments: Int32Array, first: number, readable: number, writable: number): number {
    const total = readable + writable;
    this.checkShape(readable, writable, this.indirectCapacity);
    if (this.freeSlots === 0 || this.broken !== null) return -1;
    const head = this.#freeHead;
    const address = this.fillTable(head, segments, first, readable, total, true);
    const descriptors = this.#descriptors;
    const p = head << 2;
    descriptors[p] = address;
    descriptors[p + 1] = address / 4294967296;
    descriptors[p + 2] = total << 4;
    descriptors[p + 3] = INDIRECT;
    this.#freeHead = this.#nextFree[head]!;
    this.#last[head] = head;
    this.#offer(head, 1, total);
    return head;
  }

  publish(): void {
    if (this.unpublished === 0) return;
    Atomics.store(this.#available, 1, this.#nextAvailable);
    this.published += this.unpublished;
    this.#sinceKick += this.unpublished;
    this.unpublished = 0;
    this.counters.publishes++;
  }

  needsKick(): boolean {
    const since = this.#sinceKick;
    if (since === 0) return false;
    this.#sinceKick = 0;
    let wanted: boolean;
    if (this.eventIdx) {
      const event = Atomics.load(this.#used, 2 + 4 * this.size);
      const published = this.#nextAvailable - this.unpublished;
      wanted = since > 0xffff || ((published - event - 1) & 0xffff) < since;
    } else {
      wanted = (Atomics.load(this.#used, 0) & NO_NOTIFY) === 0;
    }
    if (wanted) this.counters.kicks++;
    return wanted;
  }

  hasUsed(): boolean {
    return this.#used[1] !== this.#nextUsed;
  }

  enableCalls(): boolean {
    if (this.eventIdx) Atomics.store(this.#available, 2 + this.size, this.#nextUsed);
    else Atomics.store(this.#available, 0, 0);
    return Atomics.load(this.#used, 1) !== this.#nextUsed;
  }

  disableCalls(): void {
    // With event idx the flags word stays 0 (2.7.10.1); an event just behind us is as far away as one can be.
    if (this.eventIdx) this.#available[2 + this.size] = this.#nextUsed - 1;
    else this.#available[0] = NO_INTERRUPT;
  }

  state(): VirtqueueState {
    return {
      format: 'split',
      nextAvailable: (this.#nextAvailable - this.unpublished) & 0xffff,
      nextUsed: this.#nextUsed,
    };
  }

  protected ringLost(): boolean {
    return this.#deviceArea.lost || this.#driverArea.lost || this.#descriptorArea.lost;
  }

  protected collectAny(used: UsedBatch, max: number): number {
    const claim = this.#claim();
    if (claim === 0) return 0;
    const { size, slots, writable } = this;
    const { ids, lengths } = used;
    const entries = this.#usedEntries;
    const nextFree = this.#nextFree;
    const lasts = this.#last;
    const mask = this.#mask;
    const end = claim < max ? claim : max;
    let next = this.#nextUsed;
    let freeHead = this.#freeHead;
    let freed = 0;
    let row = 0;
    for (; row < end; row = (row + 1) | 0) {
      const p = ((next & mask) << 1) + 1;
      const id = entries[p]! >>> 0;
      const length = entries[p + 1]! >>> 0;
      if (id >= size) break;
      const held = slots[id]!;
      if (held === 0 || length > writable[id]!) break;
      slots[id] = 0;
      freed = (freed + held) | 0;
      nextFree[lasts[id]!] = freeHead;
      freeHead = id;
      ids[row] = id;
      lengths[row] = length;
      next = (next + 1) & 0xffff;
    }
    if (row < end) {
      const p = ((next & mask) << 1) + 1;
      this.failUsed(`used entry ${next}`, entries[p]! >>> 0, entries[p + 1]! >>> 0);
    }
    this.#nextUsed = next;
    this.#freeHead = freeHead;
    this.freeSlots = (this.freeSlots + freed) | 0;
    this.published = (this.published - row) | 0;
    return row;
  }

  protected peekUsed(): number {
    if (this.#claim() === 0) return -1;
    const p = ((this.#nextUsed & this.#mask) << 1) + 1;
    const id = this.#usedEntries[p]! >>> 0;
    const length = this.#usedEntries[p + 1]! >>> 0;
    if (id >= this.size || this.slots[id] === 0 || length > this.writable[id]!) {
      this.failUsed(`used entry ${this.#nextUsed}`, id, length);
      return -1;
    }
    this.peekedLength = length;
    return id;
  }

  protected usedClaim(): number {
    return (this.#used[1]! - this.#nextUsed) & 0xffff;
  }

  protected release(id: number): void {
    this.freeSlots += this.slots[id]!;
    this.slots[id] = 0;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
  }

  /** How many used entries the device announces; more than there are chains breaks the queue. */
  #claim(): number {
    let idx = this.#used[1]!;
    if (idx === this.#nextUsed) return 0;
    if (!PLAIN_LOAD_ACQUIRES) idx = Atomics.load(this.#used, 1);
    const claim = (idx - this.#nextUsed) & 0xffff;
    if (claim <= this.published) return claim;
    this.fail(
      'ERR_VIRTQ_USED',
      `used idx went from ${this.#nextUsed} to ${idx}: ${claim} chains, but ${this.published} are in flight`,
    );
    return 0;
  }

  /** Puts a filled chain into the available ring. */
  #offer(head: number, slots: number, segments: number): void {
    this.#available[2 + (this.#nextAvailable & this.#mask)] = head;
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    this.added(head, slots, segments);
  }

  /** Clears the ring and writes the indexes of `state`; returns where to go on. */
  #initialise(state: VirtqueueState | undefined): number {
    if (state !== undefined && (state.format !== 'split' || state.nextAvailable !== state.nextUsed)) {
      throw this.error(
        'ERR_VIRTQ_CONFIGURATION',
        'a split driver queue starts from a split state with nothing in flight',
      );
    }
    const start = (state?.nextAvailable ?? 0) & 0xffff;
    this.#descriptors.fill(0);
    this.#available.fill(0);
    this.#used.fill(0);
    this.#available[1] = start;
    this.#used[1] = start;
    if (this.eventIdx) this.#available[2 + this.size] = start;
    return start;
  }
}
