import { GuestMemoryError, VhostError } from '../errors.js';
import { Access, type AddressRange } from '../memory/iotlb.js';
import type { MemoryPlace, VirtqueueAreas } from '../virtqueue/device-virtqueue.js';
import type { VringAddress } from '../../generated/vhost-user/payloads.js';
import { PackedEventSuppress } from '../../generated/virtio/packed-virtqueue.js';
import { VirtqAvail, VirtqDesc, VirtqUsed } from '../../generated/virtio/split-virtqueue.js';

type Format = 'split' | 'packed';

/**
 * A ring's areas by the addresses of SET_VRING_ADDR. The device reads descriptors and the driver's area and writes its own; of a
 * packed ring it writes the descriptors too.
 */
function layoutOf({ descriptor, available, used }: VringAddress, format: Format, size: number) {
  const packed = format === 'packed';
  return {
    descriptor: { address: descriptor, length: 16 * size, access: packed ? Access.readWrite : Access.read },
    driver: { address: available, length: packed ? 4 : 6 + 2 * size, access: Access.read },
    device: { address: used, length: packed ? 4 : 6 + 8 * size, access: Access.write },
  };
}

/** Where the areas are, as `place` finds each of them; null when it does not find them all. */
export function areasOf(
  addresses: VringAddress,
  format: Format,
  size: number,
  place: (address: bigint, length: number, access: number) => MemoryPlace | null,
): VirtqueueAreas | null {
  const layout = layoutOf(addresses, format, size);
  const [descriptor, driver, device] = [layout.descriptor, layout.driver, layout.device].map((area) =>
    place(area.address, area.length, area.access),
  );
  if (descriptor == null || driver == null || device == null) return null;
  return { descriptor, driver, device };
}

/** Whether one of the areas touches the range, in the addresses' own terms. */
export function liesIn(
  addresses: VringAddress,
  format: Format,
  size: number,
  { start, end }: AddressRange,
): boolean {
  return Object.values(layoutOf(addresses, format, size)).some(
    ({ address, length }) => Number(address) < end && Number(address) + length > start,
  );
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
