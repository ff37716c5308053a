import type { Handlers } from './handler-map.js';

/** Kicks as messages; what goes the other way is sent by OutgoingRequests. */
export const inbandHandlers: Handlers<'vringKick'> = {
  vringKick: (session, { index }) => {
    session.vring(index).kickInband();
    session.tellChanges();
  },
};
