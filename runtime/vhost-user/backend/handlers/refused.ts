import { VhostError } from '../../../errors.js';
import type { Handlers } from './handler-map.js';

function refuse(why: string): () => never {
  return () => {
    throw new VhostError('ERR_VHOST_REFUSED', why);
  };
}

const NOT_OFFERED = 'its feature is not offered by this back-end';

/** Requests that this back-end does not serve; PROTOCOL.md says why of each. */
export const refusedHandlers: Handlers<
  'setVringEndian' | 'createCryptoSession' | 'closeCryptoSession' | 'gpuSetSocket'
> = {
  // No bit gates it: a front-end that knows what the device is does not send it.
  gpuSetSocket: refuse('the device is not a GPU'),

  setVringEndian: refuse('the rings of VERSION_1 devices are little-endian'),
  createCryptoSession: refuse(NOT_OFFERED),
  closeCryptoSession: refuse(NOT_OFFERED),
};
