import { GuestMemoryError, VhostError } from '../errors.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { VirtqueueAreas } from '../virtqueue/device-virtqueue.js';
import type { VringAddress } from '../../generated/vhost-user/payloads.js';
import { PackedEventSuppress } from '../../generated/virtio/packed-virtqueue.js';
import { VirtqAvail, VirtqDesc, VirtqUsed } from '../../generated/virtio/split-virtqueue.js';

type Format = 'split' | 'packed';

/** Where a ring's areas are; null when one does not lie in one region. Addresses are the front-end's own. */
export function areasOf(
  addresses: VringAddress,
  format: Format,
  size: number,
  memory: GuestMemory,
): VirtqueueAreas | null {
  const { descriptor, available, used } = addresses;
  const [driverLength, deviceLength] = format === 'packed' ? [4, 4] : [6 + 2 * size, 6 + 8 * size];
  const areas = {
    descriptor: memory.translateUser(descriptor, 16 * size),
    driver: memory.translateUser(available, driverLength),
    device: memory.translateUser(used, deviceLength),
  };
  if (areas.descriptor === null || areas.driver === null || areas.device === null) return null;
  return { descriptor: areas.descriptor, driver: areas.driver, device: areas.device };
}

/** virtio 1.4, 2.7 and 2.8. Regions start aligned, so an area is where its user address is. Throws VhostError. */
export function checkAlignment({ index, descriptor, available, used }: VringAddress, format: Format): void {
  const [driver, device] =
    format === 'packed'
      ? [PackedEventSuppress.align, PackedEventSuppress.align]
      : [VirtqAvail.align, VirtqUsed.align];
  for (const [area, address, alignment] of [
    ['descriptor', descriptor, VirtqDesc.align],
    ['available', available, driver],
    ['used', used, device],
  ] as const) {
    if (address % BigInt(alignment) === 0n) continue;
    throw new VhostError(
      'ERR_VHOST_PAYLOAD',
      `ring ${index}: expected a multiple of ${alignment} as user address of its ${area} area, got 0x${address.toString(16)}`,
    );
  }
}

/** Whether two messages place a ring alike; they may differ in how it is logged. */
export function sameAreas(one: VringAddress, other: VringAddress): boolean {
  return one.descriptor === other.descriptor && one.used === other.used && one.available === other.available;
}

export function unmapped(
  { index, descriptor, available, used }: VringAddress,
  size: number,
): GuestMemoryError {
  const hex = [descriptor, available, used].map((address) => `0x${address.toString(16)}`).join(', ');
  return new GuestMemoryError(
    'ERR_GUEST_MEMORY_UNMAPPED',
    `ring ${index}, ${size} entries: its areas at user addresses ${hex} do not lie in memory regions`,
  );
}
