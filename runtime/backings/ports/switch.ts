import { OFFLOADS } from '../../devices/net/offloads.js';
import {
  BURST_MAX,
  type NetPort,
  PACKET_STRIDE,
  type PacketBurst,
  PacketColumn,
  type PacketMemory,
  type PacketReceiver,
} from '../../devices/net/port.js';
import { MacTable } from './mac-table.js';

const BROADCAST = -1;

/**
 * A learning switch between the network cards of one process. A packet to an address that was seen goes to the port where it
 * was seen, one to a group or to an unknown address to all others; none goes back to where it came from. The address that a
 * card was made with belongs to its port, whatever others send from.
 *
 * Headers pass unchanged: a card that does not take a partial checksum or a large segment has it completed or cut before
 * its driver sees it, so all that drivers can ask for is offered.
 */
export class Switch {
  readonly memory: PacketMemory;
  readonly #table = new MacTable();
  readonly #ports: (SwitchPort | null)[] = [];
  readonly #now: () => number;

  /** `now`: a clock in seconds that never goes back. */
  constructor(memory: PacketMemory, now: () => number = () => performance.now() / 1000) {
    this.memory = memory;
    this.#now = now;
  }

  /** A new port, for one card. */
  addPort(): NetPort {
    const free = this.#ports.indexOf(null);
    const index = free < 0 ? this.#ports.length : free;
    return (this.#ports[index] = new SwitchPort(this, index));
  }

  /** @internal */
  remove(port: SwitchPort): void {
    this.#table.forget(port.index);
    this.#ports[port.index] = null;
  }

  /** @internal Sends rows `first` to `count` - 1, which came from `from`. */
  forward(from: SwitchPort, burst: PacketBurst, first: number, count: number): void {
    const now = this.#now();
    for (let start = first; start < count; start += BURST_MAX) {
      this.#sort(from, burst, start, Math.min(count, start + BURST_MAX), now);
      for (const port of this.#ports) port?.hand(burst);
    }
  }

  /** Notes for each port which rows are for it. */
  #sort(from: SwitchPort, burst: PacketBurst, first: number, count: number, now: number): void {
    for (let row = first; row < count; row++) {
      readAddresses(burst, row, this.memory.u8);
      // Nobody sends from a group address.
      if ((addresses.sourceHigh & 0x100) === 0) {
        const owner = this.#ownerOf(addresses.sourceHigh, addresses.sourceLow);
        if (owner < 0) this.#table.learn(addresses.sourceHigh, addresses.sourceLow, from.index, now);
      }
      let to = BROADCAST;
      if ((addresses.high & 0x100) === 0) {
        to = this.#ownerOf(addresses.high, addresses.low);
        if (to < 0) to = this.#table.find(addresses.high, addresses.low, now);
      }
      if (to >= 0) {
        if (to !== from.index) this.#ports[to]?.add(row);
        continue;
      }
      for (const port of this.#ports) if (port !== from) port?.add(row);
    }
  }

  /** The port of the card that was made with this address; -1 for none. */
  #ownerOf(high: number, low: number): number {
    for (const port of this.#ports) {
      if (port !== null && port.ownLow === low && port.ownHigh === high) return port.index;
    }
    return -1;
  }
}

class SwitchPort implements NetPort {
  readonly memory: PacketMemory;
  readonly offloads = OFFLOADS.sent | OFFLOADS.received;
  readonly pairs = 128;
  readonly up = true;
  readonly index: number;
  /** The card's own address; -1 when it has none. */
  ownHigh = -1;
  ownLow = 0;
  readonly #switch: Switch;
  readonly #rows = new Int32Array(BURST_MAX);
  #count = 0;
  #receiver: PacketReceiver | null = null;

  constructor(owner: Switch, index: number) {
    this.#switch = owner;
    this.index = index;
    this.memory = owner.memory;
  }

  connect(receiver: PacketReceiver): void {
    this.#receiver = receiver;
    const { mac } = receiver;
    if (mac === null) return;
    this.ownHigh = (mac[0]! << 8) | mac[1]!;
    this.ownLow = (mac[2]! << 24) | (mac[3]! << 16) | (mac[4]! << 8) | mac[5]!;
  }

  transmit(burst: PacketBurst, first: number, count: number): number {
    this.#switch.forward(this, burst, first, count);
    return count;
  }

  /** The row of the burst at hand is for this port. */
  add(row: number): void {
    this.#rows[this.#count++] = row;
  }

  /** Delivers what is for this port. */
  hand(burst: PacketBurst): void {
    const count = this.#count;
    if (count === 0) return;
    this.#count = 0;
    this.#receiver!.deliver(burst, this.#rows, count, -1);
  }

  close(): void {
    this.#switch.remove(this);
  }
}

/** Addresses of the packet at hand: bytes 0 and 1, bytes 2 to 5, as big-endian integers. */
const addresses = { high: 0, low: 0, sourceHigh: 0, sourceLow: 0 };
const split = new Uint8Array(12);

function readAddresses(burst: PacketBurst, row: number, windows: readonly Uint8Array[]): void {
  const { segments } = burst;
  let segment = burst.packets[row * PACKET_STRIDE + PacketColumn.firstSegment]! * 4;
  let bytes = windows[segments[segment]!]!;
  let at = segments[segment + 1]!;
  if (segments[segment + 2]! < 12) {
    let filled = 0;
    for (; filled < 12; segment += 4) {
      bytes = windows[segments[segment]!]!;
      for (let i = 0; i < segments[segment + 2]! && filled < 12; i++) {
        split[filled++] = bytes[segments[segment + 1]! + i]!;
      }
    }
    bytes = split;
    at = 0;
  }
  addresses.high = (bytes[at]! << 8) | bytes[at + 1]!;
  addresses.low = (bytes[at + 2]! << 24) | (bytes[at + 3]! << 16) | (bytes[at + 4]! << 8) | bytes[at + 5]!;
  addresses.sourceHigh = (bytes[at + 6]! << 8) | bytes[at + 7]!;
  addresses.sourceLow =
    (bytes[at + 8]! << 24) | (bytes[at + 9]! << 16) | (bytes[at + 10]! << 8) | bytes[at + 11]!;
}
