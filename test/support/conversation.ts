import type {
  DeviceConfiguration,
  DeviceHost,
  DeviceQueue,
  VirtioDevice,
} from '../../runtime/device/index.js';
import { ChainBatch } from '../../runtime/device/index.js';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import type { SocketStream } from '../../runtime/platform/platform.js';
import type { BackendSession } from '../../runtime/vhost-user/backend/session.js';
import {
  serveDevice,
  type BackendOptions,
  type VhostUserBackend,
} from '../../runtime/vhost-user/backend/server.js';
import type { VhostUserError } from '../../runtime/errors.js';
import { RawSplitRing, WRITE, type ViewedMemory } from './raw-rings.js';
import {
  bytes,
  PROTOCOL_FEATURES,
  Protocol,
  RawFrontend,
  Request,
  VERSION_1,
  until,
} from './raw-frontend.js';

/** User addresses of the guest's memory are guest addresses plus this. */
export const USER = 0x7f00_0000_0000;

/** A device that writes 'A', 'B' … into what it gets, or keeps chains until told. It remembers what happened to it. */
export class RecordingDevice implements VirtioDevice {
  readonly deviceId = 4;
  features = 0n;
  queueCount = 4;
  readonly events: string[] = [];
  readonly queues = new Map<number, DeviceQueue>();
  /** Chains are not completed until `finish`. */
  hold = false;
  readonly held: { queue: DeviceQueue; handle: number }[] = [];
  /** It does nothing more for what it holds when a queue is stopped. */
  lets = false;
  /** Thrown by the next `serveQueue`. */
  failure: Error | null = null;
  served = 0;
  host: DeviceHost | null = null;
  space = Uint8Array.from({ length: 20 }, (_, i) => i + 1);
  /** Only the four bytes at 4 are writable by the driver. */
  readonly config: DeviceConfiguration = {
    size: 20,
    read: () => this.space,
    write: (offset, written, migration) => {
      if ((offset !== 4 || written.byteLength > 4) && !migration) return false;
      this.space.set(written, offset);
      return true;
    },
  };
  readonly #batch = new ChainBatch(16, 256);

  attach(host: DeviceHost): void {
    this.host = host;
    this.events.push('attach');
  }
  setFeatures(features: bigint): void {
    this.events.push(`features 0x${features.toString(16)}`);
  }
  startQueue(queue: DeviceQueue): void {
    this.queues.set(queue.index, queue);
    this.events.push(`start ${queue.index}`);
  }
  stopQueue(queue: DeviceQueue): void {
    this.queues.delete(queue.index);
    this.events.push(`stop ${queue.index}`);
  }
  /** How often it was asked what another process still writes. */
  asked = 0;
  /** What it answers to that. */
  settling: Promise<void> | null = null;

  settled(): Promise<void> | null {
    this.asked++;
    return this.settling;
  }
  letsGo(): boolean {
    return this.lets;
  }
  reset(): void {
    this.events.push('reset');
  }
  serveQueue(queue: DeviceQueue): void {
    if (this.failure !== null) {
      const failure = this.failure;
      this.failure = null;
      throw failure;
    }
    for (let count = queue.drain(this.#batch, 16); count > 0; count = queue.drain(this.#batch, 16)) {
      for (let i = 0; i < count; i++) this.#serve(queue, i);
    }
  }

  #serve(queue: DeviceQueue, row: number): void {
    const [handle, first, readable, writable] = this.#batch.chains.subarray(row * 4, row * 4 + 4);
    let written = 0;
    for (let i = first! + readable!; i < first! + readable! + writable!; i++) {
      const [window, offset, length] = this.#batch.segments.subarray(i * 4, i * 4 + 3);
      queue.u8[window!]!.fill(0x41 + (this.served % 26), offset, offset! + length!);
      written += length!;
    }
    this.served++;
    if (this.hold) this.held.push({ queue, handle: handle! });
    else queue.complete(handle!, written);
  }

  /** Completes everything held. */
  finish(): void {
    for (const { queue, handle } of this.held.splice(0)) {
      queue.complete(handle, 0);
      queue.commit();
    }
  }
}

export interface ConversationOptions extends Partial<BackendOptions> {
  readonly device?: RecordingDevice;
  readonly platform?: FakePlatform;
}

/** A back-end on the fake platform with a raw front-end connected to it. */
export class Conversation {
  readonly platform: FakePlatform;
  readonly device: RecordingDevice;
  readonly backend: VhostUserBackend;
  readonly frontend: RawFrontend;
  readonly logs: { level: string; message: string }[] = [];
  /** How each session ended. */
  readonly reasons: (VhostUserError | null)[] = [];
  session: BackendSession;

  private constructor(platform: FakePlatform, device: RecordingDevice, options: ConversationOptions) {
    this.platform = platform;
    this.device = device;
    const [mine, theirs] = platform.socketPair();
    this.frontend = new RawFrontend(platform, platform.adoptSocket(mine) as SocketStream);
    this.backend = serveDevice(device, {
      fd: theirs,
      spinMicroseconds: 0,
      ...options,
      platform,
      log: (level, message) => this.logs.push({ level, message }),
    });
    this.session = this.backend.session!;
    this.backend.on('sessionEnd', (_, reason) => this.reasons.push(reason));
  }

  static open(options: ConversationOptions = {}): Conversation {
    const platform = options.platform ?? createFakePlatform();
    return new Conversation(platform, options.device ?? new RecordingDevice(), options);
  }

