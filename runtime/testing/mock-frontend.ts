import { VhostError } from '../errors.js';
import type { Platform, SocketStream } from '../platform/platform.js';
import { decodeExactly, encodeToBytes, type ReplyRule, u64 } from '../wire/index.js';
import {
  type FrontendRequestName,
  type FrontendRequests,
  frontendRequests,
} from '../../generated/vhost-user/frontend-requests.js';
import { HeaderFlag, PROTOCOL_VERSION } from '../../generated/vhost-user/header.js';
import { VringFdFlag } from '../../generated/vhost-user/payloads.js';
import { closeProtocolFeatures, ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import type { VirtqueueAreas } from '../virtqueue/device-virtqueue.js';
import { FrontendConnection, type RawMessage } from './frontend-connection.js';
import type { GuestRam } from './guest-ram.js';

export interface RequestOptions {
  /** Fds to send along; they stay the caller's. */
  readonly fds?: readonly number[];
  /** Ask for an acknowledgement. Without it: whenever REPLY_ACK is negotiated. */
  readonly needReply?: boolean;
  /** Receives the reply's fds, which are then the caller's. Without it a reply with fds is an error. */
  readonly replyFds?: number[];
  readonly signal?: AbortSignal;
}

export interface NegotiationOptions {
  /** Virtio bits that the driver understands. The accepted ones are these of what is offered. */
  readonly features: bigint;
  /** Protocol bits that the front-end understands; all that the mock can do when absent. */
  readonly protocol?: bigint;
  /** Call fds, one a ring, that are sent right after the queue count, before SET_FEATURES, as QEMU does. */
  readonly earlyCallFds?: readonly number[];
  readonly signal?: AbortSignal;
}

/** What the two sides agreed on. */
export interface Negotiated {
  readonly offered: bigint;
  readonly features: bigint;
  readonly offeredProtocol: bigint;
  readonly protocol: bigint;
  /** How many queues the back-end serves; 1 when it does not say. */
  readonly queueCount: number;
}

/** A ring as the back-end is told of it. */
export interface VringSetup {
  readonly index: number;
  readonly size: number;
  /** As encoded for SET_VRING_BASE. */
  readonly base: number;
  readonly areas: VirtqueueAreas;
  /** -1: none, the back-end polls. */
  readonly kickFd: number;
  /** -1: none, the driver polls. */
  readonly callFd: number;
  readonly errFd?: number;
}

/** Protocol features that the mock speaks. */
const SUPPORTED =
  ProtocolFeature.mq |
  ProtocolFeature.replyAck |
  ProtocolFeature.config |
  ProtocolFeature.backendReq |
  ProtocolFeature.resetDevice |
  ProtocolFeature.configureMemSlots |
  ProtocolFeature.status;

const REPLY_FLAGS = PROTOCOL_VERSION | HeaderFlag.reply;

/**
 * A front-end for tests: it speaks to a back-end over a socket of a platform, request by request, typed by the generated
 * request table. The steps that every front-end takes are methods (`negotiate`, `shareMemory`, `startVring`, `stopVring`)
 * and go in the order in which QEMU takes them; anything else is a `request`, and anything malformed goes through
 * `connection`.
 *
 * @example
 * ```ts
 * using frontend = await MockFrontend.connect(platform, '/run/vm/disk.sock', { signal: AbortSignal.timeout(5000) });
 * const { features } = await frontend.negotiate({ features: VirtioFeature.version1 | VirtioFeature.eventIdx });
 * const config = await frontend.request('getConfig', { offset: 0, flags: 0, payload: new Uint8Array(60) });
 * ```
 */
export class MockFrontend implements Disposable {
  readonly platform: Platform;
  /** The bytes below: for messages that no front-end should send. */
  readonly connection: FrontendConnection;
  #negotiated: Negotiated | null = null;
  #protocol = 0n;

  /** Takes a connected stream over. */
  constructor(platform: Platform, stream: SocketStream) {
    this.platform = platform;
    this.connection = new FrontendConnection(platform, stream);
  }

  /** Connects to a listening back-end. Rejects with PlatformError or the signal's reason. */
  static async connect(
    platform: Platform,
    path: string,
    options: { signal?: AbortSignal } = {},
  ): Promise<MockFrontend> {
    return new MockFrontend(platform, await platform.connect(path, options));
  }

  /** What `negotiate` agreed on. Throws before it. */
  get negotiated(): Negotiated {
    if (this.#negotiated !== null) return this.#negotiated;
    throw new VhostError('ERR_VHOST_STATE', 'nothing is negotiated yet: call negotiate() first');
  }

  /** Resolves with the reason when the connection has ended. */
  get ended(): Promise<VhostError> {
    return this.connection.ended;
  }

  /**
   * Sends one request and waits for its reply, or for its acknowledgement where one is asked for. Rejects with VhostError:
   * ERR_VHOST_REFUSED when the back-end refused it, ERR_VHOST_REPLY when the reply is not what the table says,
   * ERR_VHOST_DISCONNECTED when the back-end hung up.
   */
  async request<Name extends FrontendRequestName>(
    name: Name,
    payload: FrontendRequests[Name]['payload'],
    options: RequestOptions = {},
  ): Promise<FrontendRequests[Name]['reply']> {
    const row = frontendRequests[name];
    const { specName: request } = row;
    const bytes = row.payload === null ? new Uint8Array(0) : encodeToBytes(row.payload, payload);
    const rule = this.#replyRule(row.reply as ReplyRule);
    const acknowledges = (this.#protocol & ProtocolFeature.replyAck) !== 0n;
    const needReply = options.needReply ?? (acknowledges && rule.kind === 'ack');
    const flags = PROTOCOL_VERSION | (needReply ? HeaderFlag.needReply : 0);
    const answered = rule.kind === 'payload' || (needReply && acknowledges);
    const reply = answered ? this.connection.receive(options.signal) : null;
    // Sending fails when the connection ends, and then the wait for the reply fails as well.
    reply?.catch(() => undefined);
    await this.connection.send(row.id, flags, bytes, options.fds ?? []);
    if (reply === null) return undefined as FrontendRequests[Name]['reply'];
    let message: RawMessage;
    try {
      message = await reply;
    } catch (cause) {
      if (!(cause instanceof VhostError)) throw cause;
      throw new VhostError(cause.code, `no reply: ${cause.message}`, { request, cause });
    }
    return this.#decodeReply(row.id, request, rule, message, options) as FrontendRequests[Name]['reply'];
  }

  /** Offers and accepts features as QEMU does: GET_FEATURES, protocol features, queue count, SET_OWNER, SET_VRING_CALL, SET_FEATURES. */
  async negotiate(options: NegotiationOptions): Promise<Negotiated> {
    const { signal } = options;
    const pass = signal === undefined ? {} : { signal };
    const offered = await this.request('getFeatures', undefined, pass);
    const wanted = options.features | VirtioFeature.vhostUserProtocolFeatures;
    const features = offered & wanted;
    let offeredProtocol = 0n;
    let queueCount = 1;
    if ((features & VirtioFeature.vhostUserProtocolFeatures) !== 0n) {
      offeredProtocol = await this.request('getProtocolFeatures', undefined, pass);
      this.#protocol = closeProtocolFeatures(offeredProtocol & (options.protocol ?? SUPPORTED));
      await this.request('setProtocolFeatures', this.#protocol, { ...pass, needReply: false });
      if ((this.#protocol & ProtocolFeature.mq) !== 0n) {
        queueCount = Number(await this.request('getQueueNum', undefined, pass));
      }
    }
    await this.request('setOwner', undefined, pass);
    const early = (options.earlyCallFds ?? []).slice(0, queueCount);
    for (const [index, fd] of early.entries()) await this.#vringFd('setVringCall', index, fd, pass);
    await this.request('setFeatures', features, pass);
    this.#negotiated = { offered, features, offeredProtocol, protocol: this.#protocol, queueCount };
    return this.#negotiated;
  }

  /** Reads `length` bytes of the configuration space. */
  async readConfig(length: number, signal?: AbortSignal): Promise<Uint8Array> {
    const ask = { offset: 0, flags: 0 as const, payload: new Uint8Array(length) };
    const { payload } = await this.request('getConfig', ask, signal === undefined ? {} : { signal });
    if (payload.byteLength !== length) {
      throw new VhostError(
        'ERR_VHOST_REPLY',
        `asked for ${length} bytes of configuration space, got ${payload.byteLength}`,
        { request: 'VHOST_USER_GET_CONFIG' },
      );
    }
    return payload;
  }

  /** Shares a guest's memory: as a table, or region by region where CONFIGURE_MEM_SLOTS is negotiated. */
  async shareMemory(ram: GuestRam, options: { signal?: AbortSignal; table?: boolean } = {}): Promise<void> {
    const regions = ram.memory.regions.map((region) => region.description);
    const pass = options.signal === undefined ? {} : { signal: options.signal };
    const slots = (this.#protocol & ProtocolFeature.configureMemSlots) !== 0n && options.table !== true;
    if (slots) {
      for (const region of regions) await this.request('addMemReg', { region }, { ...pass, fds: [ram.fd] });
    } else {
      await this.request('setMemTable', { regions }, { ...pass, fds: regions.map(() => ram.fd) });
    }
  }

  /** Starts a ring: NUM, BASE, ADDR, KICK, CALL, ERR, and ENABLE where protocol features are negotiated. */
  async startVring(ram: GuestRam, vring: VringSetup, signal?: AbortSignal): Promise<void> {
    const pass = signal === undefined ? {} : { signal };
    const { index, areas } = vring;
    await this.request('setVringNum', { index, num: vring.size }, pass);
    await this.request('setVringBase', { index, num: vring.base }, pass);
    await this.request(
      'setVringAddr',
      {
        index,
        flags: 0,
        descriptor: ram.userAddress(areas.descriptor),
        used: ram.userAddress(areas.device),
        available: ram.userAddress(areas.driver),
        log: 0n,
      },
      pass,
    );
    await this.#vringFd('setVringKick', index, vring.kickFd, pass);
    await this.#vringFd('setVringCall', index, vring.callFd, pass);
    if (vring.errFd !== undefined) await this.#vringFd('setVringErr', index, vring.errFd, pass);
    await this.enableVring(index, true, signal);
  }

  /** Enables or disables a ring; without protocol features every ring is enabled always and nothing is sent. */
  async enableVring(index: number, enabled: boolean, signal?: AbortSignal): Promise<void> {
    if ((this.negotiated.features & VirtioFeature.vhostUserProtocolFeatures) === 0n) return;
    const pass = signal === undefined ? {} : { signal };
    await this.request('setVringEnable', { index, num: enabled ? 1 : 0 }, pass);
  }

  /** Stops a ring; resolves with its base as GET_VRING_BASE says it. */
  async stopVring(index: number, signal?: AbortSignal): Promise<number> {
    const pass = signal === undefined ? {} : { signal };
    return (await this.request('getVringBase', { index, num: 0 }, pass)).num;
  }

  /** Hangs up. */
  close(): void {
    this.connection.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #vringFd(
    name: 'setVringKick' | 'setVringCall' | 'setVringErr',
    index: number,
    fd: number,
    pass: { signal?: AbortSignal },
  ): Promise<void> {
    if (fd < 0) return this.request(name, BigInt(index) | VringFdFlag.noFd, pass);
    return this.request(name, BigInt(index), { ...pass, fds: [fd] });
  }

  /** The rule that holds under what is negotiated. */
  #replyRule(rule: ReplyRule): ReplyRule {
    const { when } = rule;
    if (when === undefined || when.state !== null) return rule;
    return (this.#protocol & when.protocol) === when.protocol ? when.then : rule;
  }

  #decodeReply(
    id: number,
    request: string,
    rule: ReplyRule,
    message: RawMessage,
    options: RequestOptions,
  ): unknown {
    const fds = message.fds.splice(0);
    try {
      if (message.request !== id || message.flags !== REPLY_FLAGS) {
        throw new VhostError(
          'ERR_VHOST_REPLY',
          `expected a reply to ${id} with flags 0x${REPLY_FLAGS.toString(16)}, ` +
            `got one to ${message.request} with flags 0x${message.flags.toString(16)}`,
          { request },
        );
      }
      const allowed = rule.kind === 'payload' ? rule.fds : 0;
      if (fds.length > (options.replyFds === undefined ? 0 : allowed)) {
        throw new VhostError('ERR_VHOST_REPLY', `${fds.length} fds came with the reply`, { request });
      }
      const value = this.#decodePayload(request, rule, message.payload);
      options.replyFds?.push(...fds.splice(0));
      return value;
    } finally {
      for (const fd of fds) this.platform.closeFd(fd);
    }
  }

  #decodePayload(request: string, rule: ReplyRule, payload: Uint8Array): unknown {
    try {
      if (rule.kind === 'payload') {
        if (payload.byteLength === 0 && rule.empty === 'success') return undefined;
        if (payload.byteLength === 0 && rule.empty === 'error') {
          throw new VhostError('ERR_VHOST_REFUSED', 'the back-end answered with an empty payload', {
            request,
          });
        }
        if (rule.codec !== null) return decodeExactly(rule.codec, payload);
        if (payload.byteLength === 0) return undefined;
        throw new VhostError('ERR_VHOST_REPLY', `${payload.byteLength} payload bytes, none expected`, {
          request,
        });
      }
      const status = decodeExactly(u64, payload);
      if (status === 0n) return undefined;
      throw new VhostError('ERR_VHOST_REFUSED', `the back-end answered ${status}`, { request });
    } catch (cause) {
      if (cause instanceof VhostError) throw cause;
      throw new VhostError('ERR_VHOST_REPLY', 'the reply does not decode', { request, cause });
    }
  }
}
