import { VhostError } from '../../../errors.js';
import { ConfigSpaceFlag } from '../../../../generated/vhost-user/payloads.js';
import type { Handlers } from './handler-map.js';

/** The configuration space, and the channel that tells of its changes. */
export const configHandlers: Handlers<'getConfig' | 'setConfig' | 'setBackendReqFd'> = {
  // Readers ask for more than there is (256 bytes, whatever the device): the rest reads as zero, as it does over PCI.
  // A piece that begins beyond the space has no answer.
  getConfig: (session, { offset, flags, payload }) => {
    const { config } = session.device;
    if (config === undefined || offset > config.size) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `offset ${offset} lies beyond a space of ${config?.size ?? 0} bytes`,
      );
    }
    const bytes = new Uint8Array(payload.byteLength);
    bytes.set(config.read().subarray(offset, Math.min(config.size, offset + bytes.byteLength)));
    return { offset, flags, payload: bytes };
  },

  setConfig: (session, { offset, flags, payload }) => {
    const { config } = session.device;
    const size = config?.size ?? 0;
    if (offset + payload.byteLength > size) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `bytes ${offset} to ${offset + payload.byteLength} do not lie in a configuration space of ${size}`,
      );
    }
    if (config?.write?.(offset, payload, flags === ConfigSpaceFlag.migration) !== true) {
      throw new VhostError('ERR_VHOST_REFUSED', `the device has no writable field at ${offset}`);
    }
  },

  setBackendReqFd: (session, _, fds) => {
    using fd = fds.take()!;
    const kind = session.platform.fdKind(fd.fd);
    if (kind !== 'socket') throw new VhostError('ERR_VHOST_FDS', `expected a socket, got a ${kind}`);
    session.outgoing.open(fd);
    session.iommu.channelOpened();
  },
};
