import type { ChainBatch } from '../virtqueue/chain-batch.js';
import type { QueueCounters } from '../virtqueue/device-virtqueue.js';

/**
 * A running queue as its device sees it. The batch methods (`drain`, `pushBatch`, `complete`) are the fast form;
 * `DescriptorChain` (chain.ts) stands on them. Nothing here signals until `commit`.
 */
export interface DeviceQueue {
  readonly index: number;
  readonly size: number;
  /** Negotiated feature bits. */
  readonly features: bigint;
  /** Views of guest memory, indexed by a segment's window. */
  readonly u8: readonly Uint8Array[];
  readonly u32: readonly Uint32Array[];
  readonly inFlight: number;
  /** False while the driver has the queue disabled: it gives no chains then. */
  readonly enabled: boolean;
  readonly counters: QueueCounters;

  /** Takes up to `max` chains into `batch`; 0 when there are none, the queue is stopping, or it broke. */
  drain(batch: ChainBatch, max: number): number;
  /** Completes the first `count` chains of the batch with their `written`. */
  pushBatch(batch: ChainBatch, count: number): void;
  /** Completes one chain, now or at any later time. Throws ERR_VIRTQ_HANDLE when it is not in flight. */
  complete(handle: number, written: number): void;
  /**
   * Publishes what was completed and calls the driver if it wants to know. Done by the host after `serveQueue`; call it after
   * completing from a callback.
   */
  commit(): void;
  /** Has `serveQueue` called again soon: the device can take chains again, or has data to give. */
  resume(): void;
  /**
   * The device cannot go on with this queue: it is latched as broken and reported, others go on. The device still completes
   * the chains it holds (with 0), which tells that it uses their memory no more; the driver sees nothing of it.
   */
  fail(cause: unknown): void;
}
