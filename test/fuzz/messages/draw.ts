import { pascalCase } from '../../../generator/names.js';
import * as generated from '../../../generated/index.js';
import {
  type FrontendRequestName,
  type FrontendRequests,
  frontendRequests,
} from '../../../generated/vhost-user/frontend-requests.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { expectedFds } from '../../../runtime/vhost-user/message-rules.js';
import { type Codec, encodeToBytes, type RequestRow } from '../../../runtime/wire/index.js';
import { randomRecord } from '../../support/model-values.js';
import type { Random } from '../../support/random.js';
import { payloadFields } from './fields.js';
import { USER, type World, type WorldRegion } from './world.js';

/** A message to be sent. `size` is what the header says, which is not always what comes. */
export interface DrawnMessage {
  request: number;
  flags: number;
  size: number;
  payload: Uint8Array;
  fds: readonly number[];
}

/** What the front-end has said of one ring. */
export interface RingPlan {
  size: number;
  /** Guest addresses. */
  descriptor: number;
  driver: number;
  device: number;
}

/** What the front-end knows of the conversation, which need not be true. */
export interface Plan {
  readonly rings: readonly RingPlan[];
  offered: bigint;
  offeredProtocol: bigint;
  accepted: bigint;
  acceptedProtocol: bigint;
  /** Messages about memory stay as they ought to be, so that the guards must stay untouched. */
  readonly soundMemory: boolean;
}

const NEED_REPLY = 8;
const rows = Object.values(frontendRequests) as unknown as readonly RequestRow[];
const { lookup, structs, fields } = payloadFields('vhost-user/frontend-requests');
const codecs = generated as unknown as Record<string, Codec<unknown>>;

/** Requests by how often they are drawn: those that do something to a running session come up most. */
const names: readonly FrontendRequestName[] = rows.flatMap(({ name }) => {
  const often = /^setVring|MemReg/.test(name) ? 3 : 1;
  return Array.from({ length: often }, () => name as FrontendRequestName);
});

/** Fds that tell where memory is. */
const MEMORY_ROLES: ReadonlySet<string> = new Set(['memory-region', 'log', 'inflight']);

export class MessageDraw {
  readonly #random: Random;
  readonly #world: World;
  readonly #plan: Plan;

  constructor(random: Random, world: World, plan: Plan) {
    this.#random = random;
    this.#world = world;
    this.#plan = plan;
  }

