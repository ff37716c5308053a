import { VhostError } from '../../../errors.js';
import { VringFdFlag, VRING_FD_INDEX_MASK } from '../../../../generated/vhost-user/payloads.js';
import type { FdKind } from '../../../platform/platform.js';
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
  setVringNum: (session, { index, num }) => describe(session, index, (vring) => vring.setSize(num)),
  setVringAddr: (session, address) => session.vring(address.index).setAddresses(address),
  setVringBase: (session, { index, num }) => describe(session, index, (vring) => vring.setBase(num)),

  getVringBase: async (session, { index }) => {
    const num = await session.vring(index).stop();
    session.ringStopped();
    return { index, num };
  },

  setVringKick: (session, payload, fds) => {
    const vring = vringOf(session, payload);
    vring.setKick(takeFd(session, fds, 'kick', WATCHED));
    session.tellChanges();
  },
  setVringCall: (session, payload, fds) =>
    vringOf(session, payload).setCall(takeFd(session, fds, 'call', SIGNALLED)),
  setVringErr: (session, payload, fds) =>
    vringOf(session, payload).setErr(takeFd(session, fds, 'err', SIGNALLED)),

  setVringEnable: (session, { index, num }) => {
    if (num > 1) throw new VhostError('ERR_VHOST_PAYLOAD', `ring ${index}: expected 0 or 1, got ${num}`);
    const vring = session.vring(index);
    vring.setEnabled(num === 1);
    // Nothing in the text says so, but there are front-ends that pause a device by this alone, and then take their guest's memory
    // away as it is (cloud-hypervisor).
    return (vring.host?.inFlight ?? 0) > 0 && num === 0 ? vring.idle() : undefined;
  },
};

/**
 * A live ring keeps its size and its place, unless it is disabled: there are front-ends that never send GET_VRING_BASE, and
 * describe their rings anew after they have disabled them (user mode Linux, cloud-hypervisor until 2022). That stops the ring.
 */
function describe(
  session: BackendSession,
  index: number,
  change: (vring: Vring) => void,
): void | Promise<void> {
  const vring = session.vring(index);
  if (vring.host === null || vring.enabled) return change(vring);
  return session.whenAbandoned([vring], () => change(vring));
}

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

const WATCHED: readonly FdKind[] = ['eventfd'];
/** User mode Linux hands over a socket, since it cannot wait for an eventfd: 8 bytes a signal, as an eventfd takes them. */
const SIGNALLED: readonly FdKind[] = ['eventfd', 'socket', 'pipe'];

function takeFd(
  session: BackendSession,
  fds: FdBundle,
  role: string,
  kinds: readonly FdKind[],
): OwnedFd | null {
  const fd = fds.take();
  if (fd === null) return null;
  const kind = session.platform.fdKind(fd.fd);
  if (kinds.includes(kind)) return fd;
  fd.close();
  throw new VhostError(
    'ERR_VHOST_FDS',
    `expected ${kinds.length === 1 ? 'an eventfd' : 'an eventfd, a socket or a pipe'} as ${role} fd, got a ${kind}`,
  );
}
