import { randomFillSync } from 'node:crypto';
import { DeviceId } from '../../../generated/virtio/device-ids.js';
import { ChainDevice, type DescriptorChain } from '../../device/index.js';

/** A source of randomness for the guest (virtio device type 4): fills every buffer it is given. */
export class EntropyDevice extends ChainDevice {
  readonly deviceId = DeviceId.entropy;
  readonly limit: number;

  /** `limit`: bytes given for one buffer at most. A driver may ask for 4 GiB, and takes what it gets. */
  constructor({ limit = 65536 } = {}) {
    super();
    this.limit = limit;
  }

  handleChain(chain: DescriptorChain): void {
    for (const span of chain.writable.spans(this.limit)) randomFillSync(span);
  }
}
