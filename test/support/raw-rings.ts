/**
 * Rings as bytes, written field by field with a DataView from the specification's layouts. They share no code with the
 * driver classes, so that a defect there cannot cancel one in the device's side. They check nothing: tests write rubbish
 * with them as readily as chains.
 */

/** Guest memory by guest address; `TestGuest` is one. */
export interface ViewedMemory {
  view(address: number, length: number): DataView;
}

/** One descriptor as the driver writes it. Lengths, flags and addresses are taken as they are. */
export interface RawDescriptor {
  readonly address: number | bigint;
  readonly length: number;
  readonly flags?: number;
  readonly next?: number;
}

export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;

/** Bytes of a table of split descriptors. */
export function splitTable(descriptors: readonly RawDescriptor[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(descriptors.length * 16));
  for (const [i, descriptor] of descriptors.entries()) {
    view.setBigUint64(i * 16, BigInt(descriptor.address), true);
    view.setUint32(i * 16 + 8, descriptor.length, true);
    view.setUint16(i * 16 + 12, descriptor.flags ?? 0, true);
    view.setUint16(i * 16 + 14, descriptor.next ?? 0, true);
  }
  return new Uint8Array(view.buffer);
}

/** The same for a packed indirect table: `next` is the id, which means nothing there. */
export function packedTable(descriptors: readonly RawDescriptor[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(descriptors.length * 16));
  for (const [i, descriptor] of descriptors.entries()) {
    view.setBigUint64(i * 16, BigInt(descriptor.address), true);
    view.setUint32(i * 16 + 8, descriptor.length, true);
    view.setUint16(i * 16 + 12, descriptor.next ?? 0, true);
    view.setUint16(i * 16 + 14, descriptor.flags ?? 0, true);
  }
  return new Uint8Array(view.buffer);
}

export class RawSplitRing {
  readonly size: number;
  readonly descriptorAddress: number;
  readonly driverAddress: number;
  readonly deviceAddress: number;
  readonly #descriptors: DataView;
  readonly #available: DataView;
  readonly #used: DataView;

  /** Lays the three areas out from `base` on, a multiple of 16. */
  constructor(guest: ViewedMemory, size: number, base = 0x1000) {
    this.size = size;
    this.descriptorAddress = base;
    this.driverAddress = base + 16 * size;
    this.deviceAddress = (this.driverAddress + 6 + 2 * size + 3) & ~3;
    this.#descriptors = guest.view(this.descriptorAddress, 16 * size);
    this.#available = guest.view(this.driverAddress, 6 + 2 * size);
    this.#used = guest.view(this.deviceAddress, 6 + 8 * size);
  }

  /** Address behind the last area. */
  get end(): number {
    return this.deviceAddress + 6 + 8 * this.size;
  }

