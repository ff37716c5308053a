import * as assert from 'uvu/assert';
import { NEXT, INDIRECT, WRITE, packedTable, splitTable } from '../../support/raw-rings.js';
import type { TestGuest } from '../../support/test-guest.js';

/** What one request asks for. */
export interface Request {
  readonly token: number;
  /** Buffers in guest addresses; the first is readable unless it is alone, the others writable. */
  readonly buffers: readonly (readonly [address: number, length: number])[];
  readonly indirect: boolean;
}

/** What a used element has to say for a request, so that two of them cannot be mistaken for one another. */
export function lengthOf(token: number): number {
  return 1 + (token % 13);
}

const DATA = 0x4000;
const TABLES = 0x3000;
export const RING = 0x1000;

export function request(token: number, buffers: number, indirect: boolean): Request {
  const room = (token % 32) * 0x100;
  return {
    token,
    indirect,
    buffers: Array.from(
      { length: buffers },
      (_, i) => [DATA + room + i * 0x40, 16 + ((token + i) % 8)] as const,
    ),
  };
}

/** A driver whose private state can be put back together with the memory that it shares. Plain data. */
interface State {
  outstanding: Record<number, Request & { slots: number[] }>;
  /** Tokens in the order in which they were reported. */
  reported: number[];
  offered: number;
  /** Split: descriptors, packed: buffer ids, that are free. */
  free: number[];
  available: number;
  availableWrap: number;
  used: number;
  usedWrap: number;
  freeSlots: number;
}

export abstract class DriverModel {
  protected readonly guest: TestGuest;
  readonly size: number;
  protected state: State;
  abstract readonly format: 'split' | 'packed';

  constructor(guest: TestGuest, size: number, at: number, wrap: number) {
    this.guest = guest;
    this.size = size;
    this.state = {
      outstanding: {},
      reported: [],
      offered: 0,
      free: Array.from({ length: size }, (_, i) => i),
      available: at,
      availableWrap: wrap,
      used: at,
      usedWrap: wrap,
      freeSlots: size,
    };
  }

  save(): string {
    return JSON.stringify(this.state);
  }
  restore(saved: string): void {
    this.state = JSON.parse(saved) as State;
  }

  get outstanding(): number {
    return Object.keys(this.state.outstanding).length;
  }
  get reported(): readonly number[] {
    return this.state.reported;
  }
  get offered(): number {
    return this.state.offered;
  }
  /** The request that goes by this handle. */
  of(handle: number): Request {
    const found = this.state.outstanding[handle];
    assert.ok(found !== undefined, `chain ${handle} is one that the driver waits for`);
    return found!;
  }

  /** Makes the next request available when there is room for it. */
  offer(buffers: number, indirect: boolean): boolean {
    const made = request(this.state.offered, buffers, indirect);
    if (!this.place(made)) return false;
    this.state.offered++;
    return true;
  }

  protected abstract place(made: Request): boolean;
  /** Takes everything that was reported. */
  abstract poll(): void;
  abstract areas(): [descriptor: number, driver: number, device: number];

  protected report(handle: number, length: number): Request & { slots: number[] } {
    const found = this.state.outstanding[handle];
    assert.ok(
      found !== undefined,
      `used element names chain ${handle}, which is not outstanding: reported twice`,
    );
    assert.is(length, lengthOf(found!.token), `length reported for request ${found!.token}`);
    delete this.state.outstanding[handle];
    this.state.reported.push(found!.token);
    return found!;
  }

  protected descriptors(made: Request): { address: number; length: number; flags: number; next: number }[] {
    return made.buffers.map(([address, length], i) => ({
      address,
      length,
      flags: (i === 0 && made.buffers.length > 1 ? 0 : WRITE) | (i + 1 < made.buffers.length ? NEXT : 0),
      next: i + 1,
    }));
  }

  protected writeTable(made: Request, make: typeof splitTable): { address: number; length: number } {
    const table = make(this.descriptors(made));
    const address = TABLES + (made.token % 32) * 0x60;
    this.guest.write(address, table);
    return { address, length: table.length };
  }

  protected view(address: number, length: number): DataView {
    return this.guest.view(address, length);
  }
}

export class SplitDriverModel extends DriverModel {
  readonly format = 'split';
  constructor(guest: TestGuest, size: number, start: number) {
    super(guest, size, start, 0);
    const [, driver, device] = this.areas();
    this.view(driver, 4).setUint16(2, start, true);
    this.view(device, 4).setUint16(2, start, true);
  }

