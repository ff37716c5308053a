import type { QueueScheduler } from '../device/queue-scheduler.js';
import type { VirtqueueError } from '../errors.js';
import type { DirtyWriter } from '../memory/dirty-log.js';
import type { Leftovers } from './backend/leftovers.js';
import type { SessionIommu } from './iommu.js';
import type { MemorySlots } from './memory-slots.js';
import type { Vring } from './vring.js';
import type { VirtqueueContext } from './vring-virtqueue.js';
import type { VringSignalsContext } from './vring-signals.js';

/** What a ring needs of its session. */
export interface VringContext extends VirtqueueContext, VringSignalsContext {
  /** Largest ring, whatever the device takes. */
  readonly maxSize: number;
  readonly loop: QueueScheduler;
  readonly memory: MemorySlots;
  readonly iommu: SessionIommu;
  /** Where writes are marked while LOG_ALL is accepted. */
  readonly dirtyLogging: DirtyWriter;
  /** Chains that outlive their rings. */
  readonly leftovers: Leftovers;
  /** The ring broke; its err fd was signalled already. */
  readonly onBroken: (vring: Vring, error: VirtqueueError) => void;
  readonly onTurn: () => void;
}
