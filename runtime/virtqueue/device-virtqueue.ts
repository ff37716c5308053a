import type { VirtqueueError } from '../errors.js';
import type { PlaceRange } from '../memory/iotlb.js';
import type { Mapping } from '../platform/platform.js';
import type { ChainBatch } from './chain-batch.js';
import type { Translation } from './translation.js';
import type { VirtqueueLog } from './virtqueue-log.js';

/**
 * The device's side of a virtqueue. `SplitDeviceVirtqueue` and `PackedDeviceVirtqueue` implement it; which one is
 * chosen once, by `startDeviceVirtqueue`, when the ring starts. It never signals anything itself.
 *
 * A defect of the driver latches `broken` and makes `drain` return 0 from then on; it never throws for guest input.
 */
export interface DeviceVirtqueue {
  readonly format: 'split' | 'packed';
  readonly index: number;
  readonly size: number;
  /** Whether chains in flight are tracked. */
  readonly tracked: boolean;
  /** Chains of a process before, taken over from the in-flight region and not drained yet. They come first. */
  readonly parked: number;
  /** Chains drained and not completed yet. Never above `size`. */
  readonly inFlight: number;
  /** Those of them that the device has not completed; fewer only while IN_ORDER holds completions back. */
  readonly withDevice: number;
  readonly broken: VirtqueueError | null;
  readonly counters: QueueCounters;

  /** A plain peek: may say false although something just arrived, never true for nothing. */
  hasAvailable(): boolean;
  /** Takes up to `max` chains into `batch` (from its start) and returns how many. */
  drain(batch: ChainBatch, max: number): number;
  /** Completes the batch's first `count` chains with their `written` and publishes them at once. */
  pushBatch(batch: ChainBatch, count: number): void;
  /** Completes one chain without publishing. Throws ERR_VIRTQ_HANDLE when it is not in flight. */
  complete(handle: number, written: number): void;
  /** Makes everything completed since the last publish visible to the driver. */
  publish(): void;
  /** Whether the driver wants a call for what was published since the last time this was asked. */
  needsCall(): boolean;
  /** Asks for kicks. Returns true when chains arrived meanwhile: drain again before sleeping. */
  enableNotifications(): boolean;
  disableNotifications(): void;

  /** Where the ring stands, for GET_VRING_BASE and saved state. Plain data. */
  state(): VirtqueueState;
  /** Points the queue at the same ring in a new memory map. The caller has seen to it that nothing is being drained. */
  rebind(memory: VirtqueueMemory, areas: VirtqueueAreas): void;
  /**
   * Begins, changes or ends (null) the logging of writes to guest memory, at any time. Chains that are in flight when it begins
   * are not logged; `covered` is told when the last of them that may write is completed, at once if there is none.
   */
  setLog(log: VirtqueueLog | null, covered?: () => void): void;
  /** Behind an IOMMU: translations came that the ring waited for. */
  translated(): void;
  /**
   * Behind an IOMMU: calls `done` as soon as no chain that is in flight now lies in one of these places, at once if none does.
   * With null wherever they lie.
   */
  whenUnused(places: readonly PlaceRange[] | null, done: () => void): void;
  /** Nobody will complete the chains in flight: whoever waits for their places waits no more. */
  abandonPlaces(): void;
  /** Latches `broken` from outside (memory lost, device failed). */
  break(error: VirtqueueError): void;
}

/** Plain counters, for tracing and metrics. */
export interface QueueCounters {
  chains: number;
  segments: number;
  completed: number;
  publishes: number;
  calls: number;
  kicks: number;
}

/** Position of a stopped ring. Cursors count ring slots; for a split ring they run freely over 16 bits. */
export type VirtqueueState =
  | { readonly format: 'split'; readonly nextAvailable: number; readonly nextUsed: number }
  | {
      readonly format: 'packed';
      readonly nextAvailable: number;
      readonly availableWrap: 0 | 1;
      readonly nextUsed: number;
      readonly usedWrap: 0 | 1;
    };

/** A place in mapped memory; see WindowTable. */
export interface MemoryPlace {
  readonly window: number;
  readonly offset: number;
}

/** The three areas of a ring, translated. `driver` is the available ring or driver event suppression, `device` the used ring or device event suppression. */
export interface VirtqueueAreas {
  readonly descriptor: MemoryPlace;
  readonly driver: MemoryPlace;
  readonly device: MemoryPlace;
}

/** What a queue needs of guest memory. `GuestMemory` (memory/guest-memory.ts) is one. */
export type VirtqueueMemory = import('../memory/guest-memory.js').GuestMemory;

/**
 * Where a queue keeps record of its chains in flight, so that another process can go on with them. The region is the
 * front-end's; what stands in it decides where the ring goes on, and which chains are given to the device once more.
 */
export interface VirtqueueInflight extends MemoryPlace {
  /** Entries that the queue's sub-region has room for; at least the ring's size. */
  readonly capacity: number;
  /** The mapping it lies in, which outlives the queue's use. */
  readonly mapping: Mapping;
}

/** Everything that fixes a device-side queue when its ring starts. */
export interface VirtqueueConfiguration {
  readonly index: number;
  readonly size: number;
  readonly format: 'split' | 'packed';
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  /**
   * Longest chain through an indirect table, where the device's own limits invite drivers to chains above the ring's
   * size; the ring's size when absent or smaller. See `VirtioDevice.maxChainLength`.
   */
  readonly chainLimit?: number;
  readonly inOrder: boolean;
  readonly areas: VirtqueueAreas;
  readonly memory: VirtqueueMemory;
  /** Behind an IOMMU: what descriptors' addresses mean. They are guest addresses in `memory` when absent. */
  readonly translation?: Translation;
  /** Where the front-end says the ring stands. A region that knows better goes before it. */
  readonly state: VirtqueueState;
  /** Absent: chains in flight are not tracked. */
  readonly inflight?: VirtqueueInflight;
}
