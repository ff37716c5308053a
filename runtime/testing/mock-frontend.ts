import { VhostError } from '../errors.js';
import type { SharedMemory } from '../memory/shared-memory.js';
import type { Platform, SocketStream } from '../platform/platform.js';
import { FrontendPostcopy } from '../vhost-user/frontend/postcopy.js';
import { negotiate } from '../vhost-user/frontend/negotiation.js';
import { RequestChannel, type RequestOptions } from '../vhost-user/frontend/request-channel.js';
import type { VirtqueueAreas } from '../virtqueue/device-virtqueue.js';
import type { FrontendRequestName, FrontendRequests } from '../../generated/vhost-user/frontend-requests.js';
import { VringFdFlag } from '../../generated/vhost-user/payloads.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { RawSender } from './raw-sender.js';

export type { RequestOptions };

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
  readonly connection: RawSender;
  readonly #channel: RequestChannel;
  #negotiated: Negotiated | null = null;

  /** Takes a connected stream over. */
  constructor(platform: Platform, stream: SocketStream) {
    this.platform = platform;
    this.#channel = new RequestChannel(platform, stream, { checked: false });
    this.connection = new RawSender(stream);
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
    return this.#channel.ended;
  }

  /** Sends one request, legal now or not, and waits for what answers it; see `RequestChannel.request`. */
  request<Name extends FrontendRequestName>(
    name: Name,
    payload: FrontendRequests[Name]['payload'],
    options: RequestOptions = {},
  ): Promise<FrontendRequests[Name]['reply']> {
    return this.#channel.request(name, payload, options);
  }

  /** Offers and accepts features in the order of QEMU, up to and with SET_FEATURES. There is no back-end channel. */
  async negotiate(options: NegotiationOptions): Promise<Negotiated> {
    const early = options.earlyCallFds ?? [];
    const { signal } = options;
    const result = await negotiate(this.#channel, {
      filter: { supported: options.features, protocol: options.protocol ?? SUPPORTED },
      order: 'qemu',
      openBackendChannel: () => Promise.resolve(),
      earlyCalls: async (queueCount) => {
        const pass = signal === undefined ? {} : { signal };
        for (const [index, fd] of early.slice(0, queueCount ?? 1).entries()) {
          await this.#vringFd('setVringCall', index, fd, pass);
        }
      },
      signal,
    });
    const { offered, features, offeredProtocol, protocol } = result;
    this.#negotiated = { offered, features, offeredProtocol, protocol, queueCount: result.queueCount ?? 1 };
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
  async shareMemory(
    ram: SharedMemory,
    options: { signal?: AbortSignal; table?: boolean } = {},
  ): Promise<void> {
    const pass = options.signal === undefined ? {} : { signal: options.signal };
    const slots =
      this.#channel.features.hasProtocol(ProtocolFeature.configureMemSlots) && options.table !== true;
    if (slots) {
      for (const { region, fd } of ram.regions) {
        await this.request('addMemReg', { region: region.description }, { ...pass, fds: [fd] });
      }
    } else {
      const regions = ram.regions.map(({ region }) => region.description);
      await this.request('setMemTable', { regions }, { ...pass, fds: ram.regions.map(({ fd }) => fd) });
    }
  }

  /**
   * Advises the back-end of postcopy; what comes back does the rest of it (see FrontendPostcopy), with `share` in place of
   * `shareMemory`. PAGEFAULT has to be negotiated, so `negotiate` needs a `protocol` with it and without CONFIGURE_MEM_SLOTS.
   */
  postcopy(signal?: AbortSignal): Promise<FrontendPostcopy> {
    return FrontendPostcopy.advise(this.platform, this.#channel, signal);
  }

  /** Starts a ring: NUM, BASE, ADDR, KICK, CALL, ERR, and ENABLE where protocol features are negotiated. */
  async startVring(ram: SharedMemory, vring: VringSetup, signal?: AbortSignal): Promise<void> {
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
    this.#channel.close();
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
}
