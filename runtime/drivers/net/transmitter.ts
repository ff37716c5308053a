import { DeviceError, VirtqueueError } from '../../errors.js';
import { UsedBatch } from '../../virtqueue/driver-virtqueue.js';
import type { DriverQueue, QueueUser } from '../driver-queue.js';
import { headerBytes } from './net-features.js';
import { PacketBuffers } from './packet-buffers.js';
import { PACKET_STRIDE, PacketField, type PacketTable } from './packet-table.js';

export interface TransmitterOptions {
  /** Bytes of the longest packet; 1518 when absent. */
  readonly packetLength?: number;
  /** Packets under way at most; as many as the ring holds when absent. */
  readonly buffers?: number;
}

const PACKET_LENGTH = 1518;

/**
 * Sends packets on one transmit queue, in bursts and without copies: `reserve` gives buffers in guest memory, the caller
 * writes packets there, `send` hands them over.
 *
 * @example
 * ```ts
 * const table = new PacketTable(32);
 * transmitter.reserve(table, 32);
 * // ... write each row's packet and set its length ...
 * transmitter.send(table);
 * ```
 */
export class Transmitter implements QueueUser, Disposable {
  readonly queue: DriverQueue;
  /** Bytes of the longest packet. */
  readonly packetLength: number;
  /** Packets that the device has taken and given back. */
  completed = 0;
  readonly #headerBytes: number;
  readonly #buffers: PacketBuffers;
  readonly #free: Uint16Array;
  #freeCount: number;
  readonly #used: UsedBatch;
  readonly #leave: () => void;

  /** `features` are the driver's. Throws ERR_GUEST_MEMORY_LIMIT when guest memory is too small. */
  constructor(queue: DriverQueue, features: bigint, options: TransmitterOptions = {}) {
    const { driver, ram } = queue;
    this.queue = queue;
    this.packetLength = options.packetLength ?? PACKET_LENGTH;
    this.#headerBytes = headerBytes(features);
    const count = Math.min(options.buffers ?? driver.size, driver.size);
    this.#buffers = new PacketBuffers(ram, count, this.#headerBytes + this.packetLength, driver.size);
    this.#free = Uint16Array.from({ length: count }, (_, i) => count - 1 - i);
    this.#freeCount = count;
    this.#used = new UsedBatch(driver.size);
    this.#leave = queue.use(this);
    driver.disableCalls();
  }

  /** Packets sent that the device has not given back. */
  get underWay(): number {
    this.#reap();
    return this.#buffers.atDevice;
  }

  /**
   * Fills up to `max` rows of the table with one empty buffer each and returns how many; 0 when all are under way. The header
   * words are 0, the segment spans the whole buffer, and the packet's length is to be set.
   */
  reserve(table: PacketTable, max: number = table.capacity): number {
    const { packets, segments } = table;
    const { rows } = this.#buffers;
    let count = Math.min(max, table.capacity, table.segmentCapacity);
    if (this.#freeCount < count) this.#reap();
    if (this.#freeCount < count) count = this.#freeCount;
    for (let row = 0; row < count; row++) {
      const buffer = this.#free[--this.#freeCount]!;
      const at = row * PACKET_STRIDE;
      packets[at] = 0;
      packets[at + 1] = 0;
      packets[at + 2] = 0;
      packets[at + PacketField.firstSegment] = row;
      packets[at + PacketField.segments] = 1;
      packets[at + PacketField.length] = 0;
      segments[row * 4] = this.#buffers.window;
      segments[row * 4 + 1] = rows[buffer * 4 + 1]! + this.#headerBytes;
      segments[row * 4 + 2] = this.packetLength;
      segments[row * 4 + 3] = buffer;
    }
    table.segmentCount = table.count = count;
    return count;
  }

  /**
   * Sends the first `count` rows of a reserved table, gives the other buffers back and clears the table. Throws the queue's
   * end, or ERR_DEVICE_REQUEST with nothing sent when a length is not that of a packet.
   */
  send(table: PacketTable, count: number = table.count): void {
    const { packets, segments } = table;
    const { driver, ram, index } = this.queue;
    if (this.queue.endReason !== null) throw this.queue.endReason;
    for (let row = 0; row < count; row++) {
      const length = packets[row * PACKET_STRIDE + PacketField.length]!;
      if (length < 1 || length > this.packetLength) {
        throw new DeviceError(
          'ERR_DEVICE_REQUEST',
          `queue ${index}: cannot send a packet of ${length} bytes; 1 to ${this.packetLength} can be`,
        );
      }
    }
    const words = ram.platform.windows.u32[this.#buffers.window]!;
    const { rows } = this.#buffers;
    for (let row = 0; row < count; row++) {
      const at = row * PACKET_STRIDE;
      const buffer = segments[row * 4 + 3]!;
      const word = rows[buffer * 4 + 1]! >>> 2;
      words[word] = packets[at]!;
      words[word + 1] = packets[at + 1]!;
      if (this.#headerBytes === 12) words[word + 2] = packets[at + 2]!;
      // The packet begins in the middle of this word.
      else words[word + 2] = (words[word + 2]! & 0xffff_0000) | (packets[at + 2]! & 0xffff);
      rows[buffer * 4 + 2] = this.#headerBytes + packets[at + PacketField.length]!;
      if (!this.#buffers.add(driver, buffer, 1)) throw this.#full();
    }
    for (let row = table.count - 1; row >= count; row--)
      this.#free[this.#freeCount++] = segments[row * 4 + 3]!;
    table.clear();
    if (count > 0) this.queue.commit();
  }

  /** Resolves when `reserve` gives something. Rejects when the queue ends or the signal aborts. */
  async room(signal?: AbortSignal): Promise<void> {
    while (this.#freeCount === 0 && this.#reap() === 0) await this.queue.called(signal);
  }

  /** Resolves when the device has given every packet back. */
  async drained(signal?: AbortSignal): Promise<void> {
    while (this.underWay > 0) await this.queue.called(signal);
  }

  abandoned(): void {
    this.#reap();
  }

  /** A device takes the place of another: what that one has not taken is sent once more. */
  restarted(): void {
    this.#buffers.addAgain(this.queue.driver, 1);
    this.queue.driver.disableCalls();
  }

  [Symbol.dispose](): void {
    this.#leave();
    this.#buffers[Symbol.dispose]();
  }

  #reap(): number {
    const used = this.#used;
    const count = this.queue.driver.collect(used, used.capacity);
    for (let i = 0; i < count; i++) this.#free[this.#freeCount++] = this.#buffers.take(used.ids[i]!);
    this.completed += count;
    return count;
  }

  #full(): Error {
    const { endReason, index } = this.queue;
    return endReason ?? new VirtqueueError('ERR_VIRTQ_CHAIN', index, 'the ring is full of others’ chains');
  }
}
