import { DeviceId } from '../../../generated/virtio/device-ids.js';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { NET_MTU_MAX, NET_MTU_MIN } from '../../../generated/virtio/devices/net/layouts.js';
import type { DeviceHost, DeviceQueue, VirtioDevice } from '../../device/index.js';
import { sendAnnouncement } from './announcement.js';
import { NetConfiguration } from './configuration.js';
import { type NetCounters, newCounters } from './counters.js';
import { FLOW_SLOTS, FlowTable } from './flow-table.js';
import { OFFLOADS } from './offloads.js';
import { type CheckedOptions, checkOptions, type NetDeviceOptions, offeredFeatures } from './options.js';
import {
  BURST_MAX,
  type NetPort,
  PACKET_MAX,
  PACKET_STRIDE,
  type PacketBurst,
  type PacketReceiver,
} from './port.js';
import { longestFor, ReceiveQueue } from './receive-queue.js';
import { Segmenter } from './segmenter.js';
import { decodeState, encodeState } from './state.js';
import { TransmitQueue } from './transmit-queue.js';

/**
 * The network device (virtio device type 1) over any NetPort. Queue 2k receives and queue 2k + 1 transmits for pair k. The
 * control queue is the front-end's.
 */
export class NetDevice implements VirtioDevice, PacketReceiver {
  readonly deviceId = DeviceId.network;
  readonly features: bigint;
  readonly queueCount: number;
  readonly maxQueueSize: number;
  readonly config: NetConfiguration;
  readonly counters: NetCounters = newCounters();

  readonly #port: NetPort;
  readonly #options: CheckedOptions;
  readonly #receive: (ReceiveQueue | null)[];
  readonly #transmit: (TransmitQueue | null)[];
  readonly #flows: FlowTable | null;
  /** Rows of a burst by pair, while it is being steered. */
  readonly #steered: { readonly rows: Int32Array; count: number }[];
  #segmenter: Segmenter | null = null;
  #longest = PACKET_MAX;
  #host: DeviceHost | null = null;
  /** Packets when the counters were logged last. */
  #reported = 0;

  /** Throws DeviceError (ERR_DEVICE_CONFIGURATION). The port is this device's from now on, but the caller's to close. */
  constructor(port: NetPort, options: NetDeviceOptions = {}) {
    const checked = checkOptions(port, options);
    const pairs = checked.queuePairs;
    this.#port = port;
    this.#options = checked;
    this.features = offeredFeatures(port, checked);
    this.queueCount = 2 * pairs;
    this.maxQueueSize = checked.queueSize;
    this.config = new NetConfiguration(checked, port.up);
    this.#receive = Array.from({ length: pairs }, () => null);
    this.#transmit = Array.from({ length: pairs }, () => null);
    this.#flows = pairs > 1 ? new FlowTable() : null;
    this.#steered =
      pairs > 1 ? Array.from({ length: pairs }, () => ({ rows: new Int32Array(BURST_MAX), count: 0 })) : [];
    port.connect(this);
  }

  // --- what the host does with it

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  setFeatures(features: bigint): void {
    this.#longest = (features & NetFeature.mtu) !== 0n ? longestFor(this.config.mtu) : PACKET_MAX;
    this.#port.setOffloads?.(features & OFFLOADS.received);
  }

  startQueue(queue: DeviceQueue): void {
    const pair = queue.index >> 1;
    if ((queue.index & 1) === 0) {
      this.#receive[pair] = new ReceiveQueue(
        queue,
        this.#port.memory,
        this.counters,
        () => this.#longest,
        () => (this.#segmenter ??= new Segmenter()),
        () => this.#port.receiveReady?.(pair),
      );
      this.#port.receiveReady?.(pair);
    } else {
      this.#transmit[pair] = new TransmitQueue(queue, this.#port, pair, this.counters, this.#flows);
    }
  }

