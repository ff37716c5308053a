import { VhostError } from '../../../errors.js';
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
    session.status = Number(status);
    return undefined;
  },

  getStatus: (session) => BigInt(session.status),
};
