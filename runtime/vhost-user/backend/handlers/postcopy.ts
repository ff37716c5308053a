import type { Handlers } from './handler-map.js';

/** The guest runs before its memory has arrived. The tables of the meantime are `setMemTable`'s. */
export const postcopyHandlers: Handlers<'postcopyAdvise' | 'postcopyListen' | 'postcopyEnd'> = {
  postcopyAdvise: (session, _, fds) => fds.attach(session.postcopy.advise()),

  postcopyListen: (session) => session.postcopy.listen(),

  postcopyEnd: (session) => {
    session.postcopy.end();
    return 0n;
  },
};
