import { VhostError } from '../../../errors.js';
import { ConfigSpaceFlag } from '../../../../generated/vhost-user/payloads.js';
import type { Handlers } from './handler-map.js';

/** Where the space begins among the registers of a device on virtio over MMIO (virtio 1.4, 4.2.2). */
const REGISTERS_END = 0x100;

/**
 * Where a piece lies in a space of `size` bytes. Cloud-hypervisor before 2026 counts from the beginning of the registers, which
 * nobody notices whose back-end ignores the offset (libvhost-user, SPDK): so what lies beyond the space is looked for there.
 */
function placeIn(size: number, offset: number): number {
  return offset > size && offset >= REGISTERS_END ? offset - REGISTERS_END : offset;
}

/** The configuration space, and the channel that tells of its changes. */
export const configHandlers: Handlers<'getConfig' | 'setConfig' | 'setBackendReqFd'> = {
  // Readers ask for more than there is (256 bytes, whatever the device): the rest reads as zero, as it does over PCI.
  // A piece that begins beyond the space has no answer.
  getConfig: (session, { offset, flags, payload }) => {
    const { config } = session.device;
    const place = placeIn(config?.size ?? 0, offset);
    if (config === undefined || place > config.size) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `offset ${offset} lies beyond a space of ${config?.size ?? 0} bytes`,
      );
    }
    const bytes = new Uint8Array(payload.byteLength);
    bytes.set(config.read().subarray(place, Math.min(config.size, place + bytes.byteLength)));
    return { offset, flags, payload: bytes };
  },

  setConfig: (session, { offset, flags, payload }) => {
    const { config } = session.device;
    const size = config?.size ?? 0;
    const place = placeIn(size, offset);
    if (place + payload.byteLength > size) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `bytes ${offset} to ${offset + payload.byteLength} do not lie in a configuration space of ${size}`,
      );
    }
    if (config?.write?.(place, payload, flags === ConfigSpaceFlag.migration) !== true) {
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
