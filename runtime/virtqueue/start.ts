import type { WindowTable } from '../platform/platform.js';
import type { DeviceVirtqueue, VirtqueueConfiguration, VirtqueueState } from './device-virtqueue.js';
import { MAX_VIRTQUEUE_SIZE } from '../../generated/virtio/split-virtqueue.js';
import { VirtqueueError } from '../errors.js';
import { PackedDeviceVirtqueue } from './packed/device.js';
import { SplitDeviceVirtqueue } from './split/device.js';

/** virtio 1.4, 2.7 and 2.8.10.1: the largest ring of either format. */
export const VIRTQUEUE_SIZE_MAX = MAX_VIRTQUEUE_SIZE;

/**
 * Starts the device's side of a ring where `configuration.state` says it stands. Reads and writes nothing of it yet.
 * Throws VirtqueueError (ERR_VIRTQ_CONFIGURATION) when size, state, alignment or place of the ring are not valid.
 */
export function startDeviceVirtqueue(
  configuration: VirtqueueConfiguration,
  windows: WindowTable,
): DeviceVirtqueue {
  const { index, format, state } = configuration;
  checkSize(configuration);
  checkChainLimit(configuration);
  checkState(configuration);
  if (format === 'split' && state.format === 'split') {
    return new SplitDeviceVirtqueue(configuration, state, windows);
  }
  if (format === 'packed' && state.format === 'packed') {
    return new PackedDeviceVirtqueue(configuration, state, windows);
  }
  throw new VirtqueueError(
    'ERR_VIRTQ_CONFIGURATION',
    index,
    `the state of a ${state.format} ring cannot start a ${format} one`,
  );
}

/** Where a ring stands that was never used: at its start, both wrap counters 1. */
export function initialVirtqueueState(format: 'split' | 'packed'): VirtqueueState {
  return format === 'split'
    ? { format, nextAvailable: 0, nextUsed: 0 }
    : { format, nextAvailable: 0, availableWrap: 1, nextUsed: 0, usedWrap: 1 };
}

function checkSize({ index, size, format }: VirtqueueConfiguration): void {
  const inRange = Number.isInteger(size) && size >= 1 && size <= VIRTQUEUE_SIZE_MAX;
  if (inRange && (format === 'packed' || (size & (size - 1)) === 0)) return;
  const expected =
    format === 'split' ? `a power of two up to ${VIRTQUEUE_SIZE_MAX}` : `1 to ${VIRTQUEUE_SIZE_MAX}`;
  throw new VirtqueueError(
    'ERR_VIRTQ_CONFIGURATION',
    index,
    `size of a ${format} ring must be ${expected}, is ${size}`,
  );
}

/** Far above what any device type's limits come to; keeps the loops' arithmetic in 32 bits. */
const CHAIN_LIMIT_MAX = 0x10_0000;

function checkChainLimit({ index, chainLimit = 0 }: VirtqueueConfiguration): void {
  if (Number.isInteger(chainLimit) && chainLimit >= 0 && chainLimit <= CHAIN_LIMIT_MAX) return;
  throw new VirtqueueError(
    'ERR_VIRTQ_CONFIGURATION',
    index,
    `longest chain must be at most ${CHAIN_LIMIT_MAX} buffers, is ${chainLimit}`,
  );
}

function checkState({ index, size, state }: VirtqueueConfiguration): void {
  // A split ring's indexes run freely over 16 bits, a packed ring's cursors name slots.
  const end = state.format === 'split' ? 0x1_0000 : size;
  checkCursor(index, 'next available', state.nextAvailable, end);
  checkCursor(index, 'next used', state.nextUsed, end);
  if (state.format !== 'packed') return;
  checkCursor(index, 'available wrap counter', state.availableWrap, 2);
  checkCursor(index, 'used wrap counter', state.usedWrap, 2);
}

function checkCursor(queue: number, name: string, value: number, end: number): void {
  if (Number.isInteger(value) && value >= 0 && value < end) return;
  throw new VirtqueueError(
    'ERR_VIRTQ_CONFIGURATION',
    queue,
    `saved state: ${name} must be below ${end}, is ${value}`,
  );
}