  descriptor(index: number, descriptor: RawDescriptor): void {
    const bytes = splitTable([descriptor]);
    new Uint8Array(this.#descriptors.buffer, this.#descriptors.byteOffset + index * 16, 16).set(bytes);
  }

  /** Writes a chain into the given table slots. */
  chain(slots: readonly number[], buffers: readonly RawDescriptor[]): void {
    for (const [i, buffer] of buffers.entries()) {
      const more = i + 1 < buffers.length;
      const flags = (buffer.flags ?? 0) | (more ? NEXT : 0);
      this.descriptor(slots[i]!, { ...buffer, flags, next: more ? slots[i + 1]! : 0 });
    }
  }

  /** Appends heads to the available ring and moves its index. */
  offer(...heads: number[]): void {
    for (const head of heads) {
      this.slot(this.availableIndex, head);
      this.availableIndex = (this.availableIndex + 1) & 0xffff;
    }
  }

  /** Writes an entry of the available ring without moving the index. */
  slot(position: number, head: number): void {
    this.#available.setUint16(4 + 2 * (position % this.size), head, true);
  }

  get availableIndex(): number {
    return this.#available.getUint16(2, true);
  }
  set availableIndex(value: number) {
    this.#available.setUint16(2, value, true);
  }
  set availableFlags(value: number) {
    this.#available.setUint16(0, value, true);
  }
  set usedEvent(value: number) {
    this.#available.setUint16(4 + 2 * this.size, value, true);
  }
  get usedFlags(): number {
    return this.#used.getUint16(0, true);
  }
  set usedFlags(value: number) {
    this.#used.setUint16(0, value, true);
  }
  get usedIndex(): number {
    return this.#used.getUint16(2, true);
  }
  set usedIndex(value: number) {
    this.#used.setUint16(2, value, true);
  }
  get availableEvent(): number {
    return this.#used.getUint16(4 + 8 * this.size, true);
  }
  used(position: number): { id: number; length: number } {
    const at = 4 + 8 * (position % this.size);
    return { id: this.#used.getUint32(at, true), length: this.#used.getUint32(at + 4, true) };
  }
}

const AVAIL = 1 << 7;
const USED = 1 << 15;

export class RawPackedRing {
  readonly size: number;
  readonly descriptorAddress: number;
  readonly driverAddress: number;
  readonly deviceAddress: number;
  /** Where the driver writes next, and its wrap counter. */
  cursor = 0;
  wrap: 0 | 1 = 1;
  /** Where the driver looks for used elements next, and the wrap counter there. */
  usedCursor = 0;
  usedWrap: 0 | 1 = 1;
  readonly #descriptors: DataView;
  readonly #driver: DataView;
  readonly #device: DataView;
  readonly #slotsOf = new Map<number, number>();

  constructor(guest: ViewedMemory, size: number, base = 0x1000) {
    this.size = size;
    this.descriptorAddress = base;
    this.driverAddress = base + 16 * size;
    this.deviceAddress = this.driverAddress + 4;
    this.#descriptors = guest.view(this.descriptorAddress, 16 * size);
    this.#driver = guest.view(this.driverAddress, 4);
    this.#device = guest.view(this.deviceAddress, 4);
  }

  get end(): number {
    return this.deviceAddress + 4;
  }

  /** AVAIL and USED of an available descriptor in a lap with this wrap counter. */
  static availableFlags(wrap: 0 | 1): number {
    return wrap === 1 ? AVAIL : USED;
  }

  /** Writes a slot as it is. `flags` holds AVAIL and USED as well. */
  descriptor(slot: number, descriptor: RawDescriptor, id: number): void {
    const { address, length, flags } = descriptor;
    this.#descriptors.setBigUint64(slot * 16, BigInt(address), true);
    this.#descriptors.setUint32(slot * 16 + 8, length, true);
    this.#descriptors.setUint16(slot * 16 + 12, id, true);
    this.#descriptors.setUint16(slot * 16 + 14, flags ?? 0, true);
  }

  /** Makes a chain available at the cursor. Inner descriptors carry `innerId`, the last one `id`. */
  offer(id: number, buffers: readonly RawDescriptor[], innerId = 0xffff): void {
    this.#slotsOf.set(id, buffers.length);
    const slots: { slot: number; wrap: 0 | 1 }[] = [];
    for (let i = 0; i < buffers.length; i++) {
      slots.push({ slot: this.cursor, wrap: this.wrap });
      this.cursor++;
      if (this.cursor === this.size) {
        this.cursor = 0;
        this.wrap = this.wrap === 1 ? 0 : 1;
      }
    }
    for (let i = buffers.length - 1; i >= 0; i--) {
      const last = i === buffers.length - 1;
      const { slot, wrap } = slots[i]!;
      const flags = (buffers[i]!.flags ?? 0) | (last ? 0 : NEXT) | RawPackedRing.availableFlags(wrap);
      this.descriptor(slot, { ...buffers[i]!, flags }, last ? id : innerId);
    }
  }

  /** The next used element, or null; goes on by the slots of its chain. */
  poll(): { id: number; length: number; flags: number } | null {
    const flags = this.flagsOf(this.usedCursor);
    const expected = this.usedWrap === 1 ? AVAIL | USED : 0;
    if ((flags & (AVAIL | USED)) !== expected) return null;
    const id = this.#descriptors.getUint16(this.usedCursor * 16 + 12, true);
    const length = this.#descriptors.getUint32(this.usedCursor * 16 + 8, true);
    const slots = this.#slotsOf.get(id);
    if (slots === undefined) throw new Error(`used element names id ${id}, which was never offered`);
    this.#slotsOf.delete(id);
    this.usedCursor += slots;
    if (this.usedCursor >= this.size) {
      this.usedCursor -= this.size;
      this.usedWrap = this.usedWrap === 1 ? 0 : 1;
    }
    return { id, length, flags };
  }

  flagsOf(slot: number): number {
    return this.#descriptors.getUint16(slot * 16 + 14, true);
  }
  set driverEvent(value: { offset: number; wrap: 0 | 1; flags: number }) {
    this.#driver.setUint16(0, value.offset | (value.wrap << 15), true);
    this.#driver.setUint16(2, value.flags, true);
  }
  get deviceEvent(): { offset: number; wrap: number; flags: number } {
    const word = this.#device.getUint16(0, true);
    return { offset: word & 0x7fff, wrap: word >>> 15, flags: this.#device.getUint16(2, true) };
  }
}
