import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import type { DeviceQueue } from '../../device/index.js';
import { COPY_STRIDE, CopyList } from './copy-list.js';
import type { NetCounters } from './counters.js';
import { headerByte, headerSize } from './header.js';
import type { OffloadSet } from './offloads.js';
import { PACKET_STRIDE, type PacketBurst, PacketColumn, type PacketMemory } from './port.js';
import { ReceiveBuffers } from './receive-buffers.js';

/** What became of a packet. */
const Placed = { done: 0, dropped: 1, starved: 2, unfit: 3 } as const;
type Placed = (typeof Placed)[keyof typeof Placed];

/** Constants of this module are folded; imported ones are loaded at every use. */
const ENTRY = COPY_STRIDE;
const PACKET = PACKET_STRIDE;
const FIRST = PacketColumn.firstSegment;
const SEGMENTS = PacketColumn.segments;
const LENGTH = PacketColumn.length;
/** num-buffers, in the upper half of word 2, is 1 for a packet in one buffer, mergeable or not (virtio 1.4, 5.1.6.4.1). */
const ONE_BUFFER = 1 << 16;

/** Puts packets with their headers into the receive buffers of one queue: a burst with one run of the copy table. */
export class PacketPlacer {
  /** Why the last `place` stopped before the end: the packet is not fit for the driver as it is, rather than without buffers. */
  unfit = false;
  /** Length of the packet that waits with some of its buffers in hand, as the last `place` left it; 0 when none does. */
  partly = 0;
  readonly copies: CopyList;
  /** A packet as long as this does not wait for the rest of its buffers: one has waited long enough. */
  #hopeless = Infinity;
  readonly #queue: DeviceQueue;
  readonly #counters: NetCounters;
  readonly #buffers: ReceiveBuffers;
  readonly #headerSize: number;
  readonly #mergeable: boolean;
  readonly #offloads: OffloadSet;
  readonly #longest: () => number;

  /** `longest`: most bytes of a packet that is not to be cut, Ethernet header included; asked for every burst. */
  constructor(
    queue: DeviceQueue,
    memory: PacketMemory,
    counters: NetCounters,
    offloads: OffloadSet,
    longest: () => number,
  ) {
    this.copies = new CopyList(memory);
    this.#queue = queue;
    this.#counters = counters;
    this.#buffers = new ReceiveBuffers(queue);
    this.#headerSize = headerSize(queue.features);
    this.#mergeable = (queue.features & NetFeature.mrgRxbuf) !== 0n;
    this.#offloads = offloads;
    this.#longest = longest;
  }

  /** Places rows from `first` on until one has to wait or is unfit, and gives its number, or `count`. */
  place(burst: PacketBurst, rows: Int32Array, first: number, count: number): number {
    const longest = this.#longest();
    this.unfit = false;
    this.partly = 0;
    let i = first;
    while (i < count) {
      i = this.#placePlain(burst, rows, i, count, longest);
      if (i === count) break;
      const at = rows[i]! * PACKET;
      const placed = this.#placeOne(burst, at, count - i, longest);
      if (placed === Placed.starved) break;
      if (placed === Placed.unfit) {
        this.unfit = true;
        break;
      }
      if (placed === Placed.dropped) this.#counters.receiveOversize++;
      else this.#count(1, burst.packets[at + LENGTH]!);
      i++;
    }
    this.#finish();
    return i;
  }

  /** Whether the driver takes a packet with this word 0 as it is. */
  takes(word0: number): boolean {
    const gsoType = (word0 >>> 8) & 0xff;
    if ((word0 & 0xff) !== 0 && !this.#offloads.checksum) return false;
    return this.#offloads.allows(gsoType);
  }

  /** Gives every buffer back. */
  giveAll(): void {
    this.partly = 0;
    this.#buffers.giveAll();
  }

  /** The packet that waits with some of its buffers, and those as long, are to be dropped until one of them fits. */
  giveUp(): void {
    if (this.partly > 0) this.#hopeless = Math.min(this.#hopeless, this.partly);
  }

  /** The queue has failed. */
  abandon(): void {
    this.copies.count = this.partly = 0;
    this.#buffers.abandon();
  }

  /**
   * The hot loop: packets of one segment that ask for nothing, each into one buffer of one segment. It stops in front of
   * anything else.
   */
  #placePlain(burst: PacketBurst, rows: Int32Array, first: number, count: number, longest: number): number {
    const buffers = this.#buffers;
    if (buffers.next === buffers.count) {
      this.#finish();
      if (buffers.take(count - first) <= 0) return first;
    }
    const { copies } = this;
    let end = first + buffers.count - buffers.next;
    if (end > count) end = count;
    if (end > first + copies.room) return first;
    const { packets, segments: source } = burst;
    const { chains, segments: table, written } = buffers.batch;
    const { entries } = copies;
    const size = this.#headerSize;
    let entry = copies.count * ENTRY;
    let row = buffers.next;
    let bytes = 0;
    let i = first;
    for (; i < end; i++, row++, entry += ENTRY) {
      const at = rows[i]! * PACKET;
      const length = packets[at + LENGTH]!;
      if ((packets[at]! & 0xffff) !== 0 || packets[at + SEGMENTS] !== 1 || length > longest) break;
      if (chains[row * 4 + 3] !== 1) break;
      const to = (chains[row * 4 + 1]! + chains[row * 4 + 2]!) * 4;
      if (table[to + 2]! < size + length) break;
      const from = packets[at + FIRST]! * 4;
      entries[entry] = source[from]!;
      entries[entry + 1] = source[from + 1]!;
      entries[entry + 2] = table[to]!;
      entries[entry + 3] = table[to + 1]!;
      entries[entry + 4] = length;
      entries[entry + 5] = size;
      entries[entry + 6] = packets[at]!;
      entries[entry + 7] = packets[at + 1]!;
      entries[entry + 8] = (packets[at + 2]! & 0xffff) | ONE_BUFFER;
      written[row] = size + length;
      bytes += length;
    }
    copies.count += i - first;
    buffers.next = row;
    this.#count(i - first, bytes);
    return i;
  }

