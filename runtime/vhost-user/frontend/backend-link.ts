import { EventEmitter } from 'node:events';
import { GuestMemoryError, PlatformError, VhostError, type VhostUserError } from '../../errors.js';
import type { SharedMemory } from '../../memory/shared-memory.js';
import type { Platform, SocketStream } from '../../platform/platform.js';
import type {
  FrontendRequestName,
  FrontendRequests,
} from '../../../generated/vhost-user/frontend-requests.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import type { NegotiatedFeatures } from '../negotiated-features.js';
import { bounded } from './announce.js';
import { defaultBackendHandlers } from './backend-handlers.js';
import { BackendRequestServer } from './backend-requests.js';
import type { BackendSource } from './connections.js';
import { type FeatureFilter, SUPPORTED_PROTOCOL_FEATURES } from './feature-filter.js';
import type { Frontend } from './frontend.js';
import type { FrontendEvents, FrontendOptions } from './frontend-options.js';
import { BackendLoans } from './loans.js';
import { FrontendIommu } from './iommu.js';
import { type Negotiated, negotiate } from './negotiation.js';
import { RequestChannel, type RequestOptions } from './request-channel.js';

/**
 * The connection under a front-end, and its successors: takes a back-end, tells it everything, notices its end, and waits for
 * the next where there can be one. What there is to tell of memory and rings is the subclass's.
 */