  serveQueue(queue: DeviceQueue): void {
    const pair = queue.index >> 1;
    if ((queue.index & 1) !== 0) this.#transmit[pair]!.serve();
    else if (this.#receive[pair]!.serve()) this.#port.receiveReady?.(pair);
  }

  yieldQueue(queue: DeviceQueue): void {
    const pair = queue.index >> 1;
    if ((queue.index & 1) === 0) this.#receive[pair]?.yield();
    else this.#transmit[pair]?.stop();
  }

  stopQueue(queue: DeviceQueue): void {
    const pair = queue.index >> 1;
    const receives = (queue.index & 1) === 0;
    const queues = receives ? this.#receive : this.#transmit;
    queues[pair]?.stop();
    queues[pair] = null;
    if (receives) this.#port.receiveReady?.(pair);
  }

  /** What the port has not taken is dropped with what is sent from now on; a port that waits for buffers need not. */
  disableQueue(queue: DeviceQueue): void {
    const pair = queue.index >> 1;
    if ((queue.index & 1) === 0) {
      this.#port.receiveReady?.(pair);
    } else {
      this.#transmit[pair]?.stop();
      queue.commit();
    }
  }

  discardsDisabled(index: number): boolean {
    return (index & 1) !== 0;
  }

  saveState(): Uint8Array {
    const { config, counters } = this;
    return encodeState({
      mtu: config.mtu,
      linkUp: config.linkUp,
      flows: this.#flows?.save() ?? null,
      counters,
    });
  }

  loadState(bytes: Uint8Array): void {
    const { mtu, linkUp, flows, counters } = decodeState(bytes, this.queueCount / 2, FLOW_SLOTS);
    this.setMtu(mtu);
    if (flows !== null) this.#flows!.load(flows);
    Object.assign(this.counters, counters);
    this.#reported = counters.transmitted + counters.received;
    // The driver saw the link of the port before; it hears of this one's if that is different.
    this.config.linkUp = linkUp;
    this.linkChanged();
  }

  reset(): void {
    this.#report();
    this.#longest = PACKET_MAX;
    this.config.mtu = this.#options.mtu;
    this.#flows?.clear();
    this.#port.setOffloads?.(0n);
  }

  /** Says once what went through, whenever a driver is gone. */
  #report(): void {
    const packets = this.counters.transmitted + this.counters.received;
    if (packets === this.#reported) return;
    this.#reported = packets;
    this.#host?.log('info', 'traffic so far', { ...this.counters });
  }

  /** Has the network learn that this address is here now (SEND_RARP), for a guest that does not do so itself. */
  announce(mac: Uint8Array): void {
    if (!this.#port.up) return;
    sendAnnouncement(this.#port.memory, mac, (burst) => this.#port.transmit(burst, 0, burst.count, 0));
  }

  /** The front-end sets the MTU (NET_SET_MTU); false when it is none. */
  setMtu(mtu: number): boolean {
    if (mtu < NET_MTU_MIN || mtu > NET_MTU_MAX) return false;
    this.config.mtu = mtu;
    if (this.#longest !== PACKET_MAX) this.#longest = longestFor(mtu);
    return true;
  }

  // --- what the port does with it

  get mac(): Uint8Array | null {
    return this.#options.mac;
  }

  deliver(burst: PacketBurst, rows: Int32Array, count: number, pair: number): void {
    if (count === 0) return;
    if (this.#flows !== null && pair < 0) {
      this.#steer(burst, rows, count);
      return;
    }
    const receive = this.#receiveQueue(Math.max(pair, 0));
    if (receive === null || !this.#port.up) this.counters.receiveUnwanted += count;
    else receive.deliver(burst, rows, count);
  }

  offer(burst: PacketBurst, rows: Int32Array, count: number, pair: number): number {
    const receive = this.#receiveQueue(pair);
    if (receive !== null && this.#port.up) return receive.offer(burst, rows, count);
    // Nobody takes them: they may all be dropped at once.
    this.counters.receiveUnwanted += count;
    return count;
  }

  waiting(pair: number): number {
    return this.#port.up ? (this.#receiveQueue(pair)?.waiting ?? -1) : -1;
  }

  transmitReady(pair: number): void {
    const transmit = this.#transmit[pair];
    if (transmit === null || transmit === undefined) return;
    transmit.queue.resume();
  }

  failed(cause: unknown): void {
    this.#host?.log('error', 'the port failed', { error: cause });
  }

  linkChanged(): void {
    if (this.config.linkUp === this.#port.up) return;
    this.config.linkUp = this.#port.up;
    this.#host?.configurationChanged();
    this.#transmit.forEach((_, pair) => this.transmitReady(pair));
  }

  /** The receive queue of a pair, or that of the first pair that has one which is enabled. */
  #receiveQueue(pair: number): ReceiveQueue | null {
    const wanted = this.#receive[pair];
    if (wanted?.queue.enabled) return wanted;
    for (const receive of this.#receive) if (receive?.queue.enabled) return receive;
    return null;
  }

  #steer(burst: PacketBurst, rows: Int32Array, count: number): void {
    const { u8 } = this.#port.memory;
    const steered = this.#steered;
    for (let i = 0; i < count; i++) {
      const to = steered[this.#flows!.pairOf(burst, rows[i]! * PACKET_STRIDE, u8)]!;
      to.rows[to.count++] = rows[i]!;
    }
    for (let pair = 0; pair < steered.length; pair++) {
      const to = steered[pair]!;
      const found = to.count;
      to.count = 0;
      if (found > 0) this.deliver(burst, to.rows, found, pair);
    }
  }
}
