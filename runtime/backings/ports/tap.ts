import { OFFLOADS, OffloadSet } from '../../devices/net/offloads.js';
import {
  ALL_ROWS,
  ETHERNET_HEADER,
  type NetPort,
  PACKET_MAX,
  PACKET_STRIDE,
  PacketBurst,
  PacketColumn,
  type PacketMemory,
  type PacketReceiver,
  type PacketRegion,
} from '../../devices/net/port.js';
import { PlatformError } from '../../errors.js';
import type { Platform, TapQueue } from '../../platform/platform.js';

/** Bytes of header in front of a packet on a TAP device. */
const HEADER = 12;
/** Bytes for one packet and its header; the packet begins on a word boundary. */
const SLOT = (PACKET_MAX + HEADER + 63) & -64;
/** Packets read at once. */
const BURST = 64;
/** Bursts read before everything else on the loop has its turn. */
const BURSTS_A_TURN = 4;
const ROW = 5;
const SEGMENT = 3;

/**
 * A TAP device of the host, a queue of it for each pair. Headers pass through in both directions: the kernel takes every
 * offload, and gives those that the driver accepted. While a pair has no buffers its queue is not read, so that the kernel
 * counts what is lost.
 */
export class TapPort implements NetPort {
  readonly memory: PacketMemory;
  readonly offloads = OFFLOADS.sent | OFFLOADS.received;
  readonly pairs: number;
  readonly up = true;
  /** Packets that the kernel refused. */
  refused = 0;
  readonly #queues: readonly TapQueue[];
  readonly #region: PacketRegion;
  readonly #burst = new PacketBurst(BURST, new Int32Array(BURST * 4));
  /** By pair: whether its queue is read. */
  readonly #reading: boolean[] = [];
  #receiver: PacketReceiver | null = null;
  #closed = false;

  /** Opens `pairs` queues. Throws PlatformError. */
  static open(platform: Platform, memory: PacketMemory, name: string, pairs: number): TapPort {
    const queues: TapQueue[] = [];
    try {
      for (let i = 0; i < pairs; i++) {
        queues.push(platform.openTap(queues[0]?.name ?? name, { severalQueues: pairs > 1 }));
      }
      return new TapPort(memory, queues);
    } catch (error) {
      for (const queue of queues) queue.close();
      throw error;
    }
  }

  /** Takes over the queues. */
  constructor(memory: PacketMemory, queues: readonly TapQueue[]) {
    this.memory = memory;
    this.#queues = queues;
    this.pairs = queues.length;
    this.#region = memory.allocate(BURST * SLOT);
    for (let row = 0; row < BURST; row++) {
      this.#burst.packets[row * PACKET_STRIDE + PacketColumn.firstSegment] = row;
      this.#burst.packets[row * PACKET_STRIDE + PacketColumn.segments] = 1;
      this.#burst.segments[row * 4] = this.#region.window;
    }
  }

  /** The device's name. */
  get name(): string {
    return this.#queues[0]!.name;
  }

  connect(receiver: PacketReceiver): void {
    this.#receiver = receiver;
  }

  setOffloads(features: bigint): void {
    const { checksum } = OffloadSet.received(features);
    const accepted = (bit: bigint): boolean => checksum && (features & bit) !== 0n;
    const tcp4 = accepted(OFFLOADS.tcp4);
    const tcp6 = accepted(OFFLOADS.tcp6);
    // The kernel refuses ECN alone, which says nothing.
    const ecn = (tcp4 || tcp6) && accepted(OFFLOADS.ecn);
    // Offloads belong to the device, not to a queue.
    this.#queues[0]!.setOffloads({ checksum, tcp4, tcp6, ecn });
  }

