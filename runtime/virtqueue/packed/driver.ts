import type { WindowTable } from '../../platform/platform.js';
import { BaseDriverVirtqueue } from '../base-driver-virtqueue.js';
import type { VirtqueueState } from '../device-virtqueue.js';
import { type DriverVirtqueueConfiguration, ringLayout, type UsedBatch } from '../driver-virtqueue.js';
import { PLAIN_LOAD_ACQUIRES } from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import {
  availableWord,
  EVENT_DESC,
  EVENT_DISABLE,
  EVENT_ENABLE,
  INDIRECT_WORD,
  LAP_WORD,
  NEXT_WORD,
  usedFlags,
  WRITE,
} from './layout.js';

const WRITE_WORD = WRITE << 16;

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
 * Ids are handed out from a private stack. The book says how many descriptors an id holds, and by so many the cursor of
 * used descriptors moves on, whatever the order in which the device completes.
 */
export class PackedDriverVirtqueue extends BaseDriverVirtqueue {
  readonly format = 'packed';
  readonly #ringArea: RingArea;
  readonly #driverArea: RingArea;
  readonly #deviceArea: RingArea;
  readonly #ring: Int32Array;
  readonly #driverEvent: Uint16Array;
  readonly #deviceEvent: Uint16Array;
  readonly #freeIds: Uint16Array;
  #freeIdCount: number;
  #nextAvailable: number;
  #availableWrap: 0 | 1;
  #nextUsed: number;
  #usedWrap: 0 | 1;
  /** The batch's first descriptor, -1 for an empty batch, and the word that will make it available. */
  #firstSlot = -1;
  #firstWord = 0;
  /** Descriptors made available since needsKick was last asked; a whole ring or more forces a kick. */
  #sinceKick: number;
  #slotsUnpublished = 0;

  constructor(configuration: DriverVirtqueueConfiguration, windows: WindowTable) {
    super(configuration, windows);
    const { size, index, areas } = configuration;
    const layout = ringLayout('packed', size);
    const area = (name: keyof typeof areas) =>
      new RingArea(windows, areas[name], layout[name].length, layout[name].alignment, `${name} area`, index);
    this.#ringArea = area('descriptor');
    this.#driverArea = area('driver');
    this.#deviceArea = area('device');
    this.#ring = this.#ringArea.i32();
    this.#driverEvent = this.#driverArea.u16();
    this.#deviceEvent = this.#deviceArea.u16();
    // From the top of the stack: id 0 is handed out first.
    this.#freeIds = Uint16Array.from({ length: size }, (_, i) => size - 1 - i);
    this.#freeIdCount = size;
    this.#sinceKick = 2 * size;
    const start = this.#initialise(configuration.state);
    this.#nextAvailable = this.#nextUsed = start.slot;
    this.#availableWrap = this.#usedWrap = start.wrap;
  }

  add(segments: Int32Array, first: number, readable: number, writable: number): number {
    const total = readable + writable;
    this.checkShape(readable, writable, this.size);
    if (total > this.freeSlots || this.broken !== null) return -1;
    const { bases, size } = this;
    const ring = this.#ring;
    const id = this.#freeIds[this.#freeIdCount - 1]!;
    let slot = this.#nextAvailable;
    let wrap = this.#availableWrap;
    let bits = id | availableWord(wrap);
    let headWord = 0;
    let writableBytes = 0;
    for (let i = 0; i < total; i = (i + 1) | 0) {
      const row = (first + i) << 2;
      const address = bases[segments[row]!]! + segments[row + 1]!;
      const length = segments[row + 2]!;
      if (!(address >= 0 && length >= 0)) this.refuseSegment(segments, row);
      let word = bits;
      if (i >= readable) {
        word |= WRITE_WORD;
        writableBytes += length;
      }
      if (i + 1 < total) word |= NEXT_WORD;
      const p = slot << 2;
      ring[p] = address;
      ring[p + 1] = address / 4294967296;
      ring[p + 2] = length;
      if (i === 0) headWord = word;
      else ring[p + 3] = word;
      slot = (slot + 1) | 0;
      if (slot === size) {
        slot = 0;
        wrap = wrap === 1 ? 0 : 1;
        bits = id | availableWord(wrap);
      }
    }
    if (writableBytes > 0xffff_ffff) this.refuseBytes(writableBytes);
    this.writable[id] = writableBytes;
    this.#offer(id, headWord, slot, wrap, total, total);
    return id;
  }

