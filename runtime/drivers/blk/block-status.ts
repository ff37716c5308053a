import { DeviceError } from '../../errors.js';
import { BlkStatus } from '../../../generated/virtio/devices/blk/layouts.js';

/** The error for a status byte other than OK; 0xff stands where the device wrote none. */
export function statusError(request: string, status: number): DeviceError {
  const name = Object.entries(BlkStatus).find(([, value]) => value === status)?.[0] ?? 'no known status';
  return new DeviceError(
    'ERR_DEVICE_REQUEST',
    status === 0xff
      ? `${request}: came back without a status`
      : `${request}: ${name.toUpperCase()} (${status})`,
  );
}

/** The error for a used length that does not fit the request. */
export function lengthError(request: string, written: number, expected: number): DeviceError {
  return new DeviceError('ERR_DEVICE_REQUEST', `${request}: ${written} bytes written, expected ${expected}`);
}