  #count(packets: number, bytes: number): void {
    this.#counters.received += packets;
    this.#counters.receivedBytes += bytes;
  }

  /** One packet of any kind into as many chains as it needs. `following`: packets that want buffers, this one included. */
  #placeOne(burst: PacketBurst, at: number, following: number, longest: number): Placed {
    const { packets } = burst;
    const word0 = packets[at]!;
    const length = packets[at + LENGTH]!;
    if ((word0 & 0xffff) !== 0 && !this.takes(word0)) return Placed.unfit;
    if (length > longest && (word0 & 0xff00) === 0) return Placed.dropped;
    const buffers = this.#buffers;
    const total = this.#headerSize + length;
    let row = buffers.next;
    let capacity = 0;
    while (capacity < total) {
      if (row === buffers.count) {
        const taken = row - buffers.next;
        this.#finish();
        // Never more than are surely needed: a buffer that is taken cannot be put back.
        const wanted = taken === 0 ? following : Math.ceil(((total - capacity) * taken) / capacity);
        const got = buffers.take(Math.max(1, wanted));
        // Nobody can give it more while it holds the whole ring.
        if (got < 0 || (got === 0 && buffers.fillRing)) return Placed.dropped;
        if (got === 0) {
          if (taken === 0) return Placed.starved;
          if (length >= this.#hopeless) return Placed.dropped;
          this.partly = length;
          return Placed.starved;
        }
        row = buffers.next + taken;
      }
      const room = buffers.capacity(row);
      if (row === buffers.next && room < this.#headerSize) {
        buffers.batch.written[row] = 0;
        buffers.next = ++row;
        this.#counters.receiveBadBuffers++;
        continue;
      }
      capacity += room;
      if (!this.#mergeable && capacity < total) return Placed.dropped;
      row++;
    }
    this.#write(burst, at, length, row - buffers.next);
    if (length >= this.#hopeless) this.#hopeless = Infinity;
    buffers.next = row;
    return Placed.done;
  }

  /** Writes header and packet into `chains` rows from `next` on, which have the room. */
  #write(burst: PacketBurst, at: number, length: number, chains: number): void {
    const { batch, next } = this.#buffers;
    const { packets, segments: source } = burst;
    const table = batch.segments;
    let from = packets[at + FIRST]!;
    let fromOffset = source[from * 4 + 1]!;
    let fromLeft = source[from * 4 + 2]!;
    let left = length;
    for (let row = next; row < next + chains; row++) {
      let to = batch.chains[row * 4 + 1]! + batch.chains[row * 4 + 2]!;
      const end = to + batch.chains[row * 4 + 3]!;
      let written = 0;
      let toOffset = 0;
      let toLeft = 0;
      if (row === next) {
        const size = this.#headerSize;
        const last = (packets[at + 2]! & 0xffff) | (chains << 16);
        toOffset = table[to * 4 + 1]!;
        toLeft = table[to * 4 + 2]!;
        if (toLeft >= size) {
          this.copies.addHeader(table[to * 4]!, toOffset, size, packets[at]!, packets[at + 1]!, last);
          toOffset += size;
          toLeft -= size;
        } else {
          for (let i = 0; i < size; i++) {
            while (toLeft === 0) {
              to++;
              toOffset = table[to * 4 + 1]!;
              toLeft = table[to * 4 + 2]!;
            }
            this.#queue.u8[table[to * 4]!]![toOffset++] = headerByte(packets, at, last, i);
            toLeft--;
          }
        }
        written = size;
      } else if (to < end) {
        toOffset = table[to * 4 + 1]!;
        toLeft = table[to * 4 + 2]!;
      }
      while (left > 0) {
        if (toLeft === 0) {
          if (++to >= end) break;
          toOffset = table[to * 4 + 1]!;
          toLeft = table[to * 4 + 2]!;
          continue;
        }
        while (fromLeft === 0) {
          from++;
          fromOffset = source[from * 4 + 1]!;
          fromLeft = source[from * 4 + 2]!;
        }
        let count = left < toLeft ? left : toLeft;
        if (count > fromLeft) count = fromLeft;
        this.copies.add(source[from * 4]!, fromOffset, table[to * 4]!, toOffset, count);
        fromOffset += count;
        fromLeft -= count;
        toOffset += count;
        toLeft -= count;
        left -= count;
        written += count;
      }
      batch.written[row] = written;
    }
  }

  /** What is placed goes to the driver, its bytes first. */
  #finish(): void {
    this.copies.run();
    this.#buffers.give();
  }
}