  /** The reason for which the session ended; fails the test when it goes on. */
  async ended(): Promise<VhostUserError | null> {
    await until(() => this.reasons.length > 0, 'the session ends');
    return this.reasons[0]!;
  }

  /** GET_FEATURES to SET_PROTOCOL_FEATURES, as a present-day front-end does it. */
  async negotiate(features = VERSION_1 | PROTOCOL_FEATURES, protocol = ALL_PROTOCOL): Promise<void> {
    const { frontend } = this;
    await frontend.ask(Request.getFeatures);
    await frontend.ask(Request.getProtocolFeatures);
    frontend.send(Request.setProtocolFeatures, bytes(protocol));
    frontend.send(Request.setOwner);
    frontend.send(Request.setFeatures, bytes(features));
  }

  /** Ends both sides and waits until the session is gone. */
  async close(): Promise<void> {
    this.frontend.close();
    await this.ended();
    this.backend.close();
  }
}

export const ALL_PROTOCOL =
  Protocol.mq |
  Protocol.logShmfd |
  Protocol.replyAck |
  Protocol.backendReq |
  Protocol.config |
  Protocol.inflightShmfd |
  Protocol.getVringBaseInflight |
  Protocol.getVringBaseSkipDrain |
  Protocol.resetDevice |
  Protocol.configureMemSlots |
  Protocol.status;

/** Guest memory of one region that front-end and back-end share. */
export class SharedGuest implements ViewedMemory {
  readonly fd: number;
  readonly size: number;
  readonly address: number;
  readonly #platform: FakePlatform;
  readonly #mapping;

  constructor(platform: FakePlatform, size = 0x4_0000, address = 0) {
    this.#platform = platform;
    this.size = size;
    this.address = address;
    this.fd = platform.createSharedMemory('guest', BigInt(size));
    this.#mapping = platform.map(this.fd, 0n, BigInt(size));
  }

  /** The region as it goes into a memory table, 32 bytes. */
  get region(): Uint8Array {
    return bytes(BigInt(this.address), BigInt(this.size), BigInt(USER + this.address), 0n);
  }

  view(address: number, length: number): DataView {
    const all = this.#platform.windows.u8[this.#mapping.firstWindow]!;
    return new DataView(all.buffer, all.byteOffset + address - this.address, length);
  }

  close(): void {
    this.#mapping.unmap();
    this.#platform.closeFd(this.fd);
  }
}

export function memoryTable(...guests: SharedGuest[]): Uint8Array {
  return bytes(guests.length, 0, ...guests.map((guest) => guest.region));
}

export function singleRegion(guest: SharedGuest): Uint8Array {
  return bytes(0n, guest.region);
}

/** SET_VRING_ADDR's payload. */
export function vringAddress(
  index: number,
  ring: { descriptorAddress: number; driverAddress: number; deviceAddress: number },
  flags = 0,
): Uint8Array {
  return bytes(
    index,
    flags,
    BigInt(USER + ring.descriptorAddress),
    BigInt(USER + ring.deviceAddress),
    BigInt(USER + ring.driverAddress),
    0n,
  );
}

/** A split ring that runs, with its eventfds, driven by hand. */
export class RunningRing {
  readonly index: number;
  readonly ring: RawSplitRing;
  readonly kick;
  readonly call;
  readonly err;
  readonly #buffers: number;
  readonly #guest: SharedGuest;

  private constructor(talk: Conversation, guest: SharedGuest, index: number, size: number) {
    this.index = index;
    this.#guest = guest;
    this.ring = new RawSplitRing(guest, size, guest.address + 0x1000 + index * 0x2000);
    this.#buffers = guest.address + 0x1_0000 + index * 0x4000;
    this.kick = talk.frontend.eventFd();
    this.call = talk.frontend.eventFd();
    this.err = talk.frontend.eventFd();
  }

  /** Sends memory and ring; `base` null sends none, `enable` is SET_VRING_ENABLE. */
  static start(
    talk: Conversation,
    guest: SharedGuest,
    { index = 0, size = 16, enable = true, table = true, base = 0 as number | null } = {},
  ): RunningRing {
    const running = new RunningRing(talk, guest, index, size);
    const { frontend } = talk;
    if (table) frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
    frontend.send(Request.setVringNum, bytes(index, size));
    if (base !== null) frontend.send(Request.setVringBase, bytes(index, base));
    frontend.send(Request.setVringAddr, vringAddress(index, running.ring));
    frontend.send(Request.setVringCall, bytes(BigInt(index)), { fds: [running.call.fd] });
    frontend.send(Request.setVringErr, bytes(BigInt(index)), { fds: [running.err.fd] });
    frontend.send(Request.setVringKick, bytes(BigInt(index)), { fds: [running.kick.fd] });
    if (enable) frontend.send(Request.setVringEnable, bytes(index, 1));
    return running;
  }

  /** Offers one chain with a writable buffer of 64 bytes. */
  offer(kick = true): void {
    const head = this.ring.availableIndex % this.ring.size;
    this.ring.chain([head], [{ address: this.#buffers + head * 64, length: 64, flags: WRITE }]);
    this.ring.offer(head);
    if (kick) this.kick.signal();
  }

  /** First byte of the buffer of the chain offered `n`th. */
  answer(n: number): number {
    return this.#guest.view(this.#buffers + (n % this.ring.size) * 64, 1).getUint8(0);
  }

  async used(count: number): Promise<void> {
    await until(() => this.ring.usedIndex === count, `${count} chains used`);
  }

  close(): void {
    this.kick.close();
    this.call.close();
    this.err.close();
  }
}
