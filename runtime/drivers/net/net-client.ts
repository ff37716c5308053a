import { DeviceError } from '../../errors.js';
import type { SharedMemory } from '../../memory/shared-memory.js';
import { decodeExactly } from '../../wire/index.js';
import { netFeatureTable } from '../../../generated/virtio/devices/net/features.js';
import { NetConfig } from '../../../generated/virtio/devices/net/layouts.js';
import type { DriverQueue } from '../driver-queue.js';
import { VirtioDriver, type VirtioDriverOptions } from '../virtio-driver.js';
import { ControlQueue } from './control-queue.js';
import { ControlState, type ControlTarget } from './control-state.js';
import { NetControl } from './net-control.js';
import { CONTROL_FEATURES, PLAIN_FEATURES, WITHHELD_FEATURES } from './net-features.js';
import { PACKET_STRIDE, PacketField, PacketTable } from './packet-table.js';
import { Receiver, type ReceiverOptions } from './receiver.js';
import { Transmitter, type TransmitterOptions } from './transmitter.js';

export interface NetClientOptions {
  readonly receive?: ReceiverOptions;
  readonly transmit?: TransmitterOptions;
}

export interface NetStartOptions
  extends
    Omit<
      VirtioDriverOptions,
      'queues' | 'ringsPerQueue' | 'deviceFeatures' | 'featureTable' | 'provided' | 'withheld'
    >,
    NetClientOptions {
  /** Pairs of receive and transmit queues; 1 when absent. */
  readonly queuePairs?: number;
  /** Bits of NetFeature that the driver takes; mergeable buffers, MQ, GUEST_ANNOUNCE and MTU when absent. */
  readonly netFeatures?: bigint;
}

/** What a client stands on: a `VirtioDriver`, or a loopback. */
export interface NetLink {
  /** The driver's features. */
  readonly features: bigint;
  /** Queue 2k receives and queue 2k + 1 transmits for pair k. */
  readonly queues: readonly DriverQueue[];
}

export interface PacketOptions {
  /** 0 when absent. */
  readonly pair?: number;
  readonly signal?: AbortSignal;
  /** The three header words of every packet sent (see PacketTable); 0 when absent. */
  readonly header?: readonly [number, number, number];
}

export interface ReceivedPacket {
  readonly bytes: Uint8Array;
  /** The three header words, num-buffers included. */
  readonly header: readonly [number, number, number];
}

/** One receive and one transmit queue. */
export interface QueuePair {
  readonly receiver: Receiver;
  readonly transmitter: Transmitter;
}

/** Fields up to and including mtu: older back-ends have nothing more. */
const CONFIG_BYTES = 12;
/** Packets in one burst of the comfortable form. */
const BURST = 64;

/**
 * A network driver: packets out and in, in bursts through `pairs` (no object a packet), or one by one as byte arrays.
 *
 * @example
 * ```ts
 * using client = await NetClient.start({ platform, path: '/run/vm/net.sock', format: 'packed' });
 * await client.send([frame]);
 * const [answer] = await client.receive(1);
 * ```
 */
export class NetClient implements Disposable {
  readonly pairs: readonly QueuePair[];
  /** null where no front-end answers commands. */
  readonly control: NetControl | null;
  /** What the front-end in front of the back-end was told by command; null without one. */
  readonly controlState: ControlState | null;
  readonly #driver: VirtioDriver | null;
  readonly #controlQueue: ControlQueue | null;
  readonly #table = new PacketTable(BURST);

  /** Takes the queues over. Throws ERR_GUEST_MEMORY_LIMIT when guest memory does not hold the buffers. */
  constructor(link: NetLink, options: NetClientOptions = {}) {
    const pairs: QueuePair[] = [];
    for (let index = 0; index + 1 < link.queues.length; index += 2) {
      pairs.push({
        receiver: new Receiver(link.queues[index]!, link.features, options.receive),
        transmitter: new Transmitter(link.queues[index + 1]!, link.features, options.transmit),
      });
    }
    this.pairs = pairs;
    this.#driver = link instanceof VirtioDriver ? link : null;
    this.#controlQueue = this.#driver === null ? null : startControl(this.#driver, 2 * pairs.length);
    this.control = this.#controlQueue === null ? null : new NetControl(this.#controlQueue.queue);
    this.controlState = this.#controlQueue?.state ?? null;
  }

  /**
   * Connects to a back-end, negotiates and fills the receive queues. The control queue is answered here; bits that belong to
   * it, MAC and STATUS are kept from the back-end. Rejects as `VirtioDriver.start` does; nothing stays open then.
   */
  static async start(options: NetStartOptions): Promise<NetClient> {
    const { queuePairs = 1, netFeatures = PLAIN_FEATURES, receive, transmit, ...rest } = options;
    const driver = await VirtioDriver.start({
      ...rest,
      queues: 2 * queuePairs,
      ringsPerQueue: 2,
      deviceFeatures: netFeatures | CONTROL_FEATURES,
      featureTable: netFeatureTable,
      provided: CONTROL_FEATURES,
      withheld: WITHHELD_FEATURES,
    });
    try {
      const client = new NetClient(driver, {
        ...(receive !== undefined && { receive }),
        ...(transmit !== undefined && { transmit }),
      });
      if (queuePairs > 1) await client.control!.setQueuePairs(queuePairs, options.signal);
      return client;
    } catch (error) {
      driver.close();
      throw error;
    }
  }

