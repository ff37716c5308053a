import { DeviceError, VhostError, type VhostUserError, type VirtqueueError } from '../../errors.js';
import type { QueueScheduler } from '../../device/queue-scheduler.js';
import type { DeviceHost, VirtioDevice } from '../../device/virtio-device.js';
import type { Platform, SocketStream } from '../../platform/platform.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { DeviceStatus } from '../../../generated/virtio/status.js';
import { MemorySlots } from '../memory-slots.js';
import { MessageStream } from '../message-stream.js';
import { SessionIommu } from '../iommu.js';
import { NegotiatedFeatures } from '../negotiated-features.js';
import { Vring } from '../vring.js';
import { DeviceStateTransfers } from './device-state-transfer.js';
import { DirtyLogging } from './dirty-logging.js';
import { frontendServices } from './frontend-services.js';
import { handlerOf } from './handlers/index.js';
import { InflightRegions, type InflightShape } from './inflight-regions.js';
import type { Leftovers } from './leftovers.js';
import { offeredFeatures, offeredProtocolFeatures } from './offered-features.js';
import { OutgoingRequests } from './outgoing-requests.js';
import { Postcopy } from './postcopy.js';
import { RequestDispatcher } from './request-dispatcher.js';
import type { SessionLimits } from './session-limits.js';

export type Log = DeviceHost['log'];

export interface SessionOptions {
  readonly platform: Platform;
  readonly device: VirtioDevice;
  readonly stream: SocketStream;
  readonly loop: QueueScheduler;
  readonly log: Log;
  readonly limits: Required<SessionLimits>;
  /** What sessions before this one have left with the device. */
  readonly leftovers: Leftovers;
  /** Virtio bits that are not offered although device and library could. */
  readonly withoutFeatures: bigint;
  /** Protocol bits that are offered although they are not by default. */
  readonly withProtocolFeatures: bigint;
}

/** Looks for lost memory are this many turns apart when there are many regions to look at. */
const LOOK_EVERY_TURNS = 32;
/** So few regions are looked at after every turn. */
const FEW_REGIONS = 8;

/**
 * One connection of a front-end: what was negotiated, the memory, the rings, and the way back to the front-end. The
 * handlers of the requests act on it. It ends when the front-end hangs up, breaks a rule that cannot be answered, loses
 * its memory, or when `end` is called; then everything that came over the connection is closed.
 */
export class BackendSession implements Disposable {
  readonly device: VirtioDevice;
  readonly platform: Platform;
  readonly features: NegotiatedFeatures;
  readonly memory: MemorySlots;
  readonly iommu: SessionIommu;
  readonly inflight: InflightRegions;
  readonly postcopy: Postcopy;
  readonly log: Log;
  /** Rings that the front-end may use. */
  readonly queueCount: number;
  /** What the back-end asks of the front-end. */
  readonly outgoing: OutgoingRequests;
  readonly dirtyLogging: DirtyLogging;
  readonly deviceState: DeviceStateTransfers;
  /** Resolves when the session has ended: null when the front-end left in good order or `end` was called without a reason. */
  readonly closed: Promise<VhostUserError | null>;
  readonly #resolveClosed: (reason: VhostUserError | null) => void;
  readonly #options: SessionOptions;
  readonly #messages: MessageStream;
  readonly #vrings = new Map<number, Vring>();
  #heard = false;
  #enabledFromStart = false;
  #status = 0;
  #turns = 0;
  #ended = false;

