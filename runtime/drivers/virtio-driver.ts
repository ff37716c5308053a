import { VhostError, VirtqueueError } from '../errors.js';
import { SharedMemory, type SharedMemoryOptions, type SharedRegion } from '../memory/shared-memory.js';
import type { Platform, SocketStream } from '../platform/platform.js';
import type { FeatureTable } from '../wire/index.js';
import type { BackendRequestMap } from '../vhost-user/frontend/backend-requests.js';
import type { Retry } from '../vhost-user/frontend/connections.js';
import { Frontend, type FrontendOptions } from '../vhost-user/frontend/frontend.js';
import type { FrontendIommu } from '../vhost-user/frontend/iommu.js';
import type { MessageOrder } from '../vhost-user/frontend/negotiation.js';
import { decodeBase, encodeBase } from '../vhost-user/vring-base.js';
import type { VirtqueueState } from '../virtqueue/device-virtqueue.js';
import { initialVirtqueueState } from '../virtqueue/start.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { DriverQueue } from './driver-queue.js';
import { QueueMemory } from './queue-memory.js';

export interface VirtioDriverOptions extends Pick<
  FrontendOptions,
  'inbandNotifications' | 'gpaAddresses' | 'hostNotifiers' | 'shmem' | 'sharedObjects'
> {
  readonly platform: Platform;
  /** Socket of a listening back-end; with `listen`, where to listen for one. */
  readonly path?: string;
  readonly listen?: boolean;
  /** A stream that is connected to a back-end, instead of a path. Taken over. */
  readonly stream?: SocketStream;
  /** How often to try to connect; once when absent. */
  readonly retry?: Retry;
  /** Connect again, with `retry`, when the back-end is gone, and go on. */
  readonly reconnect?: boolean;
  /**
   * The rings: `split` when absent; `packed`, which not every back-end has, whereupon nothing is started; or `any`, packed where
   * the back-end has them.
   */
  readonly format?: 'split' | 'packed' | 'any';
  /** How many rings to start; 1 when absent. */
  readonly queues?: number;
  /** Rings that one queue of GET_QUEUE_NUM may stand for; see FrontendOptions. */
  readonly ringsPerQueue?: number;
  /** Descriptors a ring; 256 when absent. */
  readonly queueSize?: number;
  readonly eventIdx?: boolean;
  readonly indirect?: boolean;
  readonly inOrder?: boolean;
  /** Put the device behind an IOMMU (ACCESS_PLATFORM), if the back-end offers to be behind one. */
  readonly iommu?: FrontendIommu;
  /** Bits of the device type that the driver accepts; all that are offered when absent. */
  readonly deviceFeatures?: bigint;
  /** The device type's feature table: a bit that lacks what it needs is not accepted. */
  readonly featureTable?: FeatureTable;
  /** Bits that the front-end provides by itself, and bits that the back-end is not told of; see FeatureFilter. */
  readonly provided?: bigint;
  readonly withheld?: bigint;
  /** Protocol bits that the front-end accepts; all that it serves when absent. */
  readonly protocol?: bigint;
  /** Do without kick fds (the back-end polls) or without call fds (the driver polls). */
  readonly withoutKick?: boolean;
  readonly withoutCall?: boolean;
  readonly memoryTable?: boolean;
  readonly memory?: SharedMemoryOptions;
  readonly order?: MessageOrder;
  readonly handlers?: BackendRequestMap<Frontend>;
  readonly restoreSignal?: () => AbortSignal;
  /** Bounds everything up to the point where the rings run. */
  readonly signal?: AbortSignal;
}

/** Bits 0 to 23 and 50 to 63 are the device type's own (virtio 1.4, 2.2). */
const DEVICE_BITS = 0xfffc_0000_00ff_ffffn;

interface Ring {
  readonly memory: QueueMemory;
  readonly queue: DriverQueue;
}

/**
 * A whole driver of one device behind a back-end: it connects, negotiates, shares memory, and runs the rings. Typed clients
 * stand on its queues. When the back-end is restarted (`listen`, `reconnect`), what was under way is finished by the next one,
 * exactly once where both keep record of it (INFLIGHT_SHMFD); otherwise it is issued again.
 *
 * @example
 * ```ts
 * using driver = await VirtioDriver.start({ platform, path: '/run/vm/rng.sock', format: 'packed' });
 * const { bytes } = await driver.queues[0].transfer([], [64]);
 * ```
 */
