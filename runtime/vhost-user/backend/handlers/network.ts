import { VhostError } from '../../../errors.js';
import type { Handlers } from './handler-map.js';

const MAC_BYTES = 6;

/** What front-ends ask of network devices alone. Any number of times: QEMU repeats its announcement after a migration. */
export const networkHandlers: Handlers<'sendRarp' | 'netSetMtu'> = {
  // The first six bytes of the payload, in the order in which they lie there, are the address.
  sendRarp: ({ device }, payload) => {
    if (device.announce === undefined) {
      throw new VhostError('ERR_VHOST_REFUSED', 'the device has nothing to announce');
    }
    const bytes = new Uint8Array(BigUint64Array.of(payload).buffer, 0, MAC_BYTES);
    if ((bytes[0]! & 1) !== 0 || bytes.every((byte) => byte === 0)) {
      const text = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
      throw new VhostError('ERR_VHOST_PAYLOAD', `expected the address of one network card, got ${text}`);
    }
    device.announce(bytes);
  },

  netSetMtu: ({ device }, mtu) => {
    if (device.setMtu === undefined) throw new VhostError('ERR_VHOST_REFUSED', 'the device has no MTU');
    if (mtu > 0xffffn || !device.setMtu(Number(mtu))) {
      throw new VhostError('ERR_VHOST_PAYLOAD', `the device cannot have an MTU of ${mtu}`);
    }
  },
};
