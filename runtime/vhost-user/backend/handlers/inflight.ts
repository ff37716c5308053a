import type { Handlers } from './handler-map.js';

/** Tracking of chains in flight, by which a back-end that was killed can be replaced. */
export const inflightHandlers: Handlers<'getInflightFd' | 'setInflightFd' | 'getVringBaseSkipDrain'> = {
  getInflightFd: (session, wanted, fds) =>
    session.whenStopped('in-flight memory', () => {
      const { fd, description } = session.inflight.create(wanted, session.inflightShape);
      fds.attach(fd);
      return description;
    }),

  setInflightFd: (session, description, fds) =>
    session.whenStopped('in-flight memory', () => {
      using fd = fds.take()!;
      session.inflight.set(description, fd, session.inflightShape);
    }),

  getVringBaseSkipDrain: async (session, { index }) => {
    const num = await session.vring(index).park();
    session.ringStopped();
    return { index, num };
  },
};
