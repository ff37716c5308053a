import { VhostError } from '../../../errors.js';
import { VringFdFlag, VRING_FD_INDEX_MASK } from '../../../../generated/vhost-user/payloads.js';
import type { FdBundle, OwnedFd } from '../../fd-bundle.js';
import type { Vring } from '../../vring.js';
import type { BackendSession } from '../session.js';
import type { Handlers } from './handler-map.js';

/** The parts of a ring, its start and its stop. */
export const vringHandlers: Handlers<
  | 'setVringNum'
  | 'setVringAddr'
  | 'setVringBase'
  | 'getVringBase'
  | 'setVringKick'
  | 'setVringCall'
  | 'setVringErr'
  | 'setVringEnable'
> = {
  setVringNum: (session, { index, num }) => session.vring(index).setSize(num),
  setVringAddr: (session, address) => session.vring(address.index).setAddresses(address),
  setVringBase: (session, { index, num }) => session.vring(index).setBase(num),

  getVringBase: async (session, { index }) => {
    const num = await session.vring(index).stop();
    session.ringStopped();
    return { index, num };
  },

  setVringKick: (session, payload, fds) => {
    const vring = vringOf(session, payload);
    vring.setKick(takeEventFd(session, fds, 'kick'));
    session.tellChanges();
  },
  setVringCall: (session, payload, fds) =>
    vringOf(session, payload).setCall(takeEventFd(session, fds, 'call')),
  setVringErr: (session, payload, fds) => vringOf(session, payload).setErr(takeEventFd(session, fds, 'err')),

  setVringEnable: (session, { index, num }) => {
    if (num > 1) throw new VhostError('ERR_VHOST_PAYLOAD', `ring ${index}: expected 0 or 1, got ${num}`);
    session.vring(index).setEnabled(num === 1);
  },
};

/** The payload's low eight bits name the ring; bit 8 tells of the fd, and the request's row has looked at it. */
function vringOf(session: BackendSession, payload: bigint): Vring {
  const index = payload & BigInt(VRING_FD_INDEX_MASK);
  const rest = payload & ~(BigInt(VRING_FD_INDEX_MASK) | BigInt(VringFdFlag.noFd));
  if (rest !== 0n) {
    throw new VhostError(
      'ERR_VHOST_PAYLOAD',
      `expected a ring index below 256 and bit 8, got 0x${payload.toString(16)}`,
    );
  }
  return session.vring(Number(index));
}

function takeEventFd(session: BackendSession, fds: FdBundle, role: string): OwnedFd | null {
  const fd = fds.take();
  if (fd === null) return null;
  const kind = session.platform.fdKind(fd.fd);
  if (kind === 'eventfd') return fd;
  fd.close();
  throw new VhostError('ERR_VHOST_FDS', `expected an eventfd as ${role} fd, got a ${kind}`);
}
