import type { WindowTable } from '../platform/platform.js';
import type { DriverVirtqueue, DriverVirtqueueConfiguration } from './driver-virtqueue.js';
import { PackedDriverVirtqueue } from './packed/driver.js';
import { SplitDriverVirtqueue } from './split/driver.js';

/**
 * Initialises a ring's areas and makes the driver's queue for it, by the format in `configuration`.
 * Throws VirtqueueError (ERR_VIRTQ_CONFIGURATION) for a size, place or state that the format does not allow.
 */
export function startDriverVirtqueue(
  configuration: DriverVirtqueueConfiguration,
  windows: WindowTable,
): DriverVirtqueue {
  return configuration.format === 'packed'
    ? new PackedDriverVirtqueue(configuration, windows)
    : new SplitDriverVirtqueue(configuration, windows);
}
