import { GuestMemoryError, VhostError } from '../../errors.js';
import type { SharedRegion } from '../../memory/shared-memory.js';
import type { SocketStream } from '../../platform/platform.js';
import { MAX_MEMORY_REGIONS } from '../../../generated/vhost-user/payloads.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { DeviceStatus } from '../../../generated/virtio/status.js';
import {
  announced,
  announceFd,
  announceMemory,
  announceRegion,
  announceTable,
  announceVring,
  bounded,
} from './announce.js';
import { Notice } from '../notice.js';
import { DeviceLink } from './device-link.js';
import {
  type BackendSource,
  ConnectingSource,
  ListeningSource,
  type Retry,
  SingleSource,
} from './connections.js';
import type { ConnectOptions, FrontendOptions } from './frontend-options.js';
import { InflightMemory } from './inflight-memory.js';
import type { RequestChannel } from './request-channel.js';
import { FrontendVring, type VringSetup } from './vring.js';

export type { ConnectOptions, FrontendEvents, FrontendOptions } from './frontend-options.js';

/**
 * A front-end and its conversation with a back-end: memory, negotiation, rings. Everything the table of requests has is a
 * typed `request`; what takes more than one message, or has to be remembered for a back-end that is restarted, is a method.
 *
 * - `Frontend.connect` connects to a back-end that listens, with as many attempts as the caller allows.
 * - `Frontend.listen` waits for a back-end that connects. When it goes and another comes (or it comes back), the whole
 *   session is replayed: owner, features, memory, rings, and a kick for each. `connect` does the same with `reconnect`.
 *
 * @example
 * ```ts
 * using memory = new SharedMemory(platform, { size: 1 << 24 });
 * using frontend = await Frontend.connect({ platform, memory, path, features: { supported: VirtioFeature.version1 } });
 * const space = await frontend.readConfig(60);
 * ```
 */
export class Frontend extends DeviceLink {
  protected readonly self = this;
  readonly #vrings = new Map<number, FrontendVring>();
  readonly #inflight = new InflightMemory(this.options.platform);
  readonly #inbandKicks = new Map<number, Notice>();
  #driverOk = false;
  #replaying = false;

  /** Connects to a listening back-end and negotiates. `reconnect` connects again, with `retry`, when it is gone. */
  static connect(
    options: ConnectOptions & { readonly retry?: Retry; readonly reconnect?: boolean },
  ): Promise<Frontend> {
    const { platform, path, reconnect = false } = options;
    const retry = options.retry ?? { attempts: 1, delayMilliseconds: 0 };
    return Frontend.#open(options, new ConnectingSource(platform, path, retry, reconnect), options.signal);
  }

  /** Listens, and resolves when the first back-end is ready. */
  static async listen(options: ConnectOptions): Promise<Frontend> {
    return Frontend.#open(options, new ListeningSource(options.platform, options.path), options.signal);
  }

  /** Takes a connected stream over. */
  static attach(
    options: FrontendOptions & { readonly stream: SocketStream; readonly signal?: AbortSignal },
  ): Promise<Frontend> {
    return Frontend.#open(options, new SingleSource(options.stream), options.signal);
  }

