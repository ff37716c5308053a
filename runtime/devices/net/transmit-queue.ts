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
    const { chains, segments } = this.#batch;
    let packet = 0;
    for (let row = 0; row < count; row++) {
      const first = chains[row * 4 + 1]!;
      if (this.#readPacket(segments, first, chains[row * 4 + 2]!, packet)) packet++;
      else this.#counters.transmitMalformed++;
    }
    burst.count = packet;
    this.#next = 0;
    if (this.#flows === null) return;
    for (let row = 0; row < packet; row++) {
      this.#flows.learn(burst, row * PACKET_STRIDE, this.queue.u8, this.#pair);
    }
  }

  /** One chain; false when it is no packet. */
  #readPacket(segments: Int32Array, first: number, count: number, packet: number): boolean {
    const { packets } = this.#burst;
    const size = this.#headerSize;
    const at = packet * PACKET_STRIDE;
    if (count === 0) return false;
    let length = -size;
    for (let i = first; i < first + count; i++) length += segments[i * 4 + 2]!;
    // A chain of no more than a header carries nothing (C11).
    if (length < ETHERNET_HEADER || length > PACKET_MAX) return false;

    let segment = first;
    const offset = segments[segment * 4 + 1]!;
    if (segments[segment * 4 + 2]! >= size) {
      readHeader(this.queue.u32[segments[segment * 4]!]!, offset, packets, at);
      segments[segment * 4 + 1] = offset + size;
      segments[segment * 4 + 2]! -= size;
    } else {
      segment = this.#readSplitHeader(segments, segment, size);
      readHeader(this.#splitWords, 0, packets, at);
    }
    if (segments[segment * 4 + 2] === 0) segment++;
    packets[at + PacketColumn.firstSegment] = segment;
    packets[at + PacketColumn.segments] = first + count - segment;
    packets[at + PacketColumn.length] = length;
    if ((packets[at]! & 0xffff) !== 0) return checkSentHeader(packets, at, length, this.#offloads);
    packets[at] = 0;
    packets[at + 1] = 0;
    packets[at + 2] = 0;
    return true;
  }

  /** Gathers a header from several descriptors, which may hold one byte each; gives the segment where it ends. */
  #readSplitHeader(segments: Int32Array, segment: number, size: number): number {
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
