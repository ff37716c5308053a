import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { NetHeaderFlag } from '../../../generated/virtio/devices/net/layouts.js';
import type { DeviceQueue } from '../../device/index.js';
import { DeviceError } from '../../errors.js';
import { Backlog } from './backlog.js';
import { completeChecksum } from './checksum.js';
import type { NetCounters } from './counters.js';
import { headerByte, headerSize, writeHeader } from './header.js';
import { OffloadSet } from './offloads.js';
import {
  ALL_ROWS,
  BURST_MAX,
  ETHERNET_HEADER,
  PACKET_MAX,
  PACKET_STRIDE,
  type PacketBurst,
  PacketColumn,
  type PacketMemory,
} from './port.js';
import { ReceiveBuffers } from './receive-buffers.js';
import { Segmenter } from './segmenter.js';

/** What became of a packet. */
const Placed = { done: 0, dropped: 1, starved: 2 } as const;
type Placed = (typeof Placed)[keyof typeof Placed];
/** Bytes of a VLAN tag. */
const VLAN_TAG = 4;
const ENTRY = 5;
const HEADER = 5;

/**
 * One receive queue of the driver. Packets go from where they lie straight into the driver's buffers, a burst with one run
 * of the copy table; when there are no buffers they wait in the backlog. A packet that the driver does not take as it is
 * goes through the backlog too: there its checksum is completed, or it is cut, out of the sender's reach.
 */
export class ReceiveQueue {
  readonly queue: DeviceQueue;
  readonly #memory: PacketMemory;
  readonly #counters: NetCounters;
  readonly #segmenter: () => Segmenter;
  readonly #buffers: ReceiveBuffers;
  readonly #backlog: Backlog;
  readonly #headerSize: number;
  readonly #mergeable: boolean;
  readonly #offloads: OffloadSet;
  /** Longest packet for the driver that is not to be cut, Ethernet header included. */
  readonly #longest: () => number;
  /** Entries in the copy table that have not run. */
  #entries = 0;
  /** Headers that are to be written behind the copies: window | offset | word 0 | word 1 | word 2 with num-buffers. */
  readonly #headers = new Int32Array(BURST_MAX * HEADER);
  #headerCount = 0;

  /**
   * `segmenter` gives the device's one; it is made when the first packet has to be cut. `longest` is asked for every burst.
   */
  constructor(
    queue: DeviceQueue,
    memory: PacketMemory,
    counters: NetCounters,
    longest: () => number,
    segmenter: () => Segmenter,
  ) {
    this.queue = queue;
    this.#memory = memory;
    this.#counters = counters;
    this.#longest = longest;
    this.#segmenter = segmenter;
    this.#buffers = new ReceiveBuffers(queue);
    this.#backlog = new Backlog(memory, BURST_MAX);
    this.#headerSize = headerSize(queue.features);
    this.#mergeable = (queue.features & NetFeature.mrgRxbuf) !== 0n;
    this.#offloads = OffloadSet.received(queue.features);
  }

  /** Packets that wait for buffers. */
  get waiting(): number {
    return this.#backlog.count;
  }

  /** Packets of any size that `deliver` takes now without dropping one. */
  get room(): number {
    return Math.min(BURST_MAX, this.#backlog.room(PACKET_MAX));
  }

  /** Takes rows of a burst. What fits neither the driver's buffers nor the backlog is dropped. */
  deliver(burst: PacketBurst, rows: Int32Array, count: number): void {
    try {
      let done = this.#backlog.count > 0 ? 0 : this.#fill(burst, rows, count);
      this.#finish();
      if (done < count) {
        for (; done < count; done++) this.#enqueue(burst, rows[done]!);
        this.#runCopies();
        this.#drainBacklog();
      }
      this.queue.commit();
      // Buffers are to be announced from now on: without a turn the driver's kicks may be off.
      if (this.#backlog.count > 0) this.queue.resume();
    } catch (cause) {
      this.#fail(cause);
    }
  }

  /** Buffers may have come. Returns true when no packet waits for more. */
  serve(): boolean {
    this.#drainBacklog();
    return this.#backlog.count === 0;
  }

  /** Gives back, empty, the buffers of a packet that waits for more of them; the packet waits on. */
  yield(): void {
    this.#buffers.giveAll();
    this.queue.commit();
  }

  /** Gives every chain back and forgets what waits. */
  stop(): void {
    this.#buffers.giveAll();
    this.#counters.receiveUnwanted += this.#backlog.count;
    this.#backlog.close();
  }

  #drainBacklog(): void {
    while (this.#backlog.count > 0) {
      const count = this.#backlog.show();
      const done = this.#fill(this.#backlog.burst, ALL_ROWS, count);
      this.#finish();
      this.#backlog.pop(done);
      if (done < count) return;
    }
  }

  /** Puts packets into buffers until one has to wait or is not fit for the driver; returns how many are done with. */
  #fill(burst: PacketBurst, rows: Int32Array, count: number): number {
    const { packets } = burst;
    const longest = this.#longest();
    let received = 0;
    let bytes = 0;
    let i = 0;
    for (; i < count; i++) {
      const at = rows[i]! * PACKET_STRIDE;
      const length = packets[at + PacketColumn.length]!;
      const word0 = packets[at]!;
      if ((word0 & 0xffff) !== 0 && !this.#takes(word0)) break;
      const placed: Placed =
        length > longest && (word0 & 0xff00) === 0
          ? Placed.dropped
          : this.#place(burst, at, length, count - i);
      if (placed === Placed.starved) break;
      if (placed === Placed.dropped) {
        this.#counters.receiveOversize++;
        continue;
      }
      received++;
      bytes += length;
    }
    this.#counters.received += received;
    this.#counters.receivedBytes += bytes;
    return i;
  }

  /** Whether the driver takes a packet with this word 0 as it is. */
  #takes(word0: number): boolean {
    const gsoType = (word0 >>> 8) & 0xff;
    if ((word0 & 0xff) !== 0 && !this.#offloads.checksum) return false;
    return this.#offloads.allows(gsoType);
  }

  /** One packet into as many chains as it needs. `following`: packets that want buffers, this one included. */
  #place(burst: PacketBurst, at: number, length: number, following: number): Placed {
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
        if (taken >= this.queue.size) return Placed.dropped;
        const got = buffers.take(Math.max(1, wanted));
        if (got <= 0) return got < 0 ? Placed.dropped : Placed.starved;
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
    buffers.next = row;
    return Placed.done;
  }

