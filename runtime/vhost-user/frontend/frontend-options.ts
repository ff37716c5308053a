import type { VhostUserError } from '../../errors.js';
import type { SharedMemory } from '../../memory/shared-memory.js';
import type { Platform } from '../../platform/platform.js';
import type { BackendRequestMap } from './backend-requests.js';
import type { FeatureFilter } from './feature-filter.js';
import type { Frontend } from './frontend.js';
import type { HostNotifierHandler } from './host-notifiers.js';
import type { FrontendIommu } from './iommu.js';
import type { MessageOrder } from './negotiation.js';
import type { SharedObjectRegistry } from './shared-objects.js';
import type { ShmemHandler } from './shmem-table.js';

export interface FrontendOptions {
  readonly platform: Platform;
  /** What is shared with the back-end. Stays the caller's, and outlives the front-end. */
  readonly memory: SharedMemory;
  readonly features: FeatureFilter;
  /** How many rings there will be; 1 when absent. A back-end that serves fewer gets what it serves. */
  readonly queues?: number;
  /**
   * How many rings one of the back-end's queues stands for at most; 1 when absent. Back-ends of network devices count pairs
   * in GET_QUEUE_NUM (DPDK, as QEMU expects) or rings: 2 lets both pass.
   */
  readonly ringsPerQueue?: number;
  readonly order?: MessageOrder;
  /** Serves the back-end's requests; those that are missing are served or refused by the front-end itself. */
  readonly handlers?: BackendRequestMap<Frontend>;
  /** Notify by messages instead of eventfds where the back-end can (INBAND_NOTIFICATIONS). */
  readonly inbandNotifications?: boolean;
  /** Call memory by guest addresses in every message, also where front-ends use their own (GPA_ADDRESSES), if the back-end can. */
  readonly gpaAddresses?: boolean;
  /** Take places where the driver may notify rings directly (HOST_NOTIFIER); told of each. */
  readonly hostNotifiers?: HostNotifierHandler;
  /** Serve the device's shared memory regions (SHMEM); told of each mapping. */
  readonly shmem?: ShmemHandler;
  /** Where the back-end exports objects and looks for those of others (SHARED_OBJECT). */
  readonly sharedObjects?: SharedObjectRegistry;
  /** What addresses mean to the device where ACCESS_PLATFORM is negotiated; guest addresses when absent. */
  readonly iommu?: FrontendIommu;
  /** Give the back-end no kick fds: it polls. */
  readonly withoutKick?: boolean;
  /** Give it no call fds: the driver polls. */
  readonly withoutCall?: boolean;
  /** Share memory as one table even where the back-end takes regions one by one. */
  readonly memoryTable?: boolean;
  /** Bounds the replay to a new back-end after the one before is gone; unbounded when absent. */
  readonly restoreSignal?: () => AbortSignal;
}

export interface ConnectOptions extends FrontendOptions {
  readonly path: string;
  /** Bounds everything until the back-end is ready. */
  readonly signal?: AbortSignal;
}

export interface FrontendEvents {
  /** BACKEND_CONFIG_CHANGE_MSG: read the configuration space again. */
  configurationChanged: [];
  /** The back-end is gone; the front-end waits for another. */
  disconnected: [reason: VhostUserError];
  /** Another back-end has been told everything, and every ring was kicked. */
  reconnected: [];
  /** Something failed that nobody waits for: a request of the back-end was refused, or its channel ended. */
  trouble: [error: VhostUserError];
}