  static async #open(
    options: FrontendOptions,
    source: BackendSource,
    signal: AbortSignal | undefined,
  ): Promise<Frontend> {
    const frontend = new Frontend(options, source);
    await frontend.open(signal);
    return frontend;
  }

  /** Rings that run. */
  get startedVrings(): FrontendVring[] {
    return [...this.#vrings.values()].filter((vring) => vring.started);
  }

  /** A ring that was mentioned. */
  vring(index: number): FrontendVring | undefined {
    return this.#vrings.get(index);
  }

  // --- rings

  /** Sets rings up that do not run and starts them, then enables those that are to be; each is kicked once. */
  async startVrings(setups: readonly VringSetup[], signal?: AbortSignal): Promise<void> {
    this.#checkSettled();
    const vrings = setups.map(({ index }) => {
      this.#checkServed(index);
      return this.#vring(index);
    });
    // A ring that moves is not told of another size or place.
    const running = vrings.find(({ started }) => started);
    if (running !== undefined) throw new VhostError('ERR_VHOST_STATE', `ring ${running.index} runs already`);
    for (const [i, setup] of setups.entries()) vrings[i]!.prepare(setup);
    if (![...this.#vrings.values()].some(({ started }) => started)) await this.#trackInflight(vrings, signal);
    await this.#startAll(vrings, signal);
  }

  /**
   * Disables rings, stops them and resolves with each one's base, as GET_VRING_BASE says it or has said it: a ring that is stopped
   * already is not asked for, since another back-end may know nothing of it.
   */
  async stopVrings(indexes: readonly number[], signal?: AbortSignal): Promise<number[]> {
    this.#checkSettled();
    const stopped = (index: number): boolean => this.#vrings.get(index)?.stopped === true;
    for (const index of indexes) if (!stopped(index)) await this.#sendEnable(index, false, signal);
    const bases: number[] = [];
    for (const index of indexes) {
      if (stopped(index)) {
        bases.push(this.#vring(index).base);
        continue;
      }
      const state = await this.request('getVringBase', { index, num: 0 }, bounded(signal));
      if (state.index !== index) {
        const error = new VhostError('ERR_VHOST_REPLY', `asked for ring ${index}, got ring ${state.index}`, {
          request: 'VHOST_USER_GET_VRING_BASE',
        });
        this.channel.close(error);
        throw error;
      }
      const vring = this.#vring(index);
      vring.started = false;
      vring.stopped = true;
      this.loans.notifiers?.drop(index);
      vring.base = state.num;
      bases.push(state.num);
      // A stopped back-end sends nothing, so the last call may not have come.
      if (vring.notifications.call === 'inband') vring.called();
    }
    return bases;
  }

  /** Enables or disables a ring, running or not. Without protocol features every ring is enabled always. */
  async enableVring(index: number, enabled: boolean, signal?: AbortSignal): Promise<void> {
    this.#vring(index).enabled = enabled;
    await this.#sendEnable(index, enabled, signal);
  }

  /** Enables the first `count` pairs of rings (2k receives, 2k + 1 transmits) and disables the others that run. */
  async enableQueuePairs(count: number, signal?: AbortSignal): Promise<void> {
    const started = this.startedVrings;
    const pairs = Math.floor(started.length / 2);
    if (!Number.isInteger(count) || count < 1 || count > pairs) {
      throw new VhostError('ERR_VHOST_STATE', `cannot enable ${count} queue pairs, ${pairs} run`);
    }
    for (const { index } of started) await this.enableVring(index, index < 2 * count, signal);
  }

  /** Kicks a ring, by its eventfd or in-band. Without either the back-end polls, and nothing happens. */
  kick(index: number): void {
    const vring = this.#vrings.get(index);
    if (vring === undefined) return;
    if (vring.kickFd >= 0) this.platform.signalEventFd(vring.kickFd);
    else if (vring.notifications.kick === 'inband') this.#inbandKick(index).tell();
  }

  // --- memory

  /**
   * Adds a region while rings run: they are paused, the region is told, they go on. Resolves with it. When the back-end does
   * not take it the region is gone again.
   */
  async addMemory(size: number, guestAddress?: bigint, signal?: AbortSignal): Promise<SharedRegion> {
    const shared =
      guestAddress === undefined ? this.memory.addRegion(size) : this.memory.addRegion(size, guestAddress);
    try {
      this.#checkSlots();
      this.iommu.share(this, this.memory);
      await this.#paused(signal, (channel) =>
        this.#slots ? announceRegion(channel, shared, signal) : announceTable(channel, this.memory, signal),
      );
    } catch (error) {
      // Whoever hung up may have given the memory back as well.
      if (this.memory.regions.includes(shared)) this.memory.removeRegion(shared);
      throw error;
    }
    return shared;
  }

  /** Takes a region away that nothing is allocated in, in the same manner. */
  async removeMemory(shared: SharedRegion, signal?: AbortSignal): Promise<void> {
    this.memory.removeRegion(shared);
    this.iommu.share(this, this.memory);
    await this.#paused(signal, (channel) =>
      this.#slots
        ? channel.request('remMemReg', { region: announced(channel, shared) }, bounded(signal))
        : announceTable(channel, this.memory, signal),
    );
  }

  // --- device

  /** RESET_DEVICE: every ring is stopped and disabled; memory and protocol features stay. */
  async resetDevice(signal?: AbortSignal): Promise<void> {
    await this.channel.request('resetDevice', undefined, bounded(signal));
    for (const vring of this.#vrings.values()) vring.started = vring.stopped = vring.enabled = false;
    this.#driverOk = false;
    await this.takeLoansBack(signal);
  }

  // --- what is told

  protected async earlyCalls(
    channel: RequestChannel,
    queueCount: number | null,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const count = Math.min(this.options.queues ?? 1, queueCount ?? Infinity);
    const inband = channel.features.hasProtocol(ProtocolFeature.inbandNotifications);
    for (let index = 0; index < count; index++) {
      const vring = this.#vring(index, inband);
      await announceFd(channel, 'setVringCall', index, vring.callFd, vring.notifications.call, signal);
    }
  }

  protected async announceMemory(channel: RequestChannel, signal: AbortSignal | undefined): Promise<void> {
    this.#checkSlots();
    const slots = channel.features.hasProtocol(ProtocolFeature.configureMemSlots);
    this.iommu.share(this, this.memory);
    await announceMemory(channel, this.memory, slots && this.options.memoryTable !== true, signal);
  }

  protected async replayRings(signal: AbortSignal | undefined): Promise<void> {
    this.#driverOk = false;
    const started = this.startedVrings;
    for (const { index } of started) this.#checkServed(index);
    this.#replaying = true;
    try {
      await this.#replay(started, signal);
    } finally {
      this.#replaying = false;
    }
  }

  async #replay(started: readonly FrontendVring[], signal: AbortSignal | undefined): Promise<void> {
    // With the region of the back-end before, this one goes on where that one was cut off. Otherwise everything that was
    // under way is issued again, on fresh rings.
    const resumes =
      this.#inflight.held &&
      this.#has(ProtocolFeature.inflightShmfd) &&
      started.every(({ setup }) => setup?.restore === undefined || setup.resume !== undefined);
    if (!resumes) this.#inflight[Symbol.dispose]();
    for (const vring of started) {
      const ready = resumes ? vring.setup?.resume : vring.setup?.restore;
      vring.base = ready?.() ?? vring.base;
    }
    if (resumes) await this.#inflight.give(this.channel, signal);
    else await this.#trackInflight(started, signal);
    await this.#startAll(started, signal);
  }

  protected released(): void {
    for (const vring of this.#vrings.values()) vring.close();
    this.#inflight[Symbol.dispose]();
  }

  /**
   * Before the first rings start: has the back-end keep record of what is in flight, where it can. The region is asked for
   * once; again only when it is too small.
   */
  async #trackInflight(vrings: readonly FrontendVring[], signal: AbortSignal | undefined): Promise<void> {
    if (vrings.length === 0 || !this.#has(ProtocolFeature.inflightShmfd)) return;
    const { queueCount } = this.negotiated;
    const most = queueCount === null ? Infinity : queueCount * (this.options.ringsPerQueue ?? 1);
    const queues = Math.max(
      Math.min(this.options.queues ?? 1, most),
      ...vrings.map(({ index }) => index + 1),
    );
    const size = Math.max(...vrings.map(({ setup }) => setup!.size));
    if (!this.#inflight.covers(queues, size)) await this.#inflight.obtain(this.channel, queues, size, signal);
  }

  async #startAll(vrings: readonly FrontendVring[], signal: AbortSignal | undefined): Promise<void> {
    const channel = this.channel;
    const order = this.options.order ?? 'virtio-user';
    for (const vring of vrings) {
      const { started, stopped } = vring;
      // It may run from the kick on: should the back-end go before it has answered, the next one takes it over as it is.
      vring.started = true;
      vring.stopped = false;
      try {
        await announceVring(channel, this.memory, this.iommu, vring, order, signal);
      } catch (error) {
        if (channel.endReason === null) Object.assign(vring, { started, stopped });
        throw error;
      }
    }
    for (const { index, enabled } of vrings) if (enabled) await this.#sendEnable(index, true, signal);
    if (!this.#driverOk && this.#has(ProtocolFeature.status)) {
      const { acknowledge, driver, featuresOk, driverOk } = DeviceStatus;
      const status = BigInt(acknowledge | driver | featuresOk | driverOk);
      await this.request('setStatus', status, bounded(signal));
      this.#driverOk = true;
    }
    for (const { index } of vrings) this.kick(index);
  }

  async #sendEnable(index: number, enabled: boolean, signal: AbortSignal | undefined): Promise<void> {
    if ((this.negotiated.features & VirtioFeature.vhostUserProtocolFeatures) === 0n) return;
    await this.request('setVringEnable', { index, num: enabled ? 1 : 0 }, bounded(signal));
  }

  /** Disables what runs, does it, and enables again, failed or not: the back-end still has the memory from before. */
  async #paused(
    signal: AbortSignal | undefined,
    change: (channel: RequestChannel) => Promise<void>,
  ): Promise<void> {
    const channel = this.channel;
    const running = this.startedVrings.filter((vring) => vring.enabled);
    try {
      for (const { index } of running) await this.#sendEnable(index, false, signal);
      await change(channel);
    } finally {
      if (channel.endReason === null) {
        for (const { index } of running) await this.#sendEnable(index, true, signal);
      }
    }
  }

  /** Rings that are started or stopped while they are told to a new back-end would be neither. */
  #checkSettled(): void {
    if (!this.#replaying) return;
    throw new VhostError('ERR_VHOST_STATE', 'a new back-end is being told of the rings that run');
  }

  #checkServed(index: number): void {
    const { queueCount } = this.negotiated;
    const ringsPerQueue = this.options.ringsPerQueue ?? 1;
    if (queueCount === null || index < queueCount * ringsPerQueue) return;
    const what = ringsPerQueue === 1 ? 'queues' : `queues of ${ringsPerQueue} rings`;
    throw new VhostError('ERR_VHOST_STATE', `ring ${index}: the back-end serves ${queueCount} ${what}`);
  }

  #checkSlots(): void {
    const { length } = this.memory.regions;
    const memorySlots = this.#slots ? this.negotiated.memorySlots : MAX_MEMORY_REGIONS;
    if (length <= memorySlots) return;
    throw new GuestMemoryError(
      'ERR_GUEST_MEMORY_LIMIT',
      `memory has ${length} regions, the back-end takes ${memorySlots}`,
    );
  }

  #vring(index: number, inband = this.#inband): FrontendVring {
    let vring = this.#vrings.get(index);
    if (vring !== undefined) return vring;
    if (!Number.isInteger(index) || index < 0 || index > 0xff) {
      throw new VhostError('ERR_VHOST_STATE', `rings have indexes 0 to 255, not ${index}`);
    }
    const { withoutKick = false, withoutCall = false } = this.options;
    const means = inband ? 'inband' : 'eventfd';
    vring = new FrontendVring(
      this.platform,
      index,
      { kick: withoutKick ? 'none' : means, call: withoutCall ? 'none' : means, err: means },
      (error) => this.emit('trouble', error),
    );
    this.#vrings.set(index, vring);
    return vring;
  }

  /** Kicks while one is under way are one more after it: a back-end that does not read gets no heap of them. */
  #inbandKick(index: number): Notice {
    let kick = this.#inbandKicks.get(index);
    if (kick === undefined) {
      kick = new Notice(
        () => (this.connected ? this.request('vringKick', { index, num: 0 }) : null),
        // What waits when a back-end goes is kicked again at the next one.
        (error) => {
          if (this.connected) this.emit('trouble', error);
          return false;
        },
      );
      this.#inbandKicks.set(index, kick);
    }
    return kick;
  }

  #has(mask: bigint): boolean {
    return (this.negotiated.protocol & mask) === mask;
  }

  get #inband(): boolean {
    return this.#has(ProtocolFeature.inbandNotifications);
  }

  get #slots(): boolean {
    return this.#has(ProtocolFeature.configureMemSlots) && this.options.memoryTable !== true;
  }
}
