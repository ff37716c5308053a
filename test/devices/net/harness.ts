import { NO_FRONTEND_SERVICES } from '../../../runtime/device/frontend-services.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { NetHeader } from '../../../generated/virtio/devices/net/layouts.js';
import { PlatformPacketMemory } from '../../../runtime/backings/ports/packet-memory.js';
import { headerSize } from '../../../runtime/devices/net/header.js';
import {
  ALL_ROWS,
  NetDevice,
  type NetDeviceOptions,
  type NetPort,
  OFFLOADS,
  PACKET_STRIDE,
  PacketBurst,
  PacketColumn,
  type PacketMemory,
  type PacketReceiver,
} from '../../../runtime/devices/net/index.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/platform/fake.js';
import { encodeToBytes } from '../../../runtime/wire/index.js';
import { FakeDeviceQueue, type OfferedChain } from '../../support/fake-device-queue.js';

export const PLAIN: NetHeader = {
  flags: 0,
  gsoType: 0,
  hdrLen: 0,
  gsoSize: 0,
  csumStart: 0,
  csumOffset: 0,
  numBuffers: 0,
};

export interface Packet {
  readonly header: NetHeader;
  readonly bytes: Uint8Array;
}

/** A port whose other end is the test. */
export class TestPort implements NetPort {
  readonly memory: PacketMemory;
  offloads: bigint = OFFLOADS.sent | OFFLOADS.received;
  pairs = 4;
  up = true;
  readonly sent: (Packet & { readonly pair: number })[] = [];
  /** Packets that it takes before it blocks. */
  credit = Infinity;
  accepted = 0n;
  ready: number[] = [];
  receiver: PacketReceiver | null = null;

  constructor(memory: PacketMemory) {
    this.memory = memory;
  }

  connect(receiver: PacketReceiver): void {
    this.receiver = receiver;
  }

  setOffloads(features: bigint): void {
    this.accepted = features;
  }

  transmit(burst: PacketBurst, first: number, count: number, pair: number): number {
    for (let row = first; row < count; row++) {
      if (this.credit-- <= 0) return row;
      this.sent.push({ ...packetAt(this.memory, burst, row), pair });
    }
    return count;
  }

  receiveReady(pair: number): void {
    this.ready.push(pair);
  }

  close(): void {}
}

/** A network card with a test on both sides of it. */
export class Card {
  readonly platform: FakePlatform;
  readonly memory: PlatformPacketMemory;
  readonly port: TestPort;
  readonly device: NetDevice;
  readonly features: bigint;
  readonly receive: FakeDeviceQueue[] = [];
  readonly transmit: FakeDeviceQueue[] = [];
  configurationChanges = 0;

