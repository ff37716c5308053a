import { ChainBatch, type DeviceQueue, segmentCapacity } from '../../device/index.js';
import type { NetCounters } from './counters.js';
import type { FlowTable } from './flow-table.js';
import { headerSize, readHeader } from './header.js';
import { checkSentHeader, OffloadSet } from './offloads.js';
import {
  BURST_MAX,
  ETHERNET_HEADER,
  type NetPort,
  PACKET_MAX,
  PACKET_STRIDE,
  PacketBurst,
  PacketColumn,
} from './port.js';

/** Constants of this module are folded; imported ones are loaded at every use. */
const PACKET = PACKET_STRIDE;
const FIRST = PacketColumn.firstSegment;
const SEGMENTS = PacketColumn.segments;
const LENGTH = PacketColumn.length;
/** Packets handed to the port at once. */
const BATCH = Math.min(128, BURST_MAX);

/** One transmit queue of the driver. The port gets the packets where they lie, a burst at a time. */
export class TransmitQueue {
  readonly queue: DeviceQueue;
  readonly #port: NetPort;
  readonly #pair: number;
  readonly #counters: NetCounters;
  readonly #flows: FlowTable | null;
  readonly #batch: ChainBatch;
  readonly #burst: PacketBurst;
  readonly #headerSize: number;
  readonly #offloads: OffloadSet;
  /** Header of a packet whose first descriptor does not hold it. */
  readonly #split = new Uint8Array(16);
  readonly #splitWords = new Uint32Array(this.#split.buffer);
  /** Row of the burst that the port has not taken yet; the burst's count when there is none. */
  #next = 0;
  /** Chains in the batch that are not given back yet. */
  #held = 0;

  /** `flows` learns which pair a flow is sent on; null when there is one pair. */
  constructor(
    queue: DeviceQueue,
    port: NetPort,
    pair: number,
    counters: NetCounters,
    flows: FlowTable | null,
  ) {
    this.queue = queue;
    this.#port = port;
    this.#pair = pair;
    this.#counters = counters;
    this.#flows = flows;
    this.#batch = new ChainBatch(Math.min(BATCH, queue.size), segmentCapacity(queue.size));
    this.#burst = new PacketBurst(BATCH, this.#batch.segments);
    this.#headerSize = headerSize(queue.features);
    this.#offloads = OffloadSet.sent(queue.features);
  }

