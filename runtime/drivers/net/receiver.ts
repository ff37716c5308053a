import { DeviceError } from '../../errors.js';
import { UsedBatch } from '../../virtqueue/driver-virtqueue.js';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import type { DriverQueue, QueueUser } from '../driver-queue.js';
import { headerBytes, LARGE_RECEIVE } from './net-features.js';
import { PacketBuffers } from './packet-buffers.js';
import { PACKET_STRIDE, PacketField, type PacketTable } from './packet-table.js';

export interface ReceiverOptions {
  /**
   * Bytes of each buffer, header included. When absent 2048; 65562 when packets of that size may come and buffers are not
   * mergeable.
   */
  readonly bufferLength?: number;
  /** How many buffers; as many as the ring holds when absent. */
  readonly buffers?: number;
}

const BUFFER_LENGTH = 2048;
/** virtio 1.4, 5.1.6.3.1. */
const LARGE_BUFFER_LENGTH = 65_562;

/**
 * Receives packets from one receive queue, in bursts and without copies: `receive` shows them where they lie in guest memory,
 * `release` gives their buffers to the device again. A packet in several buffers (MRG_RXBUF) is one row of several
 * segments, and appears when all of it is there.
 *
 * The device is not trusted: a packet that cannot be is an error, and the receiver gives nothing from then on.
 */
export class Receiver implements QueueUser, Disposable {
  readonly queue: DriverQueue;
  readonly mergeable: boolean;
  readonly #headerBytes: number;
  readonly #buffers: PacketBuffers;
  readonly #used: UsedBatch;
  /** Used buffers that no packet was made of yet, and the bytes in them; rings of as many places as there are buffers. */
  readonly #held: Uint16Array;
  readonly #heldBytes: Uint32Array;
  #first = 0;
  #count = 0;
  #failure: Error | null = null;
  readonly #leave: () => void;

  /** `features` are the driver's. Fills the ring. Throws ERR_GUEST_MEMORY_LIMIT when guest memory is too small. */
  constructor(queue: DriverQueue, features: bigint, options: ReceiverOptions = {}) {
    const { driver, ram } = queue;
    this.queue = queue;
    this.mergeable = (features & NetFeature.mrgRxbuf) !== 0n;
    this.#headerBytes = headerBytes(features);
    const large = !this.mergeable && (features & LARGE_RECEIVE) !== 0n;
    const length = options.bufferLength ?? (large ? LARGE_BUFFER_LENGTH : BUFFER_LENGTH);
    if (length < this.#headerBytes) {
      throw new DeviceError(
        'ERR_DEVICE_CONFIGURATION',
        `a receive buffer of ${length} bytes does not hold a header`,
      );
    }
    const count = Math.min(options.buffers ?? driver.size, driver.size);
    this.#buffers = new PacketBuffers(ram, count, length, driver.size);
    this.#used = new UsedBatch(count);
    this.#held = new Uint16Array(count);
    this.#heldBytes = new Uint32Array(count);
    for (let buffer = 0; buffer < count; buffer++) this.#buffers.add(driver, buffer, 0);
    this.#leave = queue.use(this);
    driver.disableCalls();
    queue.commit();
  }

  /** Buffers that the device has. */
  get atDevice(): number {
    return this.#buffers.atDevice;
  }

