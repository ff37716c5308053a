import { VhostError } from '../../../errors.js';
import type { MemoryTable } from '../../../../generated/vhost-user/payloads.js';
import type { RegionDescription } from '../../../memory/guest-memory.js';
import { ProtocolFeature } from '../../../../generated/vhost-user/protocol-features.js';
import type { BackendSession } from '../session.js';
import type { Handlers } from './handler-map.js';

/** The front-end's memory. A change that fails leaves the memory as it was. */
export const memoryHandlers: Handlers<'setMemTable' | 'getMaxMemSlots' | 'addMemReg' | 'remMemReg'> = {
  setMemTable: (session, { regions }, fds) => {
    const table = regions.map((region) => ({ description: described(session, region), fd: fds.take()! }));
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
    session.memory.add(described(session, region), fd);
    session.memoryChanged();
  },

  remMemReg: (session, { region }) => {
    session.memory.remove(described(session, region));
    session.memoryChanged();
  },
};

/**
 * With GPA_ADDRESSES the front-end calls memory by guest addresses where it uses its own else, as in ring addresses. A region
 * is found by either, so it is enough that both are one.
 */
function described({ features }: BackendSession, region: RegionDescription): RegionDescription {
  if (!features.hasProtocol(ProtocolFeature.gpaAddresses)) return region;
  return { ...region, userAddress: region.guestAddress };
}