export class VirtioDriver implements Disposable {
  readonly platform: Platform;
  readonly frontend: Frontend;
  readonly memory: SharedMemory;
  /** Virtio bits that the driver goes by. */
  readonly features: bigint;
  readonly format: 'split' | 'packed';
  readonly #options: VirtioDriverOptions;
  readonly #size: number;
  #rings: Ring[] = [];
  readonly #areas: QueueMemory[] = [];

  private constructor(options: VirtioDriverOptions, frontend: Frontend) {
    this.#options = options;
    this.platform = options.platform;
    this.frontend = frontend;
    this.memory = frontend.memory;
    this.features = frontend.negotiated.driverFeatures;
    this.format = (this.features & VirtioFeature.ringPacked) !== 0n ? 'packed' : 'split';
    this.#size = options.queueSize ?? 256;
    for (let index = 0; index < (options.queues ?? 1); index++) {
      this.#areas.push(new QueueMemory(this.memory, index, this.#size, this.features, frontend.iommu));
    }
  }

  /**
   * Connects (or waits for a back-end), negotiates, shares memory and starts the rings. Rejects with the error of the step
   * that failed, or the signal's reason; nothing stays open then. A back-end without VERSION_1, or without RING_PACKED where
   * `format` is `packed`, is refused with ERR_VHOST_GATE.
   */
  static async start(options: VirtioDriverOptions): Promise<VirtioDriver> {
    const memory = new SharedMemory(options.platform, options.memory);
    let frontend: Frontend | null = null;
    try {
      frontend = await openFrontend(options, memory);
      const driver = new VirtioDriver(options, frontend);
      await driver.startRings(undefined, options.signal);
      return driver;
    } catch (error) {
      frontend?.close();
      memory[Symbol.dispose]();
      throw error;
    }
  }

  /** The running rings. */
  get queues(): readonly DriverQueue[] {
    return this.#rings.map((ring) => ring.queue);
  }

  /**
   * Stops every ring; resolves with where each stands. What the back-end had begun is used by then; what it had not begun
   * stays in the ring for `resumeRings`.
   */
  async stopRings(signal?: AbortSignal): Promise<VirtqueueState[]> {
    const indexes = this.#rings.map((_, index) => index);
    const bases = await this.frontend.stopVrings(indexes, signal);
    return bases.map((base, index) => this.#checkedBase(index, base));
  }

  /**
   * Starts the rings that `stopRings` stopped from where they stand, with what is still in them. Those that were disabled
   * stay so.
   */
  async resumeRings(signal?: AbortSignal): Promise<void> {
    const setups = this.#rings.map((ring, index) => ({
      ...this.#setup(index, ring),
      enabled: this.frontend.vring(index)?.enabled ?? true,
    }));
    await this.frontend.startVrings(setups, signal);
  }

  /** Starts every ring with fresh areas, from `states` on if they are given. Nothing may be under way. */
  async startRings(states?: readonly VirtqueueState[], signal?: AbortSignal): Promise<void> {
    const { withoutCall = false } = this.#options;
    this.#rings = this.#areas.map((memory, index) => ({
      memory,
      queue: new DriverQueue(index, this.memory, memory.start(states?.[index]), {
        kick: () => this.frontend.kick(index),
        ended: this.frontend.ended,
        polled: withoutCall,
      }),
    }));
    const setups = this.#rings.map((ring, index) => ({
      ...this.#setup(index, ring),
      base: encodeBase(states?.[index] ?? initialVirtqueueState(this.format)),
    }));
    await this.frontend.startVrings(setups, signal);
  }

  /** Adds a region of memory while the rings run. */
  async addMemory(size: number, signal?: AbortSignal): Promise<SharedRegion> {
    const shared = await this.frontend.addMemory(size, undefined, signal);
    this.#rebind();
    return shared;
  }

  /** Takes a region away that nothing is allocated in. */
  async removeMemory(shared: SharedRegion, signal?: AbortSignal): Promise<void> {
    await this.frontend.removeMemory(shared, signal);
    this.#rebind();
  }

  /** Hangs up and gives everything back, as a killed front-end would. */
  close(): void {
    this.frontend.close();
    this.memory[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #setup(index: number, { memory, queue }: Ring) {
    return {
      index,
      size: this.#size,
      areas: memory.areas,
      onCall: () => queue.notify(),
      onError: () =>
        queue.fail(
          new VirtqueueError('ERR_VIRTQ_DEVICE', index, 'the back-end reports that the ring is broken'),
        ),
      restore: () => {
        queue.restart(() => memory.start());
        return encodeBase(initialVirtqueueState(this.format));
      },
      resume: () => {
        queue.resume();
        return encodeBase(usedPosition(queue.driver.state()));
      },
    };
  }

  /**
   * Where the back-end says the ring stands. It has used all that it took, so that it must be where the used entries end;
   * only the lower 16 bits are compared of one that sends no more.
   */
  #checkedBase(index: number, base: number): VirtqueueState {
    const { queue } = this.#rings[index]!;
    queue.collectStopped();
    try {
      const state = decodeBase(this.format, base);
      // Somebody who uses the ring directly has not fetched everything yet, or nobody ever will.
      if (!queue.driver.hasUsed() && queue.driver.broken === null) checkStop(state, queue.driver.state());
      return state;
    } catch (cause) {
      const error = new VhostError(
        'ERR_VHOST_REPLY',
        `ring ${index}, base 0x${base.toString(16)}: ${(cause as Error).message}`,
        { request: 'VHOST_USER_GET_VRING_BASE', cause },
      );
      this.frontend.close(error);
      throw error;
    }
  }

  #rebind(): void {
    for (const { queue } of this.#rings) queue.driver.rebind(this.memory.memory);
  }
}