  constructor({
    platform = createFakePlatform(),
    features = VirtioFeature.version1 as bigint,
    options = {} as NetDeviceOptions,
    size = 128,
    offloads = OFFLOADS.sent | OFFLOADS.received,
  } = {}) {
    this.platform = platform;
    this.memory = new PlatformPacketMemory(platform);
    this.port = new TestPort(this.memory);
    this.port.offloads = offloads;
    this.device = new NetDevice(this.port, options);
    this.features = features;
    this.device.attach({
      frontend: NO_FRONTEND_SERVICES,
      configurationChanged: () => this.configurationChanges++,
      log: () => {},
    });
    this.device.setFeatures(features);
    for (let pair = 0; pair < this.device.queueCount / 2; pair++) {
      this.receive.push(this.#start(2 * pair, size));
      this.transmit.push(this.#start(2 * pair + 1, size));
    }
  }

  get headerSize(): number {
    return headerSize(this.features);
  }

  /** The driver sends a packet, its header and its bytes cut into descriptors of these lengths; the rest is one more. */
  send(
    bytes: Uint8Array,
    { header = {} as Partial<NetHeader>, cuts = [] as number[], pair = 0 } = {},
  ): OfferedChain {
    const whole = Uint8Array.from([...this.encode(header), ...bytes]);
    const pieces: Uint8Array[] = [];
    let at = 0;
    for (const cut of cuts) pieces.push(whole.subarray(at, (at += cut)));
    pieces.push(whole.subarray(at));
    return this.transmit[pair]!.offer(pieces, []);
  }

  encode(header: Partial<NetHeader>): Uint8Array {
    return encodeToBytes(NetHeader, { ...PLAIN, ...header }).subarray(0, this.headerSize);
  }

  /** What the driver finds in a receive buffer. */
  received(...chains: OfferedChain[]): Packet {
    const bytes = chains.flatMap((chain) => [...chain.answer.subarray(0, chain.written!)]);
    const header = Uint8Array.from({ length: 12 }, (_, i) => (i < this.headerSize ? bytes[i]! : 0));
    return { header: decodeHeader(header), bytes: Uint8Array.from(bytes.slice(this.headerSize)) };
  }

  /** Packets come in from the network. */
  deliver(packets: readonly (Partial<Packet> & { bytes: Uint8Array })[], pair = 0): void {
    const { burst, release } = burstOf(this.memory, packets);
    this.device.deliver(burst, ALL_ROWS, burst.count, pair);
    // The sender's memory is its own again.
    this.memory.u8[burst.segments[0]!]?.fill(0xdd);
    release();
  }

  /** As `deliver`, but the port keeps what there are no buffers for. Gives how many packets are done with. */
  offer(packets: readonly (Partial<Packet> & { bytes: Uint8Array })[], pair = 0): number {
    const { burst, release } = burstOf(this.memory, packets);
    const done = this.device.offer(burst, ALL_ROWS, burst.count, pair);
    release();
    return done;
  }

  serveTransmit(pair = 0): void {
    this.device.serveQueue(this.transmit[pair]!);
  }

  serveReceive(pair = 0): void {
    this.device.serveQueue(this.receive[pair]!);
  }

  #start(index: number, size: number): FakeDeviceQueue {
    const queue = new FakeDeviceQueue(this.platform, { index, size });
    queue.features = this.features;
    this.device.startQueue(queue);
    return queue;
  }
}

/** Packets in memory of their own, each in pieces of at most `piece` bytes. */
export function burstOf(
  memory: PacketMemory,
  packets: readonly (Partial<Packet> & { bytes: Uint8Array })[],
  piece = 1000,
): { burst: PacketBurst; release: () => void } {
  const total = packets.reduce((sum, { bytes }) => sum + bytes.byteLength + 1, 0);
  const region = memory.allocate(total + 4096);
  const rows: number[] = [];
  const burst = new PacketBurst(
    packets.length,
    new Int32Array(4 * (Math.ceil(total / piece) + packets.length)),
  );
  let offset = 0;
  packets.forEach(({ header, bytes }, row) => {
    memory.u8[region.window]!.set(bytes, offset);
    const view = new DataView(encodeToBytes(NetHeader, { ...PLAIN, ...header }).buffer);
    const first = rows.length;
    for (let at = 0; at < bytes.byteLength; at += piece) {
      burst.segments.set(
        [region.window, offset + at, Math.min(piece, bytes.byteLength - at), 0],
        rows.push(0) * 4 - 4,
      );
    }
    burst.packets.set(
      [
        view.getInt32(0, true),
        view.getInt32(4, true),
        view.getInt32(8, true) & 0xffff,
        first,
        rows.length - first,
        bytes.byteLength,
      ],
      row * PACKET_STRIDE,
    );
    offset += bytes.byteLength + 1;
  });
  burst.count = packets.length;
  return { burst, release: () => region.release() };
}

export function packetAt(memory: PacketMemory, burst: PacketBurst, row: number): Packet {
  const at = row * PACKET_STRIDE;
  const first = burst.packets[at + PacketColumn.firstSegment]!;
  const bytes: number[] = [];
  for (let i = first; i < first + burst.packets[at + PacketColumn.segments]!; i++) {
    const offset = burst.segments[i * 4 + 1]!;
    bytes.push(...memory.u8[burst.segments[i * 4]!]!.subarray(offset, offset + burst.segments[i * 4 + 2]!));
  }
  if (bytes.length !== burst.packets[at + PacketColumn.length]) {
    throw new Error(`row ${row}: ${bytes.length} bytes in segments, length says otherwise`);
  }
  const header = new Uint8Array(Int32Array.from(burst.packets.subarray(at, at + 3)).buffer);
  return { header: decodeHeader(header), bytes: Uint8Array.from(bytes) };
}

function decodeHeader(bytes: Uint8Array): NetHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, 12);
  return {
    flags: view.getUint8(0),
    gsoType: view.getUint8(1),
    hdrLen: view.getUint16(2, true),
    gsoSize: view.getUint16(4, true),
    csumStart: view.getUint16(6, true),
    csumOffset: view.getUint16(8, true),
    numBuffers: view.getUint16(10, true),
  };
}

/** An Ethernet frame of `length` bytes whose content is its own. */
export function frame(length: number, seed = 1): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, i) => (seed * 31 + i * 7) & 0xff);
  // No group address, no protocol that anybody knows.
  bytes[0] = 0x02;
  bytes[6] = 0x02;
  bytes[12] = 0x88;
  bytes[13] = 0xb5;
  return bytes;
}

export function mac(last: number): Uint8Array {
  return Uint8Array.of(0x02, 0, 0, 0, 0, last);
}
