import { NetHeaderFlag } from '../../../generated/virtio/devices/net/layouts.js';
import type { DeviceQueue } from '../../device/index.js';
import { DeviceError } from '../../errors.js';
import { Backlog } from './backlog.js';
import { completeChecksum } from './checksum.js';
import type { NetCounters } from './counters.js';
import { OffloadSet } from './offloads.js';
import { PacketPlacer } from './packet-placer.js';
import {
  ALL_ROWS,
  BURST_MAX,
  ETHERNET_HEADER,
  PACKET_STRIDE,
  type PacketBurst,
  PacketColumn,
  type PacketMemory,
} from './port.js';
import { Segmenter } from './segmenter.js';

/** Bytes of a VLAN tag. */
const VLAN_TAG = 4;

/** How long a packet waits for the rest of its buffers, while it keeps those that it has from all others. */
const PATIENCE_MS = 1000;

/**
 * One receive queue of the driver. Packets go from where they lie straight into the driver's buffers; when there are no
 * buffers they wait in the backlog, or with their port. A packet that the driver does not take as it is goes through the
 * backlog too: there its checksum is completed, or it is cut, out of the sender's reach.
 */
export class ReceiveQueue {
  readonly queue: DeviceQueue;
  readonly #memory: PacketMemory;
  readonly #counters: NetCounters;
  readonly #segmenter: () => Segmenter;
  readonly #backlog: Backlog;
  readonly #offloads: OffloadSet;
  readonly #placer: PacketPlacer;
  readonly #ready: () => void;
  /** Runs while a packet waits for the rest of its buffers. */
  #patience: NodeJS.Timeout | null = null;

  /**
   * `segmenter` gives the device's one; it is made when the first packet has to be cut. `longest`: most bytes of a packet
   * that is not to be cut, Ethernet header included; asked for every burst. `ready`: the port may offer again.
   */
  constructor(
    queue: DeviceQueue,
    memory: PacketMemory,
    counters: NetCounters,
    longest: () => number,
    segmenter: () => Segmenter,
    ready: () => void,
  ) {
    this.queue = queue;
    this.#memory = memory;
    this.#counters = counters;
    this.#segmenter = segmenter;
    this.#ready = ready;
    this.#backlog = new Backlog(memory, BURST_MAX);
    this.#offloads = OffloadSet.received(queue.features);
    this.#placer = new PacketPlacer(queue, memory, counters, this.#offloads, longest);
  }

  /** Packets that wait for buffers. */
  get waiting(): number {
    return this.#backlog.count;
  }

  /** Takes rows of a burst. What fits neither the driver's buffers nor the backlog is dropped. */
  deliver(burst: PacketBurst, rows: Int32Array, count: number): void {
    try {
      let done = this.#backlog.count > 0 ? 0 : this.#placer.place(burst, rows, 0, count);
      if (done < count) {
        for (; done < count; done++) this.#enqueue(burst, rows[done]!);
        this.#placer.copies.run();
        this.#drainBacklog();
      }
      this.#commit(this.#backlog.count > 0);
    } catch (cause) {
      this.#fail(cause);
    }
  }

  /** As many rows of a burst as there are buffers for; gives their number. */
  offer(burst: PacketBurst, rows: Int32Array, count: number): number {
    let done = 0;
    try {
      this.#drainBacklog();
      while (done < count && this.#backlog.count === 0) {
        done = this.#placer.place(burst, rows, done, count);
        if (!this.#placer.unfit) break;
        // It does not wait with its port, since what becomes of it may be many packets.
        this.#enqueue(burst, rows[done++]!);
        this.#placer.copies.run();
        this.#drainBacklog();
      }
      this.#commit(done < count);
      return done;
    } catch (cause) {
      this.#fail(cause);
      return count;
    }
  }

  /** Buffers may have come. Returns true when no packet waits for more. */
  serve(): boolean {
    this.#drainBacklog();
    this.#mindPatience();
    return this.#backlog.count === 0;
  }

  /** Gives back, empty, the buffers of a packet that waits for more of them; the packet waits on. */
  yield(): void {
    this.#placer.giveAll();
    this.queue.commit();
  }

  /** Gives every chain back and forgets what waits. */
  stop(): void {
    this.#placer.giveAll();
    this.#mindPatience();
    this.#counters.receiveUnwanted += this.#backlog.count;
    this.#backlog.close();
  }

  /** `starved`: buffers are to be announced from now on; without a turn the driver's kicks may be off. */
  #commit(starved: boolean): void {
    this.#mindPatience();
    this.queue.commit();
    if (starved) this.queue.resume();
  }

  /**
   * A driver that fills its ring gives a packet the rest of its buffers, or the packet is dropped as too long for the ring. One that
   * gives a few buffers and waits to have them used before it gives others would never see a packet again.
   */
  #mindPatience(): void {
    if (this.#placer.partly > 0) {
      this.#patience ??= setTimeout(() => this.#lostPatience(), PATIENCE_MS).unref();
    } else if (this.#patience !== null) {
      clearTimeout(this.#patience);
      this.#patience = null;
    }
  }

  #lostPatience(): void {
    this.#patience = null;
    this.#placer.giveUp();
    try {
      this.#drainBacklog();
      this.#commit(this.#backlog.count > 0);
    } catch (cause) {
      this.#fail(cause);
    }
    if (this.#backlog.count === 0) this.#ready();
  }

  #drainBacklog(): void {
    while (this.#backlog.count > 0) {
      const count = this.#backlog.show();
      const done = this.#placer.place(this.#backlog.burst, ALL_ROWS, 0, count);
      this.#backlog.pop(done);
      if (done < count) return;
    }
  }

  /** Puts one packet behind those that wait, made fit for the driver. */
  #enqueue(burst: PacketBurst, row: number): void {
    const { packets } = burst;
    const at = row * PACKET_STRIDE;
    const length = packets[at + PacketColumn.length]!;
    const gsoType = (packets[at]! >>> 8) & 0xff;
    const backlog = this.#backlog;
    if ((packets[at]! & 0xffff) === 0 || this.#placer.takes(packets[at]!)) {
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
    this.#placer.copies.run();
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
      this.#placer.copies.add(segments[i * 4]!, segments[i * 4 + 1]!, window, offset, count);
      offset += count;
      left -= count;
    }
  }

  #fail(cause: unknown): void {
    this.queue.fail(
      new DeviceError(
        'ERR_DEVICE_FAILED',
        `receive queue ${this.queue.index}: packets could not be delivered`,
        {
          cause,
        },
      ),
    );
    this.#placer.abandon();
    this.#mindPatience();
    this.#backlog.clear();
  }
}

/** The header of a packet with nothing to say. */
const PLAIN = new Int32Array(3);

/** Longest packet for an MTU: Ethernet's header and a VLAN tag come on top. */
export function longestFor(mtu: number): number {
  return mtu + ETHERNET_HEADER + VLAN_TAG;
}