  transmit(burst: PacketBurst, first: number, count: number, pair: number): number {
    const queue = this.#queues[pair]!;
    while (first < count) {
      const filled = this.#fill(queue, burst, first, count);
      if (filled === 0) {
        // More pieces than the kernel takes in one packet.
        this.refused++;
        first++;
        continue;
      }
      const done = queue.write(filled);
      for (let i = 0; i < done; i++) if (queue.lengths[i] !== 0) this.refused++;
      first += done;
      if (done < filled) {
        queue.onWritable(() => {
          queue.onWritable(null);
          this.#receiver!.transmitReady(pair);
        });
        break;
      }
    }
    return first;
  }

  /**
   * Every queue is read again, whichever pair is ready: the kernel spreads what it has over all of them, also over those of
   * pairs that the driver does not use. The device finds another pair for these.
   */
  receiveReady(): void {
    if (this.#closed) return;
    for (let pair = 0; pair < this.pairs; pair++) {
      if (this.#reading[pair]) continue;
      this.#reading[pair] = true;
      this.#queues[pair]!.onReadable(() => this.#read(pair));
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const queue of this.#queues) queue.close();
    this.#region.release();
  }

  /** Puts packets from `first` on into the queue's tables, as many as fit, and returns their number. */
  #fill(queue: TapQueue, burst: PacketBurst, first: number, count: number): number {
    const { rows, segments } = queue;
    const rowCount = Math.min(count - first, rows.length / ROW);
    let segment = 0;
    for (let i = 0; i < rowCount; i++) {
      const at = (first + i) * PACKET_STRIDE;
      const from = burst.packets[at + PacketColumn.firstSegment]!;
      const pieces = burst.packets[at + PacketColumn.segments]!;
      if ((segment + pieces) * SEGMENT > segments.length) return i;
      rows[i * ROW] = burst.packets[at]!;
      rows[i * ROW + 1] = burst.packets[at + 1]!;
      rows[i * ROW + 2] = burst.packets[at + 2]!;
      rows[i * ROW + 3] = segment;
      rows[i * ROW + 4] = pieces;
      for (let j = from; j < from + pieces; j++, segment++) {
        segments[segment * SEGMENT] = burst.segments[j * 4]!;
        segments[segment * SEGMENT + 1] = burst.segments[j * 4 + 1]!;
        segments[segment * SEGMENT + 2] = burst.segments[j * 4 + 2]!;
      }
    }
    return rowCount;
  }

  #read(pair: number): void {
    const queue = this.#queues[pair]!;
    for (let bursts = 0; bursts < BURSTS_A_TURN; bursts++) {
      // receiveReady is called when there are buffers again.
      if (this.#receiver!.waiting(pair) !== 0) {
        this.#pause(pair);
        return;
      }
      let count: number;
      try {
        count = queue.read(this.#region.window, 0, SLOT, BURST);
      } catch (error) {
        // The device was deleted: there is nothing to wait for.
        if (!(error instanceof PlatformError)) throw error;
        this.#pause(pair);
        this.#receiver!.failed(error);
        return;
      }
      if (count === 0) return;
      this.#show(queue.lengths, count);
      this.#receiver!.deliver(this.#burst, ALL_ROWS, this.#burst.count, pair);
      if (count < BURST) return;
    }
  }

  #pause(pair: number): void {
    this.#reading[pair] = false;
    this.#queues[pair]!.onReadable(null);
  }

  /** Makes a burst of the packets in the slots. */
  #show(lengths: Int32Array, count: number): void {
    const { packets, segments } = this.#burst;
    const words = this.memory.u32[this.#region.window]!;
    let row = 0;
    for (let i = 0; i < count; i++) {
      const length = lengths[i]! - HEADER;
      if (length < ETHERNET_HEADER) continue;
      const word = (i * SLOT) >>> 2;
      const at = row * PACKET_STRIDE;
      packets[at] = words[word]!;
      packets[at + 1] = words[word + 1]!;
      packets[at + 2] = words[word + 2]! & 0xffff;
      packets[at + PacketColumn.length] = length;
      segments[row * 4 + 1] = i * SLOT + HEADER;
      segments[row * 4 + 2] = length;
      row++;
    }
    this.#burst.count = row;
  }
}
