import type { WindowTable } from '../../platform/platform.js';
import { BaseDriverVirtqueue } from '../base-driver-virtqueue.js';
import type { VirtqueueState } from '../device-virtqueue.js';
import { type DriverVirtqueueConfiguration, ringLayout, type UsedBatch } from '../driver-virtqueue.js';
import * as memoryOrder from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import * as layout from './layout.js';
import { availableWord, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, usedFlags } from './layout.js';

// Imported bindings cost a load and a check at every use; see device.ts.
const NEXT_WORD = layout.NEXT_WORD;
const INDIRECT_WORD = layout.INDIRECT_WORD;
const WRITE_WORD = layout.WRITE << 16;
const LAP_WORD = layout.LAP_WORD;
/** Slots are numbered below 32768; the compiler knows from the mask that indexes are not negative. */
const INDEX = 0x7fff;
const PLAIN_LOAD_ACQUIRES = memoryOrder.PLAIN_LOAD_ACQUIRES;
/** What AVAIL and USED of an available descriptor are while the wrap counter is 1. */
const FIRST_LAP = availableWord(1);

/**
 * The driver's side of a packed virtqueue (virtio 1.4, 2.8). Any size, powers of two or not.
 *
 *   descriptor     i32 [4i] address low | [4i+1] address high | [4i+2] length | [4i+3] id, flags << 16
 *   driver event   u16 [0] offset, wrap << 15 | [1] flags       (what calls we want)
 *   device event   u16 [0] offset, wrap << 15 | [1] flags       (what kicks it wants)
 *
 * Order (2.8.21): everything of a batch is stored plainly, except the last word of its first descriptor, which `publish`
 * writes by Atomics.store, a release; the device stops in front of that descriptor, so it sees none of the batch before.
 * Then the device's event area is read by Atomics.load: store and load of two sides must not pass each other. A used
 * descriptor's flags are loaded before the rest of it.
 *
 * Free ids are a list in the book, private memory. The book also says how many descriptors an id holds, and by so many
 * the cursor of used descriptors moves on, whatever the order in which the device completes.
 */
export class PackedDriverVirtqueue extends BaseDriverVirtqueue {
  readonly format = 'packed';
  readonly #ringArea: RingArea;
  readonly #driverArea: RingArea;
  readonly #deviceArea: RingArea;
  readonly #ring: Int32Array;
  readonly #driverEvent: Uint16Array;
  readonly #deviceEvent: Uint16Array;
  /** The first of the free ids. */
  #freeId = 0;
  #nextAvailable = 0;
  /** AVAIL and USED, in their places, of a descriptor that is made available in this cursor's lap. */
  #availableBits = 0;
  #nextUsed = 0;
  /** The same of one that is used in this cursor's. */
  #usedBits = 0;
  /** The batch's first descriptor, -1 for an empty batch, and the word that will make it available. */
  #firstSlot = -1;
  #firstWord = 0;
  /** Descriptors made available since needsKick was last asked; a whole ring or more forces a kick. */
  #sinceKick = 0;

  constructor(configuration: DriverVirtqueueConfiguration, windows: WindowTable) {
    super(configuration, windows);
    const { size, index, areas } = configuration;
    const shapes = ringLayout('packed', size);
    const area = (name: keyof typeof areas) =>
      new RingArea(windows, areas[name], shapes[name].length, shapes[name].alignment, `${name} area`, index);
    this.#ringArea = area('descriptor');
    this.#driverArea = area('driver');
    this.#deviceArea = area('device');
    this.#ring = this.#ringArea.i32();
    this.#driverEvent = this.#driverArea.u16();
    this.#deviceEvent = this.#deviceArea.u16();
    this.#sinceKick = 2 * size;
    const start = this.#initialise(configuration.state);
    this.#nextAvailable = this.#nextUsed = start.slot;
    this.#availableBits = availableWord(start.wrap);
    this.#usedBits = usedFlags(start.wrap) << 16;
  }

  add(segments: Int32Array, first: number, readable: number, writable: number): number {
    const total = readable + writable;
    this.checkShape(readable, writable, this.size);
    if (total > this.freeSlots || this.broken !== null) return -1;
    const { bases, size } = this;
    const ring = this.#ring;
    const id = this.#freeId | 0;
    let slot = this.#nextAvailable | 0;
    let bits = this.#availableBits | 0;
    let row = first << 2;
    let headWord = 0;
    let writableBytes = 0;
    for (let left = total | 0; ; row = (row + 4) | 0) {
      const address = bases[segments[row]!]! + segments[(row + 1) | 0]!;
      const length = segments[(row + 2) | 0]!;
      if (!(address >= 0 && length >= 0)) this.refuseSegment(segments, row);
      let word = id | bits;
      if (left <= writable) {
        word |= WRITE_WORD;
        writableBytes += length;
      }
      const p = (slot & INDEX) << 2;
      ring[p] = address;
      ring[p + 1] = address / 4294967296;
      ring[p + 2] = length;
      slot = (slot + 1) | 0;
      if (slot === size) {
        slot = 0;
        bits ^= LAP_WORD;
      }
      if (left !== 1) word |= NEXT_WORD;
      if (left === total) headWord = word;
      else ring[p + 3] = word;
      left = (left - 1) | 0;
      if (left === 0) break;
    }
    if (writableBytes > 0xffff_ffff) this.refuseBytes(writableBytes);
    this.book[((id << 2) + 1) | 0] = writableBytes;
    this.#offer(id, headWord, slot, bits, total);
    return id;
  }