export abstract class BackendLink extends EventEmitter<FrontendEvents> implements Disposable {
  readonly platform: Platform;
  readonly memory: SharedMemory;
  /** What addresses mean to the device where ACCESS_PLATFORM is negotiated. */
  readonly iommu: FrontendIommu;
  protected readonly options: FrontendOptions;
  /** What the back-end has lent. */
  readonly loans: BackendLoans;
  readonly #source: BackendSource;
  readonly #closing = new AbortController();
  /** null while there is no back-end that has been told everything. */
  #channel: RequestChannel | null = null;
  #server: BackendRequestServer<Frontend> | null = null;
  #negotiated: Negotiated | null = null;
  #end: VhostUserError | null = null;
  #markEnded!: (reason: VhostUserError) => void;
  /** Resolves with the reason once no back-end is there and none will come. */
  readonly ended = new Promise<VhostUserError>((resolve) => (this.#markEnded = resolve));

  protected constructor(options: FrontendOptions, source: BackendSource) {
    super();
    this.options = options;
    this.#source = source;
    this.platform = options.platform;
    this.memory = options.memory;
    this.iommu = options.iommu ?? new FrontendIommu();
    this.loans = new BackendLoans(options);
  }

  /** The front-end itself, for the handlers of the back-end's requests. */
  protected abstract readonly self: Frontend;
  /** Before SET_FEATURES: SET_VRING_CALL for the rings that there will be. */
  protected abstract earlyCalls(
    channel: RequestChannel,
    queueCount: number | null,
    signal: AbortSignal | undefined,
  ): Promise<void>;
  /** Shares the memory; throws when the back-end does not take so much of it. */
  protected abstract announceMemory(channel: RequestChannel, signal: AbortSignal | undefined): Promise<void>;
  /** Tells a later back-end of the rings that run. */
  protected abstract replayRings(signal: AbortSignal | undefined): Promise<void>;
  /** It is over: closes what the rings hold. */
  protected abstract released(): void;

  /** Waits for the first back-end and tells it everything but the rings. */
  protected async open(signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.#take(await this.#source.next(signal), signal);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** What was agreed on with the back-end that is there, or was there last. */
  get negotiated(): Negotiated {
    return this.#negotiated!;
  }

  /** Why it is over, null while it is not. */
  get endReason(): VhostUserError | null {
    return this.#end;
  }

  /** False while the front-end waits for another back-end, and after the end. */
  get connected(): boolean {
    return this.#channel !== null;
  }

  /** The connection to the back-end that is there. Throws ERR_VHOST_DISCONNECTED when none is. */
  protected get channel(): RequestChannel {
    if (this.#channel !== null) return this.#channel;
    throw this.#end ?? new VhostError('ERR_VHOST_DISCONNECTED', 'there is no back-end at the moment');
  }

  /** One request, whatever it is; see `RequestChannel.request`. */
  async request<Name extends FrontendRequestName>(
    name: Name,
    payload: FrontendRequests[Name]['payload'],
    options: RequestOptions = {},
  ): Promise<FrontendRequests[Name]['reply']> {
    const reply = await this.channel.request(name, payload, options);
    if (name === 'resetDevice' || (name === 'setStatus' && payload === 0n)) {
      await this.takeLoansBack(options.signal);
    }
    return reply;
  }

  /**
   * The device was reset: what it had mapped is unmapped. A mapping that it asked for just before may still lie in the back-end's
   * channel, which is another socket than the one that brought the answer: it is served first, so that it does not come to stay.
   */
  protected async takeLoansBack(signal: AbortSignal | undefined): Promise<void> {
    const server = this.#server;
    await server?.caughtUp(signal);
    if (server === this.#server) this.loans.reset();
  }

  /** Hangs up and closes every fd; what waits fails with the reason. The memory stays. Idempotent. */
  close(
    reason: VhostUserError = new VhostError('ERR_VHOST_DISCONNECTED', 'the connection was closed here'),
  ): void {
    this.#finish(reason);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** With the protocol features that an option asks for. */
  get #filter(): FeatureFilter {
    const { features, inbandNotifications, gpaAddresses } = this.options;
    let protocol = (features.protocol ?? SUPPORTED_PROTOCOL_FEATURES) | this.loans.protocol;
    if (inbandNotifications === true) protocol |= ProtocolFeature.inbandNotifications;
    if (gpaAddresses === true) protocol |= ProtocolFeature.gpaAddresses;
    return { ...features, protocol };
  }

  /** Tells a back-end everything: the first one up to its features and memory, a later one also of the rings. */
  async #take(stream: SocketStream, signal: AbortSignal | undefined): Promise<void> {
    const channel = new RequestChannel(this.platform, stream);
    try {
      const first = this.#negotiated === null;
      this.#negotiated = await negotiate(channel, {
        filter: this.#filter,
        order: this.options.order ?? 'virtio-user',
        openBackendChannel: (bound) => this.#openBackendChannel(channel, bound),
        sharedMemory: (config) => this.loans.shmem?.configure(config),
        earlyCalls: (queueCount, bound) => this.earlyCalls(channel, queueCount, bound),
        ...(first ? {} : { required: this.#negotiated!.features }),
        signal,
      });
      await this.announceMemory(channel, signal);
      // From here on the caller's requests may go between ours; before, they would come out of order.
      this.#channel = channel;
      if (!first) await this.replayRings(signal);
    } catch (error) {
      this.#channel = null;
      this.#closeServer();
      channel.close();
      throw error;
    }
    void channel.ended.then((reason) => this.#lost(channel, reason));
  }

  #lost(channel: RequestChannel, reason: VhostUserError): void {
    if (this.#channel !== channel) return;
    this.#channel = null;
    this.#closeServer();
    if (!this.#source.repeats || this.#end !== null) {
      this.#finish(reason);
      return;
    }
    this.emit('disconnected', reason);
    void this.#restore();
  }

  /** Waits for another back-end, however many fail before it is told everything. */
  async #restore(): Promise<void> {
    while (this.#end === null) {
      let bound: AbortSignal | undefined;
      try {
        const stream = await this.#source.next(this.#closing.signal);
        bound = this.options.restoreSignal?.();
        const signals = [this.#closing.signal, ...(bound === undefined ? [] : [bound])];
        await this.#take(stream, AbortSignal.any(signals));
        this.emit('reconnected');
        return;
      } catch (error) {
        if (this.#end !== null) return;
        // One that goes again, or does not answer in time, is one of many. One that lacks what is in use, or that cannot be
        // reached at all, is the end.
        const gone = error instanceof VhostError && error.code === 'ERR_VHOST_DISCONNECTED';
        if (!gone && bound?.aborted !== true) return this.#finish(asError(error));
        this.emit('trouble', asError(error));
      }
    }
  }

  #finish(reason: VhostUserError): void {
    if (this.#end !== null) return;
    this.#end = reason;
    this.#closing.abort(reason);
    this.#source.close();
    const channel = this.#channel;
    this.#channel = null;
    channel?.close(reason instanceof VhostError ? reason : undefined);
    this.#closeServer();
    this.released();
    this.#markEnded(reason);
  }

  async #openBackendChannel(channel: RequestChannel, signal: AbortSignal | undefined): Promise<void> {
    const { platform } = this;
    const [mine, theirs] = platform.socketPair();
    try {
      this.#closeServer();
      this.#server = new BackendRequestServer<Frontend>({
        platform,
        stream: platform.adoptSocket(mine) as SocketStream,
        features: channel.features,
        context: this.self,
        handlers: { ...defaultBackendHandlers, ...this.options.handlers },
        onRefused: (error) => this.emit('trouble', error),
        onEnd: (error) => {
          if (error !== null) this.emit('trouble', error);
          if (ringsNeedIt(channel.features)) {
            channel.close(
              error ??
                new VhostError('ERR_VHOST_DISCONNECTED', 'the back-end closed the channel of its requests'),
            );
          }
        },
      });
      await channel.request('setBackendReqFd', undefined, { ...bounded(signal), fds: [theirs] });
    } finally {
      platform.closeFd(theirs);
    }
  }

  #closeServer(): void {
    this.#server?.close();
    this.#server = null;
    this.loans.clear(this.self);
  }
}

/** Calls in-band and misses of the IOTLB come over the back-end's channel: without it what is under way would never end. */
function ringsNeedIt(features: NegotiatedFeatures): boolean {
  return (
    features.hasProtocol(ProtocolFeature.inbandNotifications) ||
    (features.accepted & VirtioFeature.accessPlatform) !== 0n
  );
}

function asError(error: unknown): VhostUserError {
  if (error instanceof VhostError || error instanceof PlatformError || error instanceof GuestMemoryError) {
    return error;
  }
  return new VhostError('ERR_VHOST_DISCONNECTED', `telling a new back-end failed: ${String(error)}`, {
    cause: error,
  });
}