  constructor(options: SessionOptions) {
    const { device, platform, limits } = options;
    this.#options = options;
    this.device = device;
    this.platform = platform;
    this.log = options.log;
    this.queueCount = Math.min(device.queueCount, limits.queues);
    this.features = new NegotiatedFeatures(
      offeredFeatures(device, options.withoutFeatures),
      offeredProtocolFeatures(device, options.withProtocolFeatures),
    );
    this.memory = new MemorySlots(platform, limits.memorySlots);
    this.outgoing = new OutgoingRequests({
      platform,
      features: this.features,
      limits,
      suspended: () => this.suspended,
      runs: (ring) => isRunning(this.#vrings.get(ring)),
      log: (level, message, fields) => void (this.#ended || this.log(level, message, fields)),
    });
    this.iommu = new SessionIommu({
      windows: platform.windows,
      features: this.features,
      rings: () => this.#vrings.values(),
      send: (message) => this.outgoing.channel?.request('backendIotlbMsg', message) ?? null,
      log: (level, message, fields) => void (this.#ended || this.log(level, message, fields)),
      limit: limits.iotlbEntries,
    });
    this.dirtyLogging = new DirtyLogging({
      platform,
      limit: limits.logSize,
      onTrouble: (error) => this.log('warn', 'the log fd cannot be signalled', { error }),
    });
    this.inflight = new InflightRegions(platform, limits.inflightSize);
    const { stream } = options;
    this.postcopy = new Postcopy({ platform, stream, features: this.features, memory: this.memory });
    this.deviceState = new DeviceStateTransfers({
      platform,
      device,
      limit: limits.stateSize,
      suspended: () => this.suspended,
    });
    let resolveClosed!: (reason: VhostUserError | null) => void;
    this.closed = new Promise((resolve) => (resolveClosed = resolve));
    this.#resolveClosed = resolveClosed;

    this.#messages = new MessageStream({
      platform,
      stream: options.stream,
      socket: 'main',
      receives: 'requests',
      maxPayload: limits.maxPayload,
      maxFds: limits.messageFds,
      maxWaiting: limits.waitingMessages,
      onMessage: (message) => {
        this.#heard = true;
        dispatcher.handle(message);
      },
      onEnd: (error) => this.end(error),
    });
    const dispatcher = new RequestDispatcher({
      features: this.features,
      messages: this.#messages,
      handler: (row) => handlerOf(row, this),
      onRefused: (error) => this.log('warn', error.message, { code: error.code, error }),
      onFatal: (error) => this.end(error),
    });
  }

  /** Begins the conversation. */
  start(): void {
    try {
      this.device.attach?.({
        configurationChanged: () => void (this.#ended || this.outgoing.configurationChanged()),
        frontend: frontendServices(this.device, this.outgoing),
        log: this.log,
      });
    } catch (cause) {
      this.end(new DeviceError('ERR_DEVICE_FAILED', 'the device failed to take the connection', { cause }));
      return;
    }
    this.#messages.start();
  }

  /** Ends the session at once. Chains still in flight keep their memory until the device has completed them. */
  end(reason: VhostUserError | null = null): void {
    if (this.#ended) return;
    this.#ended = true;
    // Before anything here touches memory whose pages nobody supplies any more.
    this.postcopy[Symbol.dispose]();
    for (const vring of this.#vrings.values()) vring.close();
    this.#vrings.clear();
    this.outgoing.close();
    this.#messages.close();
    this.memory[Symbol.dispose]();
    this.dirtyLogging[Symbol.dispose]();
    this.deviceState.abort();
    this.inflight[Symbol.dispose]();
    this.#resetDevice();
    this.#resolveClosed(reason);
  }

  [Symbol.dispose](): void {
    this.end();
  }

  /** Not one whole request has come yet. */
  get silent(): boolean {
    return !this.#heard;
  }

  // --- rings

  /** The ring with this index, from its first mention on. Throws ERR_VHOST_PAYLOAD when the device has no such ring. */
  vring(index: number): Vring {
    if (index >= this.queueCount) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `ring ${index}: the device has ${this.queueCount}, numbered from 0`,
      );
    }
    let vring = this.#vrings.get(index);
    if (vring === undefined) {
      vring = new Vring(
        index,
        {
          platform: this.platform,
          device: this.device,
          maxSize: this.#options.limits.queueSize,
          loop: this.#options.loop,
          features: this.features,
          memory: this.memory,
          iommu: this.iommu,
          dirtyLogging: this.dirtyLogging,
          inflight: this.inflight,
          leftovers: this.#options.leftovers,
          onBroken: (broken, error) => this.#ringBroke(broken, error),
          onTurn: () => this.#turned(),
          signalInband: (ring, what) => this.outgoing.signalInband(ring, what),
          log: this.log,
        },
        this.#enabledFromStart,
      );
      this.#vrings.set(index, vring);
    }
    return vring;
  }

  /** Rings mentioned so far. */
  get vrings(): Iterable<Vring> {
    return this.#vrings.values();
  }

  get running(): boolean {
    for (const vring of this.#vrings.values()) if (vring.host !== null) return true;
    return false;
  }

  /**
   * Runs `change` while no ring runs: disabled ones are stopped for it. Throws ERR_VHOST_STATE while a ring runs that is enabled.
   */
  whenStopped<Value>(what: string, change: () => Value | Promise<Value>): Value | Promise<Value> {
    if (!this.running) return change();
    const live = Array.from(this.#vrings.values()).filter(({ host }) => host !== null);
    if (live.some(({ enabled }) => enabled)) {
      throw new VhostError('ERR_VHOST_STATE', `${what} cannot change while rings run`);
    }
    return this.whenAbandoned(live, change);
  }

  /** Stops disabled rings that are about to be described anew, and runs `change` unless the session ends over that. */
  async whenAbandoned<Value>(vrings: readonly Vring[], change: () => Value | Promise<Value>): Promise<Value> {
    await Promise.all(vrings.map((vring) => vring.abandon()));
    if (this.#ended)
      throw new VhostError('ERR_VHOST_STATE', 'the session ended while rings were being stopped');
    this.ringStopped();
    return change();
  }

  get inflightShape(): InflightShape {
    const format = this.features.has(VirtioFeature.ringPacked) ? 'packed' : 'split';
    return { format, queues: this.queueCount };
  }

  // --- what handlers do beyond one ring

  /** SET_FEATURES. While rings run it only turns logging on or off, and waits until every ring does so. */
  setFeatures(word: bigint): void | Promise<void> {
    const before = this.features.accepted;
    // LOG_ALL comes and goes with a migration and concerns neither a ring's layout nor its state.
    const changed = before ^ word;
    if (this.running && (changed & ~VirtioFeature.vhostLogAll) !== 0n) {
      return this.whenStopped('features other than LOG_ALL', () => this.setFeatures(word));
    }
    this.features.accept(word);
    if (!this.iommu.active) this.iommu.flush();
    if (!this.features.has(VirtioFeature.vhostLogAll)) this.dirtyLogging.forget();
    if (this.running) return changed === 0n ? undefined : this.#loggingChanged();
    // Without bit 30 nobody can send SET_VRING_ENABLE, so every ring is enabled. With it the bits stay as they are.
    this.#enabledFromStart = !this.features.has(VirtioFeature.vhostUserProtocolFeatures);
    if (this.#enabledFromStart) for (const vring of this.#vrings.values()) vring.setEnabled(true);
    this.device.setFeatures?.(word);
  }

  async #loggingChanged(): Promise<void> {
    await Promise.all(Array.from(this.#vrings.values(), (vring) => vring.loggingChanged()));
  }

  /** After a change of `memory`: every ring moves over as soon as its chains in flight are completed. */
  memoryChanged(): void {
    this.iommu.memoryChanged(this.memory.current);
    for (const vring of this.#vrings.values()) vring.memoryChanged();
  }

  /** RESET_DEVICE, or status 0: rings are drained, stopped and disabled. Memory, protocol features and fds stay. */
  async reset(): Promise<void> {
    await Promise.all(Array.from(this.#vrings.values(), (vring) => vring.reset()));
    if (this.#ended) return;
    this.features.accepted = 0n;
    this.iommu.flush();
    this.dirtyLogging.forget();
    this.deviceState.abort();
    this.#status = 0;
    this.#enabledFromStart = false;
    this.#resetDevice();
  }

  /**
   * GET_VRING_BASE stopped a ring. QEMU tells of no invalidation while every ring is stopped, so that translations from before
   * are worth nothing then; without a channel nobody could give them again.
   */
  ringStopped(): void {
    if (this.outgoing.channel !== null && this.suspended) this.iommu.flush();
  }

  /** RESET_OWNER: rings are disabled and nothing more. */
  disableRings(): void {
    for (const vring of this.#vrings.values()) vring.setEnabled(false);
  }

  /** The device status byte; NEEDS_RESET while a ring is broken. */
  get status(): number {
    for (const vring of this.#vrings.values()) {
      if (vring.broken !== null) return this.#status | DeviceStatus.deviceNeedsReset;
    }
    return this.#status;
  }

  set status(status: number) {
    this.#status = status & ~DeviceStatus.deviceNeedsReset;
  }

  /** While every ring is stopped the device is suspended: nothing may be sent over the channel then. */
  get suspended(): boolean {
    return !Array.from(this.#vrings.values()).some(isRunning);
  }

  /** Tells what had to wait for a running ring or for the channel. */
  tellChanges(): void {
    this.outgoing.retry();
  }

  // --- inside

  #ringBroke(vring: Vring, error: VirtqueueError): void {
    this.log('error', error.message, { ring: vring.index, code: error.code, error });
    this.#checkMemory();
  }

  #turned(): void {
    const regions = this.memory.current?.count ?? 0;
    if (regions > FEW_REGIONS && ++this.#turns % LOOK_EVERY_TURNS !== 0) return;
    this.#checkMemory();
  }

  /** The front-end cut a file that it shares: no ring can be trusted from here on. */
  #checkMemory(): void {
    if (this.#ended) return;
    const what =
      this.memory.current?.damaged === true
        ? 'memory that it shares'
        : this.dirtyLogging.damaged
          ? 'dirty log'
          : this.inflight.damaged
            ? 'in-flight memory'
            : null;
    if (what === null) return;
    // In postcopy memory is withdrawn when the front-end is gone, whether the loop has heard of that or not.
    const why = this.postcopy.listening ? 'truncated, or supplies no more, the' : 'truncated the';
    this.end(new VhostError('ERR_VHOST_STATE', `the front-end ${why} ${what}; its pages are lost`));
  }

  #resetDevice(): void {
    try {
      this.device.reset?.();
    } catch (error) {
      this.log('error', 'the device failed to reset', { error });
    }
  }
}

/** Started and not stopped yet. */
function isRunning(vring: Vring | undefined): boolean {
  return vring !== undefined && (vring.started || vring.host !== null);
}