  addIndirect(segments: Int32Array, first: number, readable: number, writable: number): number {
    const total = readable + writable;
    this.checkShape(readable, writable, this.indirectCapacity);
    if (this.freeSlots === 0 || this.broken !== null) return -1;
    const id = this.#freeId;
    const address = this.fillTable(id, segments, first, writable, total, false);
    const ring = this.#ring;
    const p = this.#nextAvailable << 2;
    ring[p] = address;
    ring[(p + 1) | 0] = address / 4294967296;
    ring[(p + 2) | 0] = total << 4;
    const bits = this.#availableBits;
    const word = id | INDIRECT_WORD | bits;
    const slot = (this.#nextAvailable + 1) | 0;
    if (slot < this.size) this.#offer(id, word, slot, bits, 1);
    else this.#offer(id, word, 0, bits ^ LAP_WORD, 1);
    return id;
  }

  publish(): void {
    if (this.#firstSlot < 0) return;
    Atomics.store(this.#ring, (this.#firstSlot << 2) + 3, this.#firstWord);
    this.#firstSlot = -1;
    this.#sinceKick += this.slotsUnpublished;
    this.handedOver();
  }

  needsKick(): boolean {
    const since = this.#sinceKick;
    if (since === 0) return false;
    this.#sinceKick = 0;
    const wanted = since >= this.size || this.#deviceWants(since);
    if (wanted) this.counters.kicks++;
    return wanted;
  }

  hasUsed(): boolean {
    return (this.#ring[(this.#nextUsed << 2) + 3]! & LAP_WORD) === this.#usedBits || this.batchPending;
  }

  enableCalls(): boolean {
    if (this.eventIdx) {
      // The offset is in place before the flags say that it counts (2.8.10).
      Atomics.store(this.#driverEvent, 0, this.#nextUsed | (this.#usedWrap << 15));
      Atomics.store(this.#driverEvent, 1, EVENT_DESC);
    } else {
      Atomics.store(this.#driverEvent, 1, EVENT_ENABLE);
    }
    const word = Atomics.load(this.#ring, (this.#nextUsed << 2) + 3);
    return (word & LAP_WORD) === this.#usedBits || this.batchPending;
  }

  disableCalls(): void {
    this.#driverEvent[1] = EVENT_DISABLE;
  }

  state(): VirtqueueState {
    let nextAvailable = this.#nextAvailable - this.slotsUnpublished;
    let availableWrap = this.#availableWrap;
    if (nextAvailable < 0) {
      nextAvailable += this.size;
      availableWrap = availableWrap === 1 ? 0 : 1;
    }
    return {
      format: 'packed',
      nextAvailable,
      availableWrap,
      nextUsed: this.#nextUsed,
      usedWrap: this.#usedWrap,
    };
  }

  protected ringLost(): boolean {
    return this.#ringArea.lost || this.#driverArea.lost || this.#deviceArea.lost;
  }

  protected collectAny(used: UsedBatch, max: number): number {
    const { size, book, published } = this;
    const { ids, lengths } = used;
    const ring = this.#ring;
    let freeId = this.#freeId | 0;
    let next = this.#nextUsed | 0;
    let bits = this.#usedBits | 0;
    let freed = 0;
    let row = 0;
    let bad = false;
    while (row < max) {
      const p = (next & INDEX) << 2;
      let word = ring[p + 3]!;
      if ((word & LAP_WORD) !== bits) break;
      if (!PLAIN_LOAD_ACQUIRES) word = Atomics.load(ring, p + 3);
      const id = word & 0xffff;
      const length = (word & WRITE_WORD) === 0 ? 0 : ring[p + 2]! >>> 0;
      if (row >= published || id >= size) {
        bad = true;
        break;
      }
      const b = id << 2;
      const held = book[b]!;
      if (held === 0 || length > book[b + 1]! >>> 0) {
        bad = true;
        break;
      }
      book[b] = 0;
      book[b + 2] = freeId;
      freeId = id;
      freed = (freed + held) | 0;
      ids[row] = id;
      lengths[row] = length;
      row = (row + 1) | 0;
      next = (next + held) | 0;
      if (next >= size) {
        next = (next - size) | 0;
        bits ^= LAP_WORD;
      }
    }
    this.#nextUsed = next;
    this.#usedBits = bits;
    this.#freeId = freeId;
    this.freed(freed);
    this.published = (published - row) | 0;
    if (bad) this.#failDescriptor();
    return row;
  }

  protected peekUsed(): number {
    if (!this.hasUsed()) return -1;
    const p = this.#nextUsed << 2;
    const word = PLAIN_LOAD_ACQUIRES ? this.#ring[p + 3]! : Atomics.load(this.#ring, p + 3);
    const id = word & 0xffff;
    const length = (word & WRITE_WORD) === 0 ? 0 : this.#ring[p + 2]! >>> 0;
    if (this.published === 0 || id >= this.size || this.book[id * 4] === 0 || length > this.writable(id)) {
      this.#failDescriptor();
      return -1;
    }
    this.peekedLength = length;
    return id;
  }

  protected usedClaim(): number {
    return this.published;
  }

  protected release(id: number): void {
    const held = this.book[id * 4]!;
    this.book[id * 4] = 0;
    this.book[id * 4 + 2] = this.#freeId;
    this.#freeId = id;
    this.freed(held);
    this.#nextUsed += held;
    if (this.#nextUsed < this.size) return;
    this.#nextUsed -= this.size;
    this.#usedBits ^= LAP_WORD;
  }

  get #availableWrap(): 0 | 1 {
    return this.#availableBits === FIRST_LAP ? 1 : 0;
  }

  get #usedWrap(): 0 | 1 {
    return this.#usedBits === 0 ? 0 : 1;
  }

  /** Latches what the descriptor at the used cursor did wrong. */
  #failDescriptor(): void {
    const p = this.#nextUsed << 2;
    const entry = `used descriptor ${this.#nextUsed}`;
    if (this.published === 0) this.fail('ERR_VIRTQ_USED', `${entry}: the device has no chain to use`);
    else this.failUsed(entry, this.#ring[p + 3]! & 0xffff, this.#ring[p + 2]! >>> 0);
  }

  /**
   * Whether the device's event falls among the `since` descriptors made available last (2.8.10.1). Positions are counted
   * over two laps, so offset and wrap counter together name one of 2 * size places, and a chain that passes over the
   * event fires it as well as one that starts there.
   */
  #deviceWants(since: number): boolean {
    const flags = Atomics.load(this.#deviceEvent, 1) & 3;
    if (flags === EVENT_DISABLE) return false;
    if (flags !== EVENT_DESC || !this.eventIdx) return true;
    const event = Atomics.load(this.#deviceEvent, 0);
    const offset = event & 0x7fff;
    // Outside the ring it names nothing: a kick too many does no harm.
    if (offset >= this.size) return true;
    const laps = 2 * this.size;
    const eventPlace = offset + (event >>> 15 === 1 ? 0 : this.size);
    const here = this.#nextAvailable - this.slotsUnpublished + (this.#availableWrap === 1 ? 0 : this.size);
    const behind = (here - eventPlace + 2 * laps) % laps;
    return behind >= 1 && behind <= since;
  }

  /** Notes a filled chain and holds its head back if it is the batch's first. */
  #offer(id: number, headWord: number, slot: number, bits: number, slots: number): void {
    if (this.#firstSlot < 0) {
      this.#firstSlot = this.#nextAvailable;
      this.#firstWord = headWord;
    } else {
      this.#ring[((this.#nextAvailable << 2) + 3) | 0] = headWord;
    }
    const { book } = this;
    book[id << 2] = slots;
    this.#freeId = book[((id << 2) + 2) | 0]!;
    this.#nextAvailable = slot;
    this.#availableBits = bits;
    this.added(id, slots);
  }

  /**
   * Clears the ring and its event areas and returns where to go on. To go on in the middle, every descriptor gets the
   * bits of a used one of the lap before, else zeros would read as used once the wrap counter is 0.
   */
  #initialise(state: VirtqueueState | undefined): { slot: number; wrap: 0 | 1 } {
    this.#ring.fill(0);
    this.#driverEvent.fill(0);
    this.#deviceEvent.fill(0);
    if (state === undefined) return { slot: 0, wrap: 1 };
    if (
      state.format !== 'packed' ||
      state.nextAvailable !== state.nextUsed ||
      state.availableWrap !== state.usedWrap ||
      !(state.nextUsed >= 0 && state.nextUsed < this.size)
    ) {
      throw this.error(
        'ERR_VIRTQ_CONFIGURATION',
        'a packed driver queue starts from a packed state inside the ring with nothing in flight',
      );
    }
    const { nextUsed: slot, usedWrap: wrap } = state;
    for (let i = 0; i < this.size; i++) {
      const lapBefore = i < slot ? wrap === 1 : wrap === 0;
      if (lapBefore) this.#ring[(i << 2) + 3] = LAP_WORD;
    }
    return { slot, wrap };
  }
}