  /** Writes header and packet into `chains` rows from `next` on, which have the room. */
  #write(burst: PacketBurst, at: number, length: number, chains: number): void {
    const { batch, next } = this.#buffers;
    const { packets, segments: source } = burst;
    let from = packets[at + PacketColumn.firstSegment]!;
    if (chains === 1 && batch.chains[next * 4 + 3] === 1 && packets[at + PacketColumn.segments] === 1) {
      this.#writeWhole(packets, at, source, from * 4, length);
      return;
    }
    let fromOffset = source[from * 4 + 1]!;
    let fromLeft = source[from * 4 + 2]!;
    let left = length;
    for (let row = next; row < next + chains; row++) {
      const table = batch.segments;
      let to = batch.chains[row * 4 + 1]! + batch.chains[row * 4 + 2]!;
      const end = to + batch.chains[row * 4 + 3]!;
      let written = 0;
      let toOffset = 0;
      let toLeft = 0;
      if (row === next) {
        const size = this.#headerSize;
        // num-buffers is 1 for a packet in one buffer, mergeable or not (virtio 1.4, 5.1.6.4.1).
        const last = (packets[at + 2]! & 0xffff) | (chains << 16);
        toOffset = table[to * 4 + 1]!;
        toLeft = table[to * 4 + 2]!;
        if (toLeft >= size) {
          this.#header(table[to * 4]!, toOffset, packets, at, last);
          toOffset += size;
          toLeft -= size;
        } else {
          for (let i = 0; i < size; i++) {
            while (toLeft === 0) {
              to++;
              toOffset = table[to * 4 + 1]!;
              toLeft = table[to * 4 + 2]!;
            }
            this.queue.u8[table[to * 4]!]![toOffset++] = headerByte(packets, at, last, i);
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
        this.#copy(source[from * 4]!, fromOffset, table[to * 4]!, toOffset, count);
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

  /** What most packets are: one segment, from `source[p]` on, into one buffer, that of row `next`, which has the room. */
  #writeWhole(packets: Int32Array, at: number, source: Int32Array, p: number, length: number): void {
    const { batch, next } = this.#buffers;
    const size = this.#headerSize;
    const to = (batch.chains[next * 4 + 1]! + batch.chains[next * 4 + 2]!) * 4;
    const window = batch.segments[to]!;
    const offset = batch.segments[to + 1]!;
    this.#header(window, offset, packets, at, (packets[at + 2]! & 0xffff) | (1 << 16));
    this.#copy(source[p]!, source[p + 1]!, window, offset + size, length);
    batch.written[next] = size + length;
  }

  /** Puts one packet behind those that wait, made fit for the driver. */
  #enqueue(burst: PacketBurst, row: number): void {
    const { packets } = burst;
    const at = row * PACKET_STRIDE;
    const length = packets[at + PacketColumn.length]!;
    const gsoType = (packets[at]! >>> 8) & 0xff;
    const backlog = this.#backlog;
    if ((packets[at]! & 0xffff) === 0 || this.#takes(packets[at]!)) {
      const offset = backlog.push(length, packets, at);
      if (offset < 0) this.#counters.receiveOverrun++;
      else this.#copyPacket(burst, at, backlog.window, offset);
      return;
    }
    if (!this.#offloads.allows(gsoType)) {
      this.#cut(burst, at, length, gsoType);
      return;
    }
    const offset = backlog.push(length, PLAIN, 0);
    if (offset < 0) {
      this.#counters.receiveOverrun++;
      return;
    }
    this.#copyPacket(burst, at, backlog.window, offset);
    // DATA_VALID alone says nothing that the driver would have to know.
    if ((packets[at]! & NetHeaderFlag.needsCsum) === 0) return;
    this.#runCopies();
    const start = packets[at + 1]! >>> 16;
    const place = packets[at + 2]! & 0xffff;
    if (start + place + 2 > length) return;
    completeChecksum(this.#memory.u8[backlog.window]!, offset, length, start, place);
    this.#counters.softwareChecksums++;
  }

  /** Cuts a packet into segments that wait. */
  #cut(burst: PacketBurst, at: number, length: number, gsoType: number): void {
    const { packets, segments } = burst;
    const segmenter = this.#segmenter();
    let filled = 0;
    const first = packets[at + PacketColumn.firstSegment]!;
    for (let i = first; filled < length; i++) {
      const offset = segments[i * 4 + 1]!;
      const bytes = this.#memory.u8[segments[i * 4]!]!.subarray(offset, offset + segments[i * 4 + 2]!);
      segmenter.packet.set(bytes.subarray(0, length - filled), filled);
      filled += segments[i * 4 + 2]!;
    }
    const word1 = packets[at + 1]!;
    if (!segmenter.start(length, gsoType, word1 & 0xffff, word1 >>> 16, packets[at + 2]! & 0xffff)) {
      this.#counters.receiveUnsegmentable++;
      return;
    }
    this.#counters.softwareSegmented++;
    for (let next = segmenter.nextLength; next > 0; next = segmenter.nextLength) {
      const offset = this.#backlog.push(next, PLAIN, 0);
      if (offset < 0) {
        this.#counters.receiveOverrun++;
        return;
      }
      segmenter.write(this.#memory.u8[this.#backlog.window]!, offset);
    }
  }

  #copyPacket(burst: PacketBurst, at: number, window: number, offset: number): void {
    const { packets, segments } = burst;
    let left = packets[at + PacketColumn.length]!;
    for (let i = packets[at + PacketColumn.firstSegment]!; left > 0; i++) {
      const count = Math.min(left, segments[i * 4 + 2]!);
      this.#copy(segments[i * 4]!, segments[i * 4 + 1]!, window, offset, count);
      offset += count;
      left -= count;
    }
  }

  #copy(fromWindow: number, fromOffset: number, toWindow: number, toOffset: number, count: number): void {
    const { copies } = this.#memory;
    if (this.#entries === copies.capacity) this.#runCopies();
    const { entries } = copies;
    const entry = this.#entries++ * ENTRY;
    entries[entry] = fromWindow;
    entries[entry + 1] = fromOffset;
    entries[entry + 2] = toWindow;
    entries[entry + 3] = toOffset;
    entries[entry + 4] = count;
  }

  #runCopies(): void {
    const count = this.#entries;
    this.#entries = 0;
    if (count > 0) this.#memory.copies.run(count);
  }

  /** What is placed goes to the driver, its bytes first. */
  #finish(): void {
    this.#runCopies();
    this.#writeHeaders();
    this.#buffers.give();
  }