  /** Sends what there is, until the port or the driver has no more. */
  serve(): void {
    if (this.#held > 0 && !this.#send()) return;
    for (;;) {
      const count = this.queue.drain(this.#batch, this.#batch.chainCapacity);
      if (count === 0) return;
      this.#held = count;
      this.#read(count);
      if (!this.#send()) return;
    }
  }

  /** Ends, for good or for now: what the port has not taken is dropped. */
  stop(): void {
    if (this.#held === 0) return;
    this.#counters.transmitLinkDown += this.#burst.count - this.#next;
    this.#next = this.#burst.count;
    this.#give();
  }

  /** False when the port cannot take all of it now. */
  #send(): boolean {
    const burst = this.#burst;
    const { packets } = burst;
    if (!this.#port.up) {
      this.#counters.transmitLinkDown += burst.count - this.#next;
      this.#next = burst.count;
    } else if (this.#next < burst.count) {
      const first = this.#next;
      const end = this.#port.transmit(burst, first, burst.count, this.#pair);
      let bytes = 0;
      for (let row = first; row < end; row++) bytes += packets[row * PACKET_STRIDE + PacketColumn.length]!;
      this.#counters.transmitted += end - first;
      this.#counters.transmittedBytes += bytes;
      this.#next = end;
    }
    if (this.#next < burst.count) return false;
    this.#give();
    return true;
  }

  #give(): void {
    const count = this.#held;
    this.#held = 0;
    // The device writes nothing into a chain of this queue.
    this.queue.pushBatch(this.#batch, count);
  }

  /** Makes packets of the chains in the batch, cutting the header off each in the batch's own table. */
  #read(count: number): void {
    const burst = this.#burst;
    const { packets } = burst;
    this.#readHeaders(count);
    let packet = 0;
    for (let row = 0; row < count; row++) {
      const at = packet * PACKET;
      // Those before it may have been dropped.
      if (packet < row) packets.copyWithin(at, row * PACKET, (row + 1) * PACKET);
      const length = packets[at + LENGTH]!;
      if (
        length >= ETHERNET_HEADER &&
        (packets[at + FIRST]! >= 0 || this.#readSplitHeader(row, at)) &&
        ((packets[at]! & 0xffff) === 0 || checkSentHeader(packets, at, length, this.#offloads))
      ) {
        packet++;
      } else {
        this.#counters.transmitMalformed++;
      }
    }
    burst.count = packet;
    this.#next = 0;
    if (this.#flows === null) return;
    for (let row = 0; row < packet; row++) {
      this.#flows.learn(burst, row * PACKET, this.queue.u8, this.#pair);
    }
  }

  /**
   * Reads the headers that lie in one segment, and makes rows of all chains. Nothing but that: the driver's processor had the
   * headers last, and while one is waited for the next ones can be asked for. The first segment of a row is -1 where the
   * header is in pieces; its length may be none that a packet can have.
   */
  #readHeaders(count: number): void {
    const { chains, segments } = this.#batch;
    const { packets } = this.#burst;
    const { u32 } = this.queue;
    const size = this.#headerSize;
    for (let row = 0, at = 0; row < count; row++, at += PACKET) {
      const first = chains[row * 4 + 1]!;
      const pieces = chains[row * 4 + 2]!;
      const end = (first + pieces) * 4;
      let length = -size;
      for (let p = first * 4; p < end; p += 4) length += segments[p + 2]!;
      packets[at + LENGTH] = length <= PACKET_MAX ? length : 0;
      packets[at + FIRST] = -1;
      // A chain of no more than a header carries nothing (C11).
      if (length < ETHERNET_HEADER) continue;
      const p = first * 4;
      const left = segments[p + 2]! - size;
      if (left < 0) continue;
      const offset = segments[p + 1]!;
      const words = u32[segments[p]!]!;
      const word = offset >>> 2;
      if ((offset & 3) === 0) {
        packets[at] = words[word]!;
        packets[at + 1] = words[word + 1]!;
        packets[at + 2] = words[word + 2]! & 0xffff;
      } else {
        readHeader(words, offset, packets, at);
      }
      // Without flags and a gso-type the other fields say nothing.
      if ((packets[at]! & 0xffff) === 0) packets[at] = packets[at + 1] = packets[at + 2] = 0;
      segments[p + 1] = offset + size;
      segments[p + 2] = left;
      const skipped = left === 0 ? 1 : 0;
      packets[at + FIRST] = first + skipped;
      packets[at + SEGMENTS] = pieces - skipped;
    }
  }

  /** The header of chain `row` lies in several segments; the packet's row is at column `at`. */
  #readSplitHeader(row: number, at: number): boolean {
    const { chains, segments } = this.#batch;
    const { packets } = this.#burst;
    const end = chains[row * 4 + 1]! + chains[row * 4 + 2]!;
    let segment = this.#gatherHeader(segments, chains[row * 4 + 1]!, this.#headerSize);
    readHeader(this.#splitWords, 0, packets, at);
    if (segments[segment * 4 + 2] === 0) segment++;
    packets[at + FIRST] = segment;
    packets[at + SEGMENTS] = end - segment;
    if ((packets[at]! & 0xffff) === 0) packets[at] = packets[at + 1] = packets[at + 2] = 0;
    return true;
  }

  /** Gathers a header from several descriptors, which may hold one byte each; gives the segment where it ends. */
  #gatherHeader(segments: Int32Array, segment: number, size: number): number {
    let taken = 0;
    for (;;) {
      const offset = segments[segment * 4 + 1]!;
      const length = segments[segment * 4 + 2]!;
      const count = Math.min(length, size - taken);
      const window = this.queue.u8[segments[segment * 4]!]!;
      for (let i = 0; i < count && taken + i < this.#split.length; i++) {
        this.#split[taken + i] = window[offset + i]!;
      }
      taken += count;
      segments[segment * 4 + 1] = offset + count;
      segments[segment * 4 + 2] = length - count;
      if (taken === size) return segment;
      segment++;
    }
  }
}
