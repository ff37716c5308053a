import { VirtqueueError } from '../errors.js';
import { QueueHost } from '../device/queue-host.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DeviceVirtqueue, VirtqueueAreas } from '../virtqueue/device-virtqueue.js';
import type { VringAddress } from '../../generated/vhost-user/payloads.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { sameAreas } from './ring-areas.js';
import { type BoundRing, ringLog } from './ring-log.js';
import type { VringContext } from './vring-context.js';

/** What a live ring is made of. */
export interface LiveRingParts {
  readonly virtqueue: DeviceVirtqueue;
  readonly memory: GuestMemory;
  readonly areas: VirtqueueAreas;
  /** As SET_VRING_ADDR said them. */
  readonly addresses: VringAddress;
  readonly call: () => void;
  /** Told once, when the ring is latched as broken. */
  readonly onBroken: (error: VirtqueueError) => void;
}

/**
 * A ring that runs: its QueueHost, and the memory that it is bound to and that it logs its writes of. `leave` ends it. While
 * its memory is taken away it is not bound, and stays closed.
 */
export class LiveRing {
  readonly host: QueueHost;
  readonly #context: VringContext;
  /** The memory is held. */
  #bound: BoundRing | null;
  /** Waits for the last chain that was taken before logging began. */
  #covered: (() => void) | null = null;

  /** Nothing is logged before `setLog`. */
  constructor(context: VringContext, { virtqueue, memory, areas, addresses, call, onBroken }: LiveRingParts) {
    const { device, features, platform, loop, onTurn } = context;
    this.#context = context;
    this.#bound = { memory: memory.retain(), areas, addresses };
    this.host = new QueueHost({
      virtqueue,
      device,
      features: features.accepted,
      windows: platform.windows,
      loop,
      call,
      onBroken: (error) => {
        this.#covered?.();
        onBroken(error);
      },
      onTurn,
    });
  }

  get bound(): boolean {
    return this.#bound !== null;
  }

  /** Whether the device does nothing any more for chains that are taken from it. */
  get lets(): boolean {
    return this.#context.device.letsGo?.(this.host.index) ?? false;
  }

  /** Has the ring log its writes, or not, as LOG_ALL and its addresses say. */
  setLog(covered?: () => void): void {
    const { features, dirtyLogging } = this.#context;
    const bound = features.has(VirtioFeature.vhostLogAll) ? this.#bound : null;
    this.host.setLog(bound === null ? null : ringLog(dirtyLogging, features.accepted, bound), covered);
  }

  /** The same place with another log flag or address. False when it is another place. */
  relog(addresses: VringAddress): boolean {
    if (this.#bound === null || !sameAreas(this.#bound.addresses, addresses)) return false;
    this.#bound = { ...this.#bound, addresses };
    this.setLog();
    return true;
  }

  /** LOG_ALL came or went. Resolves when whatever is written from then on is logged, or nothing is. */
  loggingChanged(): Promise<void> {
    if (this.host.broken !== null) return Promise.resolve();
    return new Promise((resolve) => {
      this.#covered = resolve;
      this.setLog(resolve);
    });
  }

  /**
   * Binds the quiet ring to the memory of now, where `areasIn` finds it, or null. False when it cannot go on with it.
   */
  rebind(addresses: VringAddress, areasIn: (memory: GuestMemory) => VirtqueueAreas | null): boolean {
    const memory = this.#context.memory.current;
    const before = this.#bound;
    this.#bound = null;
    try {
      const areas = memory === null ? null : areasIn(memory);
      if (memory === null || areas === null) return false;
      this.host.rebind(memory, areas);
      this.#bound = { memory: memory.retain(), areas, addresses };
      this.setLog();
      return true;
    } catch (error) {
      this.host.break(asVirtqueueError(this.host.index, error));
      return false;
    } finally {
      before?.memory.release();
    }
  }

  /** Lets go of the host, and of its memory once no chain in flight lies there. */
  leave(): void {
    const { host } = this;
    const bound = this.#bound;
    this.#bound = null;
    this.#covered?.();
    // Nobody can say that the chains of a device that failed will ever end.
    const ended = host.failed || this.lets ? undefined : this.#context.leftovers.add();
    host.detach(() => {
      bound?.memory.release();
      ended?.();
    });
  }
}

export function asVirtqueueError(queue: number, cause: unknown): VirtqueueError {
  if (cause instanceof VirtqueueError) return cause;
  return new VirtqueueError('ERR_VIRTQ_CONFIGURATION', queue, 'the ring cannot be started', { cause });
}
