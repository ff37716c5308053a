import { VhostError } from '../../../errors.js';
import { ProtocolFeature } from '../../../../generated/vhost-user/protocol-features.js';
import type { Handlers } from './handler-map.js';

/** What each side can do, and who owns the session. */
export const featureHandlers: Handlers<
  | 'getFeatures'
  | 'setFeatures'
  | 'getProtocolFeatures'
  | 'setProtocolFeatures'
  | 'getQueueNum'
  | 'setOwner'
  | 'resetOwner'
> = {
  getFeatures: (session) => session.features.offered,
  setFeatures: (session, word) => session.setFeatures(word),
  getProtocolFeatures: (session) => session.features.offeredProtocol,
  setProtocolFeatures: (session, word) => {
    const { features, memory } = session;
    if (
      ((word ^ features.acceptedProtocol) & ProtocolFeature.gpaAddresses) !== 0n &&
      memory.current !== null
    ) {
      throw new VhostError('ERR_VHOST_STATE', 'GPA_ADDRESSES cannot change while there is memory');
    }
    try {
      features.acceptProtocol(word);
    } catch (error) {
      // "Otherwise the back-end must close the connection": a front-end whose kicks would go nowhere.
      if ((word & ProtocolFeature.inbandNotifications) !== 0n) session.end(error as VhostError);
      throw error;
    }
  },
  getQueueNum: (session) => BigInt(session.queueCount),

  // The connection is the ownership.
  setOwner: () => undefined,

  // Deprecated: "some back-ends interpreted it to also disable all rings". Others ignore it; both are allowed.
  resetOwner: (session) => session.disableRings(),
};