  /** Any request, as it ought to be. */
  any(): DrawnMessage {
    return this.request(this.#random.pick(names));
  }

  /** A request as it ought to be, in most respects. */
  request<Name extends FrontendRequestName>(
    name: Name,
    value?: FrontendRequests[Name]['payload'],
  ): DrawnMessage {
    const row = frontendRequests[name] as RequestRow;
    const chosen = value ?? this.#value(name);
    const payload = row.payload === null ? new Uint8Array(0) : this.#encode(row, chosen);
    const fds = this.#fds(row, chosen);
    const flags = 1 | (this.#random.chance(50) ? 0 : NEED_REPLY);
    return { request: row.id, flags, size: payload.byteLength, payload, fds };
  }

  /** Everything that makes a ring run. */
  openRing(index: number): DrawnMessage[] {
    const { rings, accepted } = this.#plan;
    const random = this.#random;
    const ring = rings[index]!;
    ring.size = random.pick([1, 2, 4, 8, 8, 16, 64, 128]);
    const packed = (accepted & VirtioFeature.ringPacked) !== 0n;
    const base = 0x1000 + index * 0x2000;
    ring.descriptor = base;
    ring.driver = base + 16 * ring.size;
    ring.device = packed ? ring.driver + 4 : (ring.driver + 6 + 2 * ring.size + 3) & ~3;
    const messages = [
      this.request('setVringNum', { index, num: ring.size }),
      this.request('setVringBase', { index, num: this.#freshBase }),
      this.request('setVringAddr', this.#address(index)),
      this.request('setVringCall', BigInt(index)),
      this.request('setVringErr', BigInt(index)),
      this.request('setVringKick', BigInt(index)),
      this.request('setVringEnable', { index, num: 1 }),
    ];
    // Now and then in another order, or not whole.
    if (random.chance(4)) messages.splice(random.below(messages.length), 1);
    if (random.chance(4)) messages.push(...messages.splice(random.below(messages.length), 1));
    return messages;
  }

  /** Features, and the guest's memory. */
  open(): DrawnMessage[] {
    const messages = [
      this.request('getFeatures'),
      this.request('getProtocolFeatures'),
      this.request('setProtocolFeatures'),
      this.request('setOwner'),
      this.request('setFeatures', this.#features()),
    ];
    const random = this.#random;
    if (random.chance(4)) messages.push(this.request('setLogBase', { size: 0x4000n, offset: 0n }));
    if (random.chance(4)) {
      messages.push(this.request('getInflightFd'), this.request('setInflightFd'));
    }
    messages.push(this.request('setMemTable', { regions: this.#world.regions.map(describe) }));
    // Behind an IOMMU nothing is reached before it was announced.
    if ((this.#plan.accepted & VirtioFeature.accessPlatform) !== 0n) {
      for (const { address, size } of this.#world.regions) {
        const place = { iova: BigInt(address), size: BigInt(size), userAddress: BigInt(USER + address) };
        messages.push(this.request('iotlbMsg', { ...place, permission: 3, type: 2 }));
      }
    }
    return messages;
  }

  /** Does something to a message that no front-end should. */
  spoil(message: DrawnMessage): void {
    const random = this.#random;
    const aboutMemory = message.fds.some((fd) => this.#world.regions.some((region) => region.fd === fd));
    const sound =
      this.#plan.soundMemory && (aboutMemory || message.request === frontendRequests.remMemReg.id);
    switch (random.below(sound ? 6 : 12)) {
      case 0:
        if (random.chance(6)) message.flags ^= NEED_REPLY;
        break;
      case 1:
        if (random.chance(8)) message.flags = random.pick([0, 2, 3, 5, 0x11, 0xffff_ffff, message.flags | 4]);
        break;
      case 2:
        if (random.chance(4))
          message.request = random.pick([0, 46, 0xffff, 0xffff_ffff, 1 + random.below(45)]);
        break;
      case 3:
        if (random.chance(4)) message.fds = this.#strayFds(message.fds);
        break;
      case 4:
        if (random.chance(6))
          message.size = random.pick([0, message.size + 1, 4096, 4097, 0x8000_0000, 0xffff_ffff]);
        break;
      case 5:
        if (random.chance(8)) this.#resize(message);
        break;
      case 6:
        if (message.payload.byteLength > 0) {
          message.payload[random.below(message.payload.byteLength)] = random.below(256);
        }
        break;
      default:
        this.#spoilField(message);
    }
  }

  // --- values

  #value(name: FrontendRequestName): unknown {
    const random = this.#random;
    const plan = this.#plan;
    const index = random.below(plan.rings.length);
    switch (name) {
      case 'setFeatures':
        // While rings run, only LOG_ALL may come and go.
        if (random.chance(2)) return (plan.accepted ^= plan.offered & VirtioFeature.vhostLogAll);
        return this.#features();
      case 'setProtocolFeatures':
        return this.#protocolFeatures();
      case 'setMemTable': {
        const whole = !random.chance(4);
        const regions = this.#world.regions.filter(() => whole || random.chance(2)).map(describe);
        return { regions: random.chance(20) ? regions.reverse() : regions };
      }
      case 'addMemReg':
      case 'remMemReg':
        return { region: describe(random.pick(this.#world.regions)) };
      case 'setVringNum':
        return { index, num: random.pick([1, 2, 3, 8, 16, 64, 256]) };
      case 'setVringAddr':
        return this.#address(index);
      case 'setVringBase':
        return {
          index,
          num: random.chance(3) ? random.pick([1, 0x8000, 0xffff, 0x8001_8000]) : this.#freshBase,
        };
      case 'getVringBase':
      case 'getVringBaseSkipDrain':
        return { index, num: 0 };
      case 'setVringEnable':
        return { index, num: random.chance(8) ? 0 : 1 };
      case 'vringKick':
      case 'setVringEndian':
        return { index, num: 0 };
      case 'setVringKick':
      case 'setVringCall':
      case 'setVringErr':
        return BigInt(index) | (random.chance(6) ? 0x100n : 0n);
      case 'sendRarp':
        return 0x0000_5634_1200_5452n;
      case 'netSetMtu':
        return BigInt(random.pick([68, 1500, 9000, 65535]));
      case 'getConfig':
        return { offset: 0, flags: 0, payload: new Uint8Array(random.pick([1, 4, 20, 60, 256])) };
      case 'setConfig':
        return {
          offset: random.pick([0, 4, 32]),
          flags: random.below(2),
          payload: random.bytes(1 + random.below(4)),
        };
      case 'setStatus':
        return BigInt(random.chance(6) ? 0 : random.pick([1, 3, 11, 15, 15, 0x40, 0x80]));
      case 'setLogBase':
        return { size: BigInt(random.pick([0x1000, 0x4000])), offset: BigInt(random.pick([0, 0x1000])) };
      case 'getInflightFd':
        return {
          mmapSize: 0n,
          mmapOffset: 0n,
          numQueues: random.pick([4, 4, 4, 1, 5]),
          queueSize: random.pick([128, 128, 8, 256]),
        };
      case 'setInflightFd':
        return {
          mmapSize: BigInt(random.pick([0x1_0000, 0x1_0000, 0x4000, 0x1000])),
          mmapOffset: 0n,
          numQueues: random.pick([4, 4, 4, 1]),
          queueSize: random.pick([128, 128, 8]),
        };
      case 'setDeviceStateFd':
        return { direction: random.below(2), phase: 0 };
      case 'iotlbMsg': {
        const region = random.pick(this.#world.regions);
        return {
          iova: BigInt(region.address),
          size: BigInt(random.pick([region.size, 0x1000, 1])),
          userAddress: BigInt(USER + region.address),
          permission: random.below(4),
          type: random.pick([2, 2, 3]),
        };
      }
      default: {
        const struct = structs.get(name);
        return struct === undefined ? BigInt(random.below(4)) : randomRecord(lookup, struct, {}, random);
      }
    }
  }

  get #freshBase(): number {
    return (this.#plan.accepted & VirtioFeature.ringPacked) !== 0n ? 0x8000_8000 : 0;
  }

  #features(): bigint {
    const { offered } = this.#plan;
    const random = this.#random;
    let word = offered;
    for (let bit = 0n; bit < 64n; bit++) if (random.chance(4)) word &= ~(1n << bit);
    if (!random.chance(6)) word |= offered & VirtioFeature.vhostUserProtocolFeatures;
    if (!random.chance(6)) word |= offered & VirtioFeature.version1;
    if (random.chance(4)) word &= ~VirtioFeature.ringPacked;
    // Translations have to be asked for, which few conversations get right.
    if (!random.chance(6)) word &= ~VirtioFeature.accessPlatform;
    if (!random.chance(3)) word &= ~VirtioFeature.vhostLogAll;
    if (random.chance(60)) word = BigInt.asUintN(64, ~word);
    this.#plan.accepted = word;
    return word;
  }

  #protocolFeatures(): bigint {
    const { offeredProtocol } = this.#plan;
    const random = this.#random;
    let word = offeredProtocol;
    for (let bit = 0n; bit < 24n; bit++) if (random.chance(6)) word &= ~(1n << bit);
    if (!random.chance(8)) word |= offeredProtocol & ProtocolFeature.replyAck;
    if (random.chance(60)) word |= 1n << BigInt(random.below(64));
    this.#plan.acceptedProtocol = word;
    return word;
  }

  #address(index: number): FrontendRequests['setVringAddr']['payload'] {
    const { rings, accepted, acceptedProtocol } = this.#plan;
    const { descriptor, driver, device } = rings[index]!;
    const guest =
      (accepted & VirtioFeature.accessPlatform) !== 0n ||
      (acceptedProtocol & ProtocolFeature.gpaAddresses) !== 0n;
    const base = guest ? 0 : USER;
    return {
      index,
      flags: this.#random.chance(4) ? 1 : 0,
      descriptor: BigInt(base + descriptor),
      used: BigInt(base + device),
      available: BigInt(base + driver),
      log: BigInt(device),
    };
  }

  #encode(row: RequestRow, value: unknown): Uint8Array {
    const codec = row.payload ?? codecs[pascalCase(row.name)]!;
    try {
      return encodeToBytes(codec, value);
    } catch {
      // A value that the codec itself refuses: its bytes are left to chance.
      return this.#random.bytes(
        fields.get(row.name)?.reduce((end, each) => Math.max(end, each.offset + each.size), 0) ?? 8,
      );
    }
  }

  // --- fds

  #fds(row: RequestRow, value: unknown): readonly number[] {
    const { min, max } = expectedFds(row.fds, value);
    const count = min === max ? min : this.#random.chance(6) ? min : max;
    if (row.name === 'setMemTable') {
      const { regions } = value as FrontendRequests['setMemTable']['payload'];
      return regions.map(({ guestAddress }) => this.#fdOf(guestAddress));
    }
    if (row.name === 'addMemReg') {
      const { region } = value as FrontendRequests['addMemReg']['payload'];
      return [this.#fdOf(region.guestAddress)];
    }
    return Array.from({ length: count }, () => this.#fdFor(row.fds.role));
  }

  #fdOf(guestAddress: bigint): number {
    const { regions } = this.#world;
    return (regions.find(({ address }) => BigInt(address) === guestAddress) ?? regions[0]!).fd;
  }

  #fdFor(role: string | null): number {
    const { events, sockets, loot, short, scratch, regions, odd } = this.#world;
    const random = this.#random;
    if (role === 'kick') return events[random.below(2)]!;
    if (role === 'call' || role === 'err' || role === 'log-notify') return events[2 + random.below(4)]!;
    if (role === 'backend-channel' || role === 'gpu-socket' || role === 'device-state')
      return random.pick(sockets);
    if (role !== null && MEMORY_ROLES.has(role)) {
      if (role === 'inflight' && loot.length > 0 && !random.chance(3)) return random.pick(loot);
      return this.#plan.soundMemory ? scratch : random.pick([scratch, short, ...regions.map(({ fd }) => fd)]);
    }
    return random.pick([...odd, events[0]!]);
  }

  /** Too many, too few, or of the wrong kind. */
  #strayFds(fds: readonly number[]): readonly number[] {
    const random = this.#random;
    const { events, sockets, odd, short } = this.#world;
    const any = () => random.pick([events[5]!, sockets[1]!, ...odd, short]);
    const kind = random.below(4);
    if (kind === 0) return fds.slice(1);
    if (kind === 1) return [...fds, any()];
    if (kind === 2) return fds.map(any);
    return random.chance(4) ? Array.from({ length: 9 + random.below(100) }, any) : [any()];
  }

  // --- bytes

  #resize(message: DrawnMessage): void {
    const random = this.#random;
    const length = Math.max(0, message.payload.byteLength + random.pick([-8, -1, 1, 4, 8, 32]));
    const payload = random.bytes(length);
    payload.set(message.payload.subarray(0, length));
    message.payload = payload;
    message.size = length;
  }

  #spoilField(message: DrawnMessage): void {
    const random = this.#random;
    const row = rows.find(({ id }) => id === message.request);
    const { payload } = message;
    const known = row === undefined ? [] : (fields.get(row.name) ?? []);
    const within = known.filter(({ offset, size }) => offset + size <= payload.byteLength);
    if (within.length === 0) return;
    const { offset, size } = random.pick(within);
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    let now = 0n;
    for (let i = size - 1; i >= 0; i--) now = (now << 8n) | BigInt(view.getUint8(offset + i));
    let next = BigInt.asUintN(8 * size, this.#border(now, size));
    for (let i = 0; i < size; i++, next >>= 8n) view.setUint8(offset + i, Number(next & 0xffn));
  }

  /** A value at a border: of its type, of what was there, or of the guest's memory. */
  #border(now: bigint, size: number): bigint {
    const random = this.#random;
    const region: WorldRegion = random.pick(this.#world.regions);
    const [start, length] = [BigInt(region.address), BigInt(region.size)];
    return random.pick([
      0n,
      1n,
      now + 1n,
      now - 1n,
      ~now,
      (1n << BigInt(8 * size)) - 1n,
      1n << BigInt(8 * size - 1),
      (1n << BigInt(8 * size - 1)) - 1n,
      0x1_0000n,
      0x1_0001n,
      256n,
      257n,
      0xffffn,
      start + length,
      BigInt(USER) + start + length,
      BigInt(USER) + start + length - 16n,
      (1n << 64n) - length,
      (1n << 53n) - length,
      BigInt(random.below(0x1_0000)),
    ]);
  }
}

function describe({ address, size, mmapOffset }: WorldRegion) {
  return {
    guestAddress: BigInt(address),
    size: BigInt(size),
    userAddress: BigInt(USER + address),
    mmapOffset: BigInt(mmapOffset),
  };
}
