import { closeSync, openSync, writeSync } from 'node:fs';
import {
  type NetPort,
  PACKET_STRIDE,
  type PacketBurst,
  PacketColumn,
  type PacketMemory,
  type PacketReceiver,
} from '../../devices/net/port.js';

/** Bytes kept of a packet at most: all of any. */
const SNAPSHOT_LENGTH = 262_144;
const LINK_TYPE_ETHERNET = 1;
const RECORD_HEADER = 16;

/**
 * Records what the driver sends in a file that tcpdump and Wireshark read (pcap 2.4, microseconds), and goes no further. No
 * offload is offered, so that each packet is recorded as it would be on a wire.
 */
export class PcapPort implements NetPort {
  readonly memory: PacketMemory;
  readonly offloads = 0n;
  readonly pairs = 128;
  readonly up = true;
  /** The first error of writing; nothing is recorded after it. */
  failure: Error | null = null;
  readonly #fd: number;
  readonly #now: () => number;
  #receiver: PacketReceiver | null = null;
  #buffer = Buffer.alloc(1 << 18);

  /** Truncates the file. `now`: milliseconds since 1970. Throws what opening and writing throw. */
  constructor(memory: PacketMemory, path: string, now: () => number = Date.now) {
    this.memory = memory;
    this.#now = now;
    this.#fd = openSync(path, 'w', 0o644);
    const header = Buffer.alloc(24);
    header.writeUInt32LE(0xa1b2c3d4, 0);
    header.writeUInt16LE(2, 4);
    header.writeUInt16LE(4, 6);
    header.writeUInt32LE(SNAPSHOT_LENGTH, 16);
    header.writeUInt32LE(LINK_TYPE_ETHERNET, 20);
    try {
      this.#writeAll(header);
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  connect(receiver: PacketReceiver): void {
    this.#receiver = receiver;
  }

  transmit(burst: PacketBurst, first: number, count: number): number {
    if (this.failure !== null) return count;
    const milliseconds = this.#now();
    const seconds = Math.floor(milliseconds / 1000);
    const microseconds = Math.floor((milliseconds - seconds * 1000) * 1000);
    let filled = 0;
    for (let row = first; row < count; row++) {
      const length = burst.packets[row * PACKET_STRIDE + PacketColumn.length]!;
      if (filled + RECORD_HEADER + length > this.#buffer.length) {
        this.#record(filled);
        filled = 0;
      }
      this.#buffer.writeUInt32LE(seconds, filled);
      this.#buffer.writeUInt32LE(microseconds, filled + 4);
      this.#buffer.writeUInt32LE(length, filled + 8);
      this.#buffer.writeUInt32LE(length, filled + 12);
      filled = this.#gather(burst, row, length, filled + RECORD_HEADER);
    }
    this.#record(filled);
    return count;
  }

  close(): void {
    closeSync(this.#fd);
    this.#buffer = Buffer.alloc(0);
    this.failure ??= new Error('the file is closed');
  }

  #gather(burst: PacketBurst, row: number, length: number, filled: number): number {
    const { segments } = burst;
    const end = filled + length;
    for (let i = burst.packets[row * PACKET_STRIDE + PacketColumn.firstSegment]!; filled < end; i++) {
      const offset = segments[i * 4 + 1]!;
      const count = Math.min(end - filled, segments[i * 4 + 2]!);
      this.#buffer.set(this.memory.u8[segments[i * 4]!]!.subarray(offset, offset + count), filled);
      filled += count;
    }
    return end;
  }

  #record(length: number): void {
    if (this.failure !== null || length === 0) return;
    try {
      this.#writeAll(this.#buffer.subarray(0, length));
    } catch (error) {
      this.failure = error as Error;
      this.#receiver?.failed(error);
    }
  }

  #writeAll(bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) at += writeSync(this.#fd, bytes, at);
  }
}
