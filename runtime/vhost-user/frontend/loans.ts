import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import type { FrontendOptions } from './frontend-options.js';
import { HostNotifierTable } from './host-notifiers.js';
import { type SharedObjectOwner, type SharedObjectRegistry } from './shared-objects.js';
import { ShmemTable } from './shmem-table.js';

/** What a back-end has lent to the driver or to other back-ends, as far as the front-end's options ask for it. */
export class BackendLoans {
  readonly notifiers: HostNotifierTable | null;
  readonly shmem: ShmemTable | null;
  readonly objects: SharedObjectRegistry | null;

  constructor({ hostNotifiers, shmem, sharedObjects }: FrontendOptions) {
    this.notifiers = hostNotifiers === undefined ? null : new HostNotifierTable(hostNotifiers);
    this.shmem = shmem === undefined ? null : new ShmemTable(shmem);
    this.objects = sharedObjects ?? null;
  }

  /** Protocol features that take it all; what they need comes with them. */
  get protocol(): bigint {
    const { hostNotifier, shmem, sharedObject } = ProtocolFeature;
    return (
      (this.notifiers === null ? 0n : hostNotifier) |
      (this.shmem === null ? 0n : shmem) |
      (this.objects === null ? 0n : sharedObject)
    );
  }

  /** The device was reset: what it had mapped is unmapped. */
  reset(): void {
    this.notifiers?.clear();
    this.shmem?.clear();
  }

  /** The back-end is gone, with everything. */
  clear(owner: SharedObjectOwner): void {
    this.reset();
    this.objects?.removeAll(owner);
  }
}