  #header(window: number, offset: number, packets: Int32Array, at: number, last: number): void {
    const entry = this.#headerCount++ * HEADER;
    const headers = this.#headers;
    headers[entry] = window;
    headers[entry + 1] = offset;
    headers[entry + 2] = packets[at]!;
    headers[entry + 3] = packets[at + 1]!;
    headers[entry + 4] = last;
  }

  /** The copies have fetched the lines by now, all at once; header by header each would be waited for. */
  #writeHeaders(): void {
    const { u8, u32 } = this.queue;
    const headers = this.#headers;
    const end = this.#headerCount * HEADER;
    this.#headerCount = 0;
    for (let entry = 0; entry < end; entry += HEADER) {
      const window = headers[entry]!;
      const offset = headers[entry + 1]!;
      writeHeader(
        u8[window]!,
        u32[window]!,
        offset,
        this.#headerSize,
        headers,
        entry + 2,
        headers[entry + 4]!,
      );
    }
  }

  #fail(cause: unknown): void {
    this.#entries = this.#headerCount = 0;
    this.queue.fail(
      new DeviceError(
        'ERR_DEVICE_FAILED',
        `receive queue ${this.queue.index}: packets could not be delivered`,
        {
          cause,
        },
      ),
    );
    this.#buffers.abandon();
    this.#backlog.clear();
  }
}

/** The header of a packet with nothing to say. */
const PLAIN = new Int32Array(3);

/** Longest packet for an MTU: Ethernet's header and a VLAN tag come on top. */
export function longestFor(mtu: number): number {
  return mtu + ETHERNET_HEADER + VLAN_TAG;
}
