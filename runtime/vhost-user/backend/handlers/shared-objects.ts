import { VhostError } from '../../../errors.js';
import { OwnedFd } from '../../fd-bundle.js';
import { shmemConfig } from '../frontend-services.js';
import type { Handlers } from './handler-map.js';

/** What the device shares: objects by UUID, and regions of memory that it maps files into. */
export const sharedObjectHandlers: Handlers<'getSharedObject' | 'getShmemConfig'> = {
  // An object that there is none of is answered too, without an fd.
  getSharedObject: ({ device, platform }, { uuid }, fds) => {
    const fd = device.sharedObject?.(uuid) ?? null;
    if (fd !== null) fds.attach(new OwnedFd(platform, platform.duplicateFd(fd)));
  },

  getShmemConfig: ({ device }) => {
    if (device.sharedMemory === undefined) {
      throw new VhostError('ERR_VHOST_REFUSED', 'the device has no shared memory regions');
    }
    return shmemConfig(device.sharedMemory);
  },
};
