import { VhostError, VhostUserError } from '../../../errors.js';
import type { BackendSession } from '../session.js';
import type { Handlers } from './handler-map.js';

/** In the reply to SET_DEVICE_STATE_FD: no fd comes with it, the front-end's is used. */
const NO_FD = 0x100n;
const FAILURE = 1n;

/** The device's state, for a migration. These two say in their replies that they failed, whoever asks. */
export const deviceStateHandlers: Handlers<'setDeviceStateFd' | 'checkDeviceState'> = {
  setDeviceStateFd: (session, { direction, phase }, fds) => {
    using fd = fds.take()!;
    try {
      session.deviceState.begin(direction, phase, fd);
      return NO_FD;
    } catch (error) {
      refused(session, 'VHOST_USER_SET_DEVICE_STATE_FD', error);
      return NO_FD | FAILURE;
    }
  },

  checkDeviceState: async (session) => {
    try {
      await session.deviceState.check();
      return 0n;
    } catch (error) {
      refused(session, 'VHOST_USER_CHECK_DEVICE_STATE', error);
      return FAILURE;
    }
  },
};

/** Anything but our own errors is a defect of this program. */
function refused(session: BackendSession, request: string, error: unknown): void {
  if (!(error instanceof VhostUserError)) throw error;
  const named = new VhostError('ERR_VHOST_REFUSED', error.message, { request, cause: error });
  session.log('warn', named.message, { code: error.code, error });
}
