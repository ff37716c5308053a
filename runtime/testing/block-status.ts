import { DeviceError } from '../errors.js';
import { BlkStatus } from '../../generated/virtio/devices/blk/layouts.js';

/** The error for a status byte other than OK; -1 stands for none at all. */
export function statusError(request: string, status: number): DeviceError {
  const name = Object.entries(BlkStatus).find(([, value]) => value === status)?.[0] ?? 'no known status';
  return new DeviceError(
    'ERR_DEVICE_REQUEST',
    status < 0 ? `${request}: came back without a status` : `${request}: ${name.toUpperCase()} (${status})`,
  );
}
