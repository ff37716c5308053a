import type { Platform, SocketStream, Watch } from '../platform/platform.js';
import type { VirtqueueState } from '../virtqueue/device-virtqueue.js';
import { decodeBase, encodeBase } from '../vhost-user/vring-base.js';
import { initialVirtqueueState } from '../virtqueue/start.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { GuestRam, type GuestRamOptions } from './guest-ram.js';
import { MockFrontend } from './mock-frontend.js';
import { MockQueue } from './mock-queue.js';
import { QueueMemory } from './queue-memory.js';

export interface MockDriverOptions {
  readonly platform: Platform;
  /** A listening back-end's socket, or … */
  readonly path?: string;
  /** … a stream that is connected to one. Taken over. */
  readonly stream?: SocketStream;
  readonly format?: 'split' | 'packed';
  /** How many rings to start; 1 when absent. */
  readonly queues?: number;
  /** Descriptors a ring; 256 when absent. */
  readonly queueSize?: number;
  readonly eventIdx?: boolean;
  readonly indirect?: boolean;
  readonly inOrder?: boolean;
  /** Bits of the device type that the driver accepts; all that are offered when absent. */
  readonly deviceFeatures?: bigint;
  /** Protocol bits that the front-end accepts. */
  readonly protocol?: bigint;
  /** Do without kick fds (the back-end polls) or without call fds (the driver polls). */
  readonly withoutKick?: boolean;
  readonly withoutCall?: boolean;
  readonly ram?: GuestRamOptions;
  /** Bounds everything up to the point where the rings run. */
  readonly signal?: AbortSignal;
}

/** Bits 0 to 23 and 50 to 63 are the device type's own (virtio 1.4, 2.2). */
const DEVICE_BITS = 0xfffc_0000_00ff_ffffn;

/**
 * A whole pretended guest with one device: it connects to a back-end, negotiates, shares memory, and runs the rings.
 *
 * @example
 * ```ts
 * using driver = await MockDriver.start({ platform, path: '/run/vm/rng.sock', format: 'packed' });
 * const { bytes } = await driver.queues[0].transfer([], [64]);
 * ```
 */
export class MockDriver implements Disposable {
  readonly platform: Platform;
  readonly frontend: MockFrontend;
  readonly ram: GuestRam;
  /** Negotiated virtio bits. */
  readonly features: bigint;
  readonly format: 'split' | 'packed';
  #queues: MockQueue[] = [];
  readonly #options: MockDriverOptions;
  readonly #rings: Ring[];

  private constructor(
    options: MockDriverOptions,
    frontend: MockFrontend,
    ram: GuestRam,
    fds: readonly RingFds[],
  ) {
    this.#options = options;
    this.platform = options.platform;
    this.frontend = frontend;
    this.ram = ram;
    this.features = frontend.negotiated.features;
    this.format = (this.features & VirtioFeature.ringPacked) !== 0n ? 'packed' : 'split';
    const size = options.queueSize ?? 256;
    this.#rings = fds.map((each, index) => ({
      fds: each,
      memory: new QueueMemory(ram, index, size, this.features),
      size,
      watch: null,
    }));
  }

  /**
   * Connects, negotiates, shares memory and starts the rings. Rejects with the error of the step that failed, or the
   * signal's reason; nothing stays open then.
   */
  static async start(options: MockDriverOptions): Promise<MockDriver> {
    const { platform, signal } = options;
    const pass = signal === undefined ? {} : { signal };
    const frontend =
      options.stream === undefined
        ? await MockFrontend.connect(platform, options.path ?? '', pass)
        : new MockFrontend(platform, options.stream);
    const opened: Disposable[] = [frontend];
    try {
      const ram = new GuestRam(platform, options.ram);
      opened.push(ram);
      const fds = Array.from({ length: options.queues ?? 1 }, () => new RingFds(platform));
      opened.push(...fds);
      await frontend.negotiate({
        ...pass,
        features: wantedFeatures(options),
        ...(options.protocol === undefined ? {} : { protocol: options.protocol }),
        earlyCallFds: options.withoutCall === true ? [] : fds.map((each) => each.call),
      });
      await frontend.shareMemory(ram, pass);
      const driver = new MockDriver(options, frontend, ram, fds);
      await driver.startRings(undefined, signal);
      return driver;
    } catch (error) {
      for (const each of opened.reverse()) each[Symbol.dispose]();
      throw error;
    }
  }

  /** The running rings. */
  get queues(): readonly MockQueue[] {
    return this.#queues;
  }

  /** Stops every ring; resolves with where each stands. Nothing may be in flight. */
  async stopRings(signal?: AbortSignal): Promise<VirtqueueState[]> {
    const states: VirtqueueState[] = [];
    for (const [index, ring] of this.#rings.entries()) {
      states.push(decodeBase(this.format, await this.frontend.stopVring(index, signal)));
      ring.watch?.close();
      ring.watch = null;
    }
    return states;
  }

  /** Starts every ring, afresh or from where `stopRings` left it. */
  async startRings(states?: readonly VirtqueueState[], signal?: AbortSignal): Promise<void> {
    const { withoutKick, withoutCall } = this.#options;
    this.#queues = this.#rings.map((ring, index) => {
      const queue = new MockQueue(index, this.ram, ring.memory.start(states?.[index]), {
        kick: () => this.platform.signalEventFd(ring.fds.kick),
        ended: this.frontend.ended,
      });
      ring.watch?.close();
      ring.watch =
        withoutCall === true ? null : this.platform.watchEventFd(ring.fds.call, () => queue.notify());
      return queue;
    });
    for (const [index, ring] of this.#rings.entries()) {
      const vring = {
        index,
        size: ring.size,
        base: encodeBase(states?.[index] ?? initialVirtqueueState(this.format)),
        areas: ring.memory.areas,
        kickFd: withoutKick === true ? -1 : ring.fds.kick,
        callFd: withoutCall === true ? -1 : ring.fds.call,
        errFd: ring.fds.err,
      };
      await this.frontend.startVring(this.ram, vring, signal);
    }
  }

  /** Hangs up and gives everything back, as a killed front-end would. */
  close(): void {
    this.frontend.close();
    for (const ring of this.#rings) {
      ring.watch?.close();
      ring.watch = null;
      ring.fds[Symbol.dispose]();
    }
    this.ram[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

interface Ring {
  readonly fds: RingFds;
  readonly memory: QueueMemory;
  readonly size: number;
  watch: Watch | null;
}

/** The eventfds of one ring. */
class RingFds implements Disposable {
  readonly kick: number;
  readonly call: number;
  readonly err: number;
  readonly #platform: Platform;
  #closed = false;

  constructor(platform: Platform) {
    this.#platform = platform;
    this.kick = platform.createEventFd();
    this.call = platform.createEventFd();
    this.err = platform.createEventFd();
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of [this.kick, this.call, this.err]) this.#platform.closeFd(fd);
  }
}

function wantedFeatures(options: MockDriverOptions): bigint {
  let features = VirtioFeature.version1 | ((options.deviceFeatures ?? DEVICE_BITS) & DEVICE_BITS);
  if (options.format === 'packed') features |= VirtioFeature.ringPacked;
  if (options.eventIdx !== false) features |= VirtioFeature.eventIdx;
  if (options.indirect !== false) features |= VirtioFeature.indirectDesc;
  if (options.inOrder === true) features |= VirtioFeature.inOrder;
  return features;
}