  /** The driver below. Throws where there is none. */
  get driver(): VirtioDriver {
    if (this.#driver !== null) return this.#driver;
    throw new DeviceError('ERR_DEVICE_CONFIGURATION', 'this client stands on no driver');
  }

  get memory(): SharedMemory {
    return this.pairs[0]!.receiver.queue.ram;
  }

  /** The device's configuration space up to its MTU. Fields of features that are not negotiated mean nothing. */
  async configuration(signal?: AbortSignal): Promise<NetConfig> {
    const bytes = new Uint8Array(NetConfig.maxSize);
    bytes.set(await this.driver.frontend.readConfig(CONFIG_BYTES, 0, signal));
    return decodeExactly(NetConfig, bytes);
  }

  /** Sends packets in order and resolves when the device has all of them in its ring. */
  async send(packets: readonly Uint8Array[], options: PacketOptions = {}): Promise<void> {
    const { header = [0, 0, 0], signal } = options;
    const { transmitter } = this.#pair(options);
    const longest = packets.find(({ byteLength }) => byteLength < 1 || byteLength > transmitter.packetLength);
    if (longest !== undefined) {
      throw new DeviceError(
        'ERR_DEVICE_REQUEST',
        `cannot send a packet of ${longest.byteLength} bytes; 1 to ${transmitter.packetLength} can be`,
      );
    }
    const table = this.#table;
    const { u8 } = this.memory.platform.windows;
    for (let sent = 0; sent < packets.length;) {
      const count = transmitter.reserve(table, packets.length - sent);
      for (let row = 0; row < count; row++) {
        const bytes = packets[sent++]!;
        u8[table.segments[row * 4]!]!.set(bytes, table.segments[row * 4 + 1]);
        table.packets.set(header, row * PACKET_STRIDE);
        table.packets[row * PACKET_STRIDE + PacketField.length] = bytes.byteLength;
      }
      transmitter.send(table);
      if (count === 0) await transmitter.room(signal);
    }
  }

  /** Resolves with the next `count` packets; those that came before an error or an abort are lost with it. */
  async receive(count: number, options: PacketOptions = {}): Promise<ReceivedPacket[]> {
    const { receiver } = this.#pair(options);
    const packets: ReceivedPacket[] = [];
    while (packets.length < count) {
      // A packet may take every buffer there is.
      const table = new PacketTable(BURST, Math.max(BURST, receiver.queue.driver.size));
      if (receiver.receive(table, Math.min(BURST, count - packets.length)) === 0) {
        await receiver.ready(options.signal);
        continue;
      }
      for (let row = 0; row < table.count; row++) packets.push(packetAt(this.memory, table, row));
      receiver.release(table);
    }
    return packets;
  }

  /** Hangs up and gives everything back. A link that was given stays open. */
  close(): void {
    this.#controlQueue?.close();
    for (const { receiver, transmitter } of this.pairs) {
      receiver[Symbol.dispose]();
      transmitter[Symbol.dispose]();
    }
    this.#driver?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #pair({ pair = 0 }: PacketOptions): QueuePair {
    const found = this.pairs[pair];
    if (found !== undefined) return found;
    throw new DeviceError('ERR_DEVICE_CONFIGURATION', `there is no queue pair ${pair}`);
  }
}

function startControl(driver: VirtioDriver, index: number): ControlQueue {
  const target: ControlTarget = { enableQueuePairs: (count) => driver.frontend.enableQueuePairs(count) };
  const control = new ControlQueue(
    driver.memory,
    index,
    driver.features,
    new ControlState(driver.features, target),
  );
  void driver.frontend.ended.then((reason) => control.close(reason));
  return control;
}

/** A copy of one row. */
function packetAt(memory: SharedMemory, { packets, segments }: PacketTable, row: number): ReceivedPacket {
  const { u8 } = memory.platform.windows;
  const at = row * PACKET_STRIDE;
  const bytes = new Uint8Array(packets[at + PacketField.length]!);
  const first = packets[at + PacketField.firstSegment]!;
  let end = 0;
  for (let i = first; i < first + packets[at + PacketField.segments]!; i++) {
    const [window, offset, length] = segments.subarray(i * 4, i * 4 + 3);
    bytes.set(u8[window!]!.subarray(offset, offset! + length!), end);
    end += length!;
  }
  return { bytes, header: [packets[at]!, packets[at + 1]!, packets[at + 2]!] };
}
