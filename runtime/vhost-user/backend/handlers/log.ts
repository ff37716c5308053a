import { VhostError } from '../../../errors.js';
import type { Handlers } from './handler-map.js';

/** The log of writes to guest memory, for a live migration. */
export const logHandlers: Handlers<'setLogBase' | 'setLogFd'> = {
  // The text says that a reply is due with LOG_SHMFD but not what it holds. QEMU looks at neither its size nor its value;
  // libvhost-user's u64 is what a front-end that asks for an acknowledgement can read as one.
  setLogBase: (session, region, fds) => {
    using fd = fds.take();
    if (fd === null) {
      throw new VhostError('ERR_VHOST_FDS', 'expected the file descriptor of the dirty log, got none');
    }
    session.dirtyLogging.setBase(fd, region);
    return 0n;
  },

  setLogFd: (session, _, fds) => {
    const fd = fds.take()!;
    const kind = session.platform.fdKind(fd.fd);
    if (kind !== 'eventfd') {
      fd.close();
      throw new VhostError('ERR_VHOST_FDS', `expected an eventfd as log fd, got a ${kind}`);
    }
    session.dirtyLogging.setNotify(fd);
  },
};