  /**
   * Shows up to `max` packets that have come and returns how many, without waiting. Their buffers are the caller's until
   * `release`. Throws why the receiver is at its end: the queue's reason, or ERR_DEVICE_REQUEST.
   */
  receive(table: PacketTable, max: number = table.capacity): number {
    this.#collect();
    table.clear();
    const limit = Math.min(max, table.capacity);
    while (table.count < limit && this.#count > 0) {
      const buffers = this.#packetBuffers();
      if (buffers === 0 || !this.#show(table, buffers)) break;
    }
    if (table.count > 0) return table.count;
    if (this.#failure !== null) throw this.#failure;
    // An error of the queue is told when everything before it is.
    if (this.#packetBuffers() === 0 && this.queue.endReason !== null) throw this.queue.endReason;
    return 0;
  }

  /** Gives the buffers of all rows to the device again and clears the table. */
  release(table: PacketTable): void {
    const { driver } = this.queue;
    const { segments, segmentCount } = table;
    for (let i = 0; i < segmentCount; i++) this.#buffers.add(driver, segments[i * 4 + 3]!, 0);
    table.clear();
    if (segmentCount > 0) this.queue.commit();
  }

  /** Resolves when `receive` gives something or throws. Rejects when the queue ends or the signal aborts. */
  async ready(signal?: AbortSignal): Promise<void> {
    for (;;) {
      this.#collect();
      if (this.#packetBuffers() > 0 || this.#failure !== null) return;
      await this.queue.called(signal);
    }
  }

  abandoned(): void {
    this.#collect();
  }

  /** A device takes the place of another: it gets the buffers of that one, and of a packet that was not whole. */
  restarted(): void {
    const { driver } = this.queue;
    this.#buffers.addAgain(driver, 0);
    for (let left = this.#unfinished(); left > 0; left--) {
      this.#count--;
      this.#buffers.add(driver, this.#held[(this.#first + this.#count) % this.#buffers.count]!, 0);
    }
    driver.disableCalls();
  }

  [Symbol.dispose](): void {
    this.#leave();
    this.#buffers[Symbol.dispose]();
  }

  #collect(): void {
    const { driver } = this.queue;
    const used = this.#used;
    const { count: places } = this.#buffers;
    for (let count = driver.collect(used, places); count > 0; count = driver.collect(used, places)) {
      let place = this.#first + this.#count;
      for (let i = 0; i < count; i++) {
        if (place >= places) place -= places;
        this.#held[place] = this.#buffers.take(used.ids[i]!);
        this.#heldBytes[place] = used.lengths[i]!;
        place++;
      }
      this.#count += count;
    }
  }

  /** Buffers of the packet that starts `distance` places behind the first one held; 0 when not all of them are there. */
  #packetBuffers(distance = 0): number {
    const left = this.#count - distance;
    if (left === 0 || this.#failure !== null) return 0;
    const place = (this.#first + distance) % this.#buffers.count;
    if (this.#heldBytes[place]! < this.#headerBytes) {
      return this.#fail(`a packet of ${this.#heldBytes[place]} bytes is shorter than its header`);
    }
    if (!this.mergeable) return 1;
    const words = this.queue.ram.platform.windows.u32[this.#buffers.window]!;
    const count = words[(this.#buffers.rows[this.#held[place]! * 4 + 1]! >>> 2) + 2]! >>> 16;
    if (count === 0 || count > this.#buffers.count) {
      return this.#fail(`a packet in ${count} buffers; the device had 1 to ${this.#buffers.count}`);
    }
    return count <= left ? count : 0;
  }

  /** Held buffers at the end that make no whole packet. */
  #unfinished(): number {
    let distance = 0;
    for (;;) {
      const count = this.#packetBuffers(distance);
      if (count === 0) return this.#count - distance;
      distance += count;
    }
  }

  /** Makes a row of the first `buffers` held; false when the table has no room. Its header was checked. */
  #show(table: PacketTable, buffers: number): boolean {
    const { packets, segments, segmentCapacity } = table;
    const { rows, window, count: places } = this.#buffers;
    let segment = table.segmentCount;
    if (segment + buffers > segmentCapacity) {
      if (table.count === 0) {
        this.#fail(`a packet in ${buffers} buffers; the table takes ${segmentCapacity} segments`);
      }
      return false;
    }
    const words = this.queue.ram.platform.windows.u32[window]!;
    const at = table.count * PACKET_STRIDE;
    let header = this.#headerBytes;
    const word = rows[this.#held[this.#first]! * 4 + 1]! >>> 2;
    packets[at] = words[word]!;
    packets[at + 1] = words[word + 1]!;
    packets[at + 2] = header === 12 ? words[word + 2]! : words[word + 2]! & 0xffff;
    packets[at + PacketField.firstSegment] = segment;
    packets[at + PacketField.segments] = buffers;
    let length = 0;
    for (let i = 0; i < buffers; i++) {
      const buffer = this.#held[this.#first]!;
      const bytes = this.#heldBytes[this.#first]! - header;
      const p = segment << 2;
      segments[p] = window;
      segments[p + 1] = rows[buffer * 4 + 1]! + header;
      segments[p + 2] = bytes;
      segments[p + 3] = buffer;
      length += bytes;
      header = 0;
      segment++;
      this.#first = this.#first + 1 === places ? 0 : this.#first + 1;
    }
    this.#count -= buffers;
    packets[at + PacketField.length] = length;
    table.segmentCount = segment;
    table.count++;
    return true;
  }

  #fail(what: string): 0 {
    this.#failure ??= new DeviceError(
      'ERR_DEVICE_REQUEST',
      `receive queue ${this.queue.index}: the device returned ${what}`,
    );
    return 0;
  }
}
