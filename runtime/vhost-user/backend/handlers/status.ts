import { VhostError } from '../../../errors.js';
import { VirtioFeature } from '../../../../generated/virtio/features.js';
import { DeviceStatus } from '../../../../generated/virtio/status.js';
import type { Handlers } from './handler-map.js';

/** The device's life as the driver sees it. */
export const statusHandlers: Handlers<'resetDevice' | 'setStatus' | 'getStatus'> = {
  resetDevice: (session) => session.reset(),

  setStatus: (session, status) => {
    if (status > 0xffn) {
      throw new VhostError('ERR_VHOST_PAYLOAD', `expected a status of 8 bits, got 0x${status.toString(16)}`);
    }
    if (status === 0n) return session.reset();
    // FEATURES_OK needs no second look: SET_FEATURES has refused what was not offered.
    const { failed, suspend } = DeviceStatus;
    if ((Number(status) & failed & ~session.status) !== 0) session.log('warn', 'the driver has given up');
    // A driver that suspends (virtio 1.4) reads the bit back to see whether it is: without the feature it never is.
    const ignored = session.features.has(VirtioFeature.suspend) ? 0 : suspend;
    session.status = Number(status) & ~ignored;
    return undefined;
  },

  getStatus: (session) => BigInt(session.status),
};
