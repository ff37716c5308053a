import { VhostError } from '../../../errors.js';
import type { MemoryTable } from '../../../../generated/vhost-user/payloads.js';
import type { Handlers } from './handler-map.js';

/** The front-end's memory. A change that fails leaves the memory as it was. */
export const memoryHandlers: Handlers<'setMemTable' | 'getMaxMemSlots' | 'addMemReg' | 'remMemReg'> = {
  setMemTable: (session, { regions }, fds) => {
    const table = regions.map((description) => ({ description, fd: fds.take()! }));
    let answer: MemoryTable | undefined;
    try {
      if (session.postcopy.listening) answer = session.postcopy.setTable(table);
      else session.memory.replace(table);
    } finally {
      for (const { fd } of table) fd.close();
    }
    if (answer === undefined) session.memoryChanged();
    return answer;
  },

  getMaxMemSlots: (session) => BigInt(session.memory.limit),

  addMemReg: (session, { region }, fds) => {
    using fd = fds.take();
    if (fd === null)
      throw new VhostError('ERR_VHOST_FDS', 'expected the file descriptor of the region, got none');
    session.memory.add(region, fd);
    session.memoryChanged();
  },

  remMemReg: (session, { region }) => {
    session.memory.remove(region);
    session.memoryChanged();
  },
};