/** Where a ring stands of which nothing is in flight: available chains go on where used ones end. */
function usedPosition(state: VirtqueueState): VirtqueueState {
  const { nextUsed } = state;
  if (state.format === 'split') return { ...state, nextAvailable: nextUsed };
  return { ...state, nextAvailable: nextUsed, availableWrap: state.usedWrap };
}

function checkStop(theirs: VirtqueueState, own: VirtqueueState): void {
  const wrap = own.format === 'packed' ? own.usedWrap : 0;
  const theirWrap = theirs.format === 'packed' ? theirs.availableWrap : 0;
  if (theirs.nextAvailable === own.nextUsed && theirWrap === wrap) return;
  throw new VhostError(
    'ERR_VHOST_REPLY',
    `the back-end stopped at ${theirs.nextAvailable} (wrap ${theirWrap}), but has used up to ${own.nextUsed} (wrap ${wrap})`,
  );
}

function openFrontend(options: VirtioDriverOptions, memory: SharedMemory): Promise<Frontend> {
  const { path = '', stream, listen = false, queues = 1 } = options;
  const features = {
    supported: supportedFeatures(options),
    // Layouts of legacy devices are nowhere here, and rings of another kind are not what the caller has asked for.
    required: VirtioFeature.version1 | (options.format === 'packed' ? VirtioFeature.ringPacked : 0n),
    provided: options.provided ?? 0n,
    withheld: options.withheld ?? 0n,
    ...(options.featureTable === undefined ? {} : { table: options.featureTable }),
    ...(options.protocol === undefined ? {} : { protocol: options.protocol }),
  };
  const common = { ...options, memory, features, queues };
  if (stream !== undefined) return Frontend.attach({ ...common, stream });
  return listen ? Frontend.listen({ ...common, path }) : Frontend.connect({ ...common, path });
}

function supportedFeatures(options: VirtioDriverOptions): bigint {
  let features = VirtioFeature.version1 | ((options.deviceFeatures ?? DEVICE_BITS) & DEVICE_BITS);
  if (options.format === 'packed' || options.format === 'any') features |= VirtioFeature.ringPacked;
  if (options.eventIdx !== false) features |= VirtioFeature.eventIdx;
  if (options.indirect !== false) features |= VirtioFeature.indirectDesc;
  if (options.inOrder === true) features |= VirtioFeature.inOrder;
  if (options.iommu !== undefined) features |= VirtioFeature.accessPlatform;
  return features;
}