  areas(): [number, number, number] {
    return [RING, RING + 0x400, RING + 0x600];
  }

  protected place(made: Request): boolean {
    const { state, size } = this;
    const slots = state.free.slice(0, made.indirect ? 1 : made.buffers.length);
    if (slots.length < (made.indirect ? 1 : made.buffers.length)) return false;
    state.free.splice(0, slots.length);
    const list = made.indirect
      ? [{ ...this.writeTable(made, splitTable), flags: INDIRECT, next: 0 }]
      : this.descriptors(made);
    for (const [i, descriptor] of list.entries()) {
      const next = (descriptor.flags & NEXT) !== 0 ? slots[i + 1]! : 0;
      this.guest.write(RING + slots[i]! * 16, splitTable([{ ...descriptor, next }]));
    }
    const head = slots[0]!;
    state.outstanding[head] = { ...made, slots };
    const [, driver] = this.areas();
    const view = this.view(driver, 4 + 2 * size);
    view.setUint16(4 + 2 * (state.available % size), head, true);
    state.available = (state.available + 1) & 0xffff;
    view.setUint16(2, state.available, true);
    return true;
  }

  poll(): void {
    const { state, size } = this;
    const [, , device] = this.areas();
    const view = this.view(device, 4 + 8 * size);
    while (state.used !== view.getUint16(2, true)) {
      const at = 4 + 8 * (state.used % size);
      const found = this.report(view.getUint32(at, true), view.getUint32(at + 4, true));
      state.free.push(...found.slots);
      state.used = (state.used + 1) & 0xffff;
    }
  }
}

const AVAIL = 1 << 7;
const USED = 1 << 15;

export class PackedDriverModel extends DriverModel {
  readonly format = 'packed';

  areas(): [number, number, number] {
    return [RING, RING + 0x400, RING + 0x600];
  }

  /** Makes a ring that stands at a position look as if it had got there. */
  age(): void {
    const { used, usedWrap } = this.state;
    for (let slot = 0; slot < this.size; slot++) {
      const lap = slot < used ? usedWrap : 1 - usedWrap;
      const flags = lap === 1 ? AVAIL | USED : 0;
      this.guest.write(RING + slot * 16, splitTable([{ address: DATA, length: 1 }]));
      this.view(RING + slot * 16, 16).setUint16(14, flags, true);
    }
  }

  protected place(made: Request): boolean {
    const { state, size } = this;
    const list = made.indirect
      ? [{ ...this.writeTable(made, packedTable), flags: INDIRECT }]
      : this.descriptors(made);
    if (state.freeSlots < list.length || state.free.length === 0) return false;
    const id = state.free.shift()!;
    state.freeSlots -= list.length;
    const places = list.map(() => {
      const place = { slot: state.available, wrap: state.availableWrap };
      if (++state.available === size) {
        state.available = 0;
        state.availableWrap = 1 - state.availableWrap;
      }
      return place;
    });
    for (let i = list.length - 1; i >= 0; i--) {
      const { slot, wrap } = places[i]!;
      const { address, length, flags } = list[i]!;
      const view = this.view(RING + slot * 16, 16);
      view.setBigUint64(0, BigInt(address), true);
      view.setUint32(8, length, true);
      view.setUint16(12, i + 1 === list.length ? id : 0xffff, true);
      view.setUint16(14, flags | (wrap === 1 ? AVAIL : USED), true);
    }
    state.outstanding[id] = { ...made, slots: places.map(({ slot }) => slot) };
    return true;
  }

  poll(): void {
    const { state, size } = this;
    for (;;) {
      const view = this.view(RING + state.used * 16, 16);
      const flags = view.getUint16(14, true) & (AVAIL | USED);
      if (flags !== (state.usedWrap === 1 ? AVAIL | USED : 0)) return;
      // A slot that the driver never filled reads as used in a lap with counter 0.
      if (state.freeSlots === size) return;
      const id = view.getUint16(12, true);
      const found = this.report(id, view.getUint32(8, true));
      state.free.push(id);
      state.freeSlots += found.slots.length;
      state.used += found.slots.length;
      if (state.used >= size) {
        state.used -= size;
        state.usedWrap = 1 - state.usedWrap;
      }
    }
  }
}
