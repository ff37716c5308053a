import type { Handlers } from './handler-map.js';

/** The guest runs before its memory has arrived. The tables of the meantime are `setMemTable`'s. */
export const postcopyHandlers: Handlers<'postcopyAdvise' | 'postcopyListen' | 'postcopyEnd'> = {
  postcopyAdvise: (session, _, fds) => fds.attach(session.postcopy.advise()),

  postcopyListen: (session) => {
    session.postcopy.listen();
    session.log('info', 'postcopy: the guest runs while its memory arrives');
  },

  postcopyEnd: (session) => {
    session.postcopy.end();
    session.log('info', 'postcopy has ended: all memory is there');
    return 0n;
  },
};
