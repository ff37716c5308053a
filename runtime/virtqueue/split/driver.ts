import type { WindowTable } from '../../platform/platform.js';
import { BaseDriverVirtqueue } from '../base-driver-virtqueue.js';
import type { VirtqueueState } from '../device-virtqueue.js';
import { type DriverVirtqueueConfiguration, ringLayout, type UsedBatch } from '../driver-virtqueue.js';
import * as memoryOrder from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import * as layout from './layout.js';
import { NO_INTERRUPT, NO_NOTIFY } from './layout.js';

// Imported bindings cost a load and a check at every use; see device.ts.
const NEXT = layout.NEXT;
const WRITE = layout.WRITE;
const INDIRECT = layout.INDIRECT;
/** Descriptors are numbered below 32768; the compiler knows from the mask that indexes are not negative. */
const INDEX = 0x7fff;
const PLAIN_LOAD_ACQUIRES = memoryOrder.PLAIN_LOAD_ACQUIRES;

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
 * Free descriptors are a list in the book, private memory: the table is the device's to read and must not be trusted.
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
  #freeHead = 0;
  /** Free-running over 16 bits, as in the ring: chains added, and used entries collected. */
  #nextAvailable = 0;
  #nextUsed = 0;
  /** Chains published since needsKick was last asked; 65536 or more forces a kick, as the first one does. */
  #sinceKick = 0x1_0000;

  constructor(configuration: DriverVirtqueueConfiguration, windows: WindowTable) {
    super(configuration, windows);
    const { size, index, areas, state } = configuration;
    if ((size & (size - 1)) !== 0) {
      throw this.error('ERR_VIRTQ_CONFIGURATION', `size of a split ring must be a power of two, is ${size}`);
    }
    const shapes = ringLayout('split', size);
    const area = (name: keyof typeof areas) =>
      new RingArea(windows, areas[name], shapes[name].length, shapes[name].alignment, `${name} area`, index);
    this.#descriptorArea = area('descriptor');
    this.#driverArea = area('driver');
    this.#deviceArea = area('device');
    this.#descriptors = this.#descriptorArea.i32();
    this.#available = this.#driverArea.u16();
    this.#used = this.#deviceArea.u16();
    this.#usedEntries = this.#deviceArea.i32();
    this.#mask = size - 1;
    this.#nextAvailable = this.#initialise(state);
    this.#nextUsed = this.#nextAvailable;
  }

  add(segments: Int32Array, first: number, readable: number, writable: number): number {
    const total = readable + writable;
    this.checkShape(readable, writable, this.size);
    if (total > this.freeSlots || this.broken !== null) return -1;
    const { bases, book } = this;
    const descriptors = this.#descriptors;
    const head = this.#freeHead & INDEX;
    let p = head << 2;
    let row = first << 2;
    let free = 0;
    let writableBytes = 0;
    for (let left = total | 0; ; row = (row + 4) | 0) {
      const address = bases[segments[row]!]! + segments[(row + 1) | 0]!;
      const length = segments[(row + 2) | 0]!;
      if (!(address >= 0 && length >= 0)) this.refuseSegment(segments, row);
      let word = 0;
      if (left <= writable) {
        word = WRITE;
        writableBytes += length;
      }
      descriptors[p] = address;
      descriptors[p + 1] = address / 4294967296;
      descriptors[p + 2] = length;
      free = book[p + 2]! & INDEX;
      left = (left - 1) | 0;
      if (left === 0) {
        descriptors[p + 3] = word;
        break;
      }
      descriptors[p + 3] = word | NEXT | (free << 16);
      p = free << 2;
    }
    if (writableBytes > 0xffff_ffff) this.refuseBytes(writableBytes);
    book[head << 2] = total | (p << 14);
    book[(head << 2) + 1] = writableBytes;
    this.#freeHead = free;
    this.#offer(head, total);
    return head;
  }

  addIndirect(segments: Int32Array, first: number, readable: number, writable: number): number {
    const total = readable + writable;
    this.checkShape(readable, writable, this.indirectCapacity);
    if (this.freeSlots === 0 || this.broken !== null) return -1;
    const head = this.#freeHead;
    const address = this.fillTable(head, segments, first, writable, total, true);
    const descriptors = this.#descriptors;
    const p = head << 2;
    descriptors[p] = address;
    descriptors[(p + 1) | 0] = address / 4294967296;
    descriptors[(p + 2) | 0] = total << 4;
    descriptors[(p + 3) | 0] = INDIRECT;
    this.book[p] = 1 | (head << 16);
    this.#freeHead = this.book[(p + 2) | 0]!;
    this.#offer(head, 1);
    return head;
  }

  publish(): void {
    if (this.unpublished === 0) return;
    Atomics.store(this.#available, 1, this.#nextAvailable);
    this.#sinceKick += this.unpublished;
    this.handedOver();
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
    const { size, book } = this;
    const { ids, lengths } = used;
    const entries = this.#usedEntries;
    const mask = this.#mask & INDEX;
    const end = claim < max ? claim : max;
    let next = this.#nextUsed | 0;
    let freeHead = this.#freeHead | 0;
    let freed = 0;
    let row = 0;
    for (; row < end; row = (row + 1) | 0) {
      const p = ((next & mask) << 1) + 1;
      const id = entries[p]!;
      const length = entries[p + 1]! >>> 0;
      if (id >>> 0 >= size) break;
      const b = (id & INDEX) << 2;
      const entry = book[b]!;
      if (entry === 0 || length > book[b + 1]! >>> 0) break;
      book[b] = 0;
      freed = (freed + (entry & 0xffff)) | 0;
      book[((entry >>> 16) << 2) + 2] = freeHead;
      freeHead = id;
      ids[row] = id;
      lengths[row] = length;
      next = (next + 1) & 0xffff;
    }
    if (row < end) {
      const p = (((next & mask) << 1) + 1) | 0;
      this.failUsed(`used entry ${next}`, entries[p]! >>> 0, entries[p + 1]! >>> 0);
    }
    this.#nextUsed = next;
    this.#freeHead = freeHead;
    this.freed(freed);
    this.published = (this.published - row) | 0;
    return row;
  }

  protected peekUsed(): number {
    if (this.#claim() === 0) return -1;
    const p = ((this.#nextUsed & this.#mask) << 1) + 1;
    const id = this.#usedEntries[p]! >>> 0;
    const length = this.#usedEntries[p + 1]! >>> 0;
    if (id >= this.size || this.book[id * 4] === 0 || length > this.writable(id)) {
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
    this.freed(this.book[id * 4]! & 0xffff);
    this.book[id * 4] = 0;
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
  #offer(head: number, slots: number): void {
    this.#available[((this.#nextAvailable & this.#mask) + 2) | 0] = head;
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    this.added(head, slots);
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