  addIndirect(segments: Int32Array, first: number, readable: number, writable: number): number {
    const total = readable + writable;
    this.checkShape(readable, writable, this.indirectCapacity);
    if (this.freeSlots === 0 || this.broken !== null) return -1;
    const id = this.#freeIds[this.#freeIdCount - 1]!;
    const address = this.fillTable(id, segments, first, readable, total, false);
    const ring = this.#ring;
    const p = this.#nextAvailable << 2;
    ring[p] = address;
    ring[p + 1] = address / 4294967296;
    ring[p + 2] = total << 4;
    const word = id | INDIRECT_WORD | availableWord(this.#availableWrap);
    const slot = this.#nextAvailable + 1;
    if (slot < this.size) this.#offer(id, word, slot, this.#availableWrap, 1, total);
    else this.#offer(id, word, 0, this.#availableWrap === 1 ? 0 : 1, 1, total);
    return id;
  }

  publish(): void {
    if (this.#firstSlot < 0) return;
    Atomics.store(this.#ring, (this.#firstSlot << 2) + 3, this.#firstWord);
    this.#firstSlot = -1;
    this.published += this.unpublished;
    this.unpublished = 0;
    this.#sinceKick += this.#slotsUnpublished;
    this.#slotsUnpublished = 0;
    this.counters.publishes++;
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
    return (this.#ring[(this.#nextUsed << 2) + 3]! & LAP_WORD) === this.#usedBits() || this.batchPending;
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
    return (word & LAP_WORD) === this.#usedBits() || this.batchPending;
  }

  disableCalls(): void {
    this.#driverEvent[1] = EVENT_DISABLE;
  }

  state(): VirtqueueState {
    let nextAvailable = this.#nextAvailable - this.#slotsUnpublished;
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
    const { size, slots, writable, published } = this;
    const { ids, lengths } = used;
    const ring = this.#ring;
    const freeIds = this.#freeIds;
    let freeIdCount = this.#freeIdCount;
    let next = this.#nextUsed;
    let bits = this.#usedBits();
    let freed = 0;
    let row = 0;
    let bad = false;
    while (row < max) {
      const p = next << 2;
      let word = ring[p + 3]!;
      if ((word & LAP_WORD) !== bits) break;
      if (!PLAIN_LOAD_ACQUIRES) word = Atomics.load(ring, p + 3);
      const id = word & 0xffff;
      const length = (word & WRITE_WORD) === 0 ? 0 : ring[p + 2]! >>> 0;
      if (row >= published || id >= size) {
        bad = true;
        break;
      }
      const held = slots[id]!;
      if (held === 0 || length > writable[id]!) {
        bad = true;
        break;
      }
      slots[id] = 0;
      freed = (freed + held) | 0;
      freeIds[freeIdCount] = id;
      freeIdCount = (freeIdCount + 1) | 0;
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
    this.#usedWrap = bits === 0 ? 0 : 1;
    this.#freeIdCount = freeIdCount;
    this.freeSlots = (this.freeSlots + freed) | 0;
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
    if (this.published === 0 || id >= this.size || this.slots[id] === 0 || length > this.writable[id]!) {
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
    const held = this.slots[id]!;
    this.slots[id] = 0;
    this.freeSlots += held;
    this.#freeIds[this.#freeIdCount++] = id;
    this.#nextUsed += held;
    if (this.#nextUsed < this.size) return;
    this.#nextUsed -= this.size;
    this.#usedWrap = this.#usedWrap === 1 ? 0 : 1;
  }

  /** Both flag bits as they are in a used descriptor of the current lap. */
  #usedBits(): number {
    return usedFlags(this.#usedWrap) << 16;
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
    const here = this.#nextAvailable - this.#slotsUnpublished + (this.#availableWrap === 1 ? 0 : this.size);
    const behind = (here - eventPlace + 2 * laps) % laps;
    return behind >= 1 && behind <= since;
  }

  /** Notes a filled chain and holds its head back if it is the batch's first. */
  #offer(id: number, headWord: number, slot: number, wrap: 0 | 1, slots: number, segments: number): void {
    if (this.#firstSlot < 0) {
      this.#firstSlot = this.#nextAvailable;
      this.#firstWord = headWord;
    } else {
      this.#ring[(this.#nextAvailable << 2) + 3] = headWord;
    }
    this.#freeIdCount--;
    this.#nextAvailable = slot;
    this.#availableWrap = wrap;
    this.#slotsUnpublished += slots;
    this.added(id, slots, segments);
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
