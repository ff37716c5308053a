import type {
  DeviceVirtqueue,
  VirtqueueInflight,
  VirtqueueConfiguration,
  VirtqueueState,
} from '../../runtime/virtqueue/device-virtqueue.js';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';
import { RawPackedRing, RawSplitRing } from '../support/raw-rings.js';
import { TestGuest, type TestRegion } from '../support/test-guest.js';

/** Guest address where tests put buffers. */
export const DATA = 0x8_0000;

export interface RigOptions {
  readonly size?: number;
  readonly eventIdx?: boolean;
  readonly indirect?: boolean;
  readonly inOrder?: boolean;
  readonly chainLimit?: number;
  readonly regions?: readonly TestRegion[];
  readonly state?: VirtqueueState;
  readonly guest?: TestGuest;
  /** Where chains in flight are tracked. */
  readonly inflight?: VirtqueueInflight;
}

export interface DeviceRig<Ring extends RawSplitRing | RawPackedRing> {
  readonly guest: TestGuest;
  readonly ring: Ring;
  readonly queue: DeviceVirtqueue;
  readonly configuration: VirtqueueConfiguration;
}

export function splitRig(options: RigOptions = {}): DeviceRig<RawSplitRing> {
  const guest = options.guest ?? new TestGuest(options.regions);
  return rig(guest, new RawSplitRing(guest, options.size ?? 8), 'split', options);
}

export function packedRig(options: RigOptions = {}): DeviceRig<RawPackedRing> {
  const guest = options.guest ?? new TestGuest(options.regions);
  return rig(guest, new RawPackedRing(guest, options.size ?? 8), 'packed', options);
}

function rig<Ring extends RawSplitRing | RawPackedRing>(
  guest: TestGuest,
  ring: Ring,
  format: 'split' | 'packed',
  options: RigOptions,
): DeviceRig<Ring> {
  const configuration: VirtqueueConfiguration = {
    index: 0,
    size: ring.size,
    format,
    eventIdx: options.eventIdx ?? false,
    indirect: options.indirect ?? true,
    inOrder: options.inOrder ?? false,
    chainLimit: options.chainLimit ?? 0,
    areas: guest.areas(ring.descriptorAddress, ring.driverAddress, ring.deviceAddress),
    memory: guest.memory,
    state: options.state ?? initialVirtqueueState(format),
    ...(options.inflight === undefined ? {} : { inflight: options.inflight }),
  };
  return { guest, ring, queue: startDeviceVirtqueue(configuration, guest.windows), configuration };
}

/** A drained chain in guest addresses: `[address, length]` for each segment. */
export interface SeenChain {
  readonly handle: number;
  readonly readable: (readonly [number, number])[];
  readonly writable: (readonly [number, number])[];
}

export function chainsOf(guest: TestGuest, batch: ChainBatch): SeenChain[] {
  return Array.from({ length: batch.count }, (_, row) => {
    const [handle, first, readable, writable] = batch.chains.subarray(row * 4, row * 4 + 4);
    const segments = Array.from({ length: readable! + writable! }, (_, i) => {
      const [window, offset, length] = batch.segments.subarray((first! + i) * 4, (first! + i) * 4 + 3);
      return [guest.address(window!, offset!), length!] as const;
    });
    return { handle: handle!, readable: segments.slice(0, readable), writable: segments.slice(readable) };
  });
}

/** One drain of at most `max` chains, in guest addresses. */
export function take(
  { guest, queue }: Pick<DeviceRig<RawSplitRing | RawPackedRing>, 'guest' | 'queue'>,
  max = 64,
  batch = new ChainBatch(64, 256),
): SeenChain[] {
  queue.drain(batch, max);
  return chainsOf(guest, batch);
}
