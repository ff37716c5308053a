import type { VirtioDevice } from '../device/virtio-device.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { Platform } from '../platform/platform.js';
import type {
  DeviceVirtqueue,
  VirtqueueAreas,
  VirtqueueInflight,
  VirtqueueState,
} from '../virtqueue/device-virtqueue.js';
import type { Translation } from '../virtqueue/translation.js';
import { splitPosition } from '../virtqueue/split/position.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../virtqueue/start.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import type { NegotiatedFeatures } from './negotiated-features.js';
import { decodeBase } from './vring-base.js';

/** What a ring's virtqueue takes from the session. */
export interface VirtqueueContext {
  readonly platform: Platform;
  readonly device: VirtioDevice;
  readonly features: NegotiatedFeatures;
  /** Where chains in flight are tracked. */
  readonly inflight: { of(queue: number, format: 'split' | 'packed'): VirtqueueInflight | null };
}

/** A ring that is about to run. */
export interface VringPlace {
  readonly index: number;
  readonly size: number;
  readonly memory: GuestMemory;
  readonly areas: VirtqueueAreas;
  readonly translation?: Translation;
  /** Wire form; null when nobody said where the ring stands. */
  readonly base: number | null;
}

/** Starts the virtqueue of a ring. Throws VirtqueueError; ERR_VIRTQ_INFLIGHT when nobody can say which chains are done. */
export function startVringVirtqueue(context: VirtqueueContext, ring: VringPlace): DeviceVirtqueue {
  const { features, platform, device } = context;
  const { index, size, memory, areas } = ring;
  const format = features.has(VirtioFeature.ringPacked) ? 'packed' : 'split';
  const inflight = context.inflight.of(index, format);
  return startDeviceVirtqueue(
    {
      index,
      size,
      format,
      eventIdx: features.has(VirtioFeature.eventIdx),
      indirect: features.has(VirtioFeature.indirectDesc),
      inOrder: features.has(VirtioFeature.inOrder),
      ...(device.maxChainLength === undefined ? {} : { chainLimit: device.maxChainLength }),
      areas,
      memory,
      ...(ring.translation === undefined ? {} : { translation: ring.translation }),
      state: position(platform, format, ring),
      ...(inflight === null ? {} : { inflight }),
    },
    platform.windows,
  );
}

/** Where the ring goes on. */
function position(platform: Platform, format: 'split' | 'packed', ring: VringPlace): VirtqueueState {
  const { base } = ring;
  const state = base === null ? null : decodeBase(format, base);
  if (format === 'packed') return state ?? initialVirtqueueState(format);
  return splitPosition(platform.windows, ring, state?.nextAvailable ?? null);
}
