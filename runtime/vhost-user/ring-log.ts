import type { DirtyWriter } from '../memory/dirty-log.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { MemoryPlace, VirtqueueAreas } from '../virtqueue/device-virtqueue.js';
import type { VirtqueueLog } from '../virtqueue/virtqueue-log.js';
import { type VringAddress, VringAddressFlag } from '../../generated/vhost-user/payloads.js';
import { VirtioFeature } from '../../generated/virtio/features.js';

/** What a live ring stands on. */
export interface BoundRing {
  readonly memory: GuestMemory;
  readonly areas: VirtqueueAreas;
  readonly addresses: VringAddress;
}

/**
 * Where a ring's writes are logged. The data of its chains always; the ring itself when SET_VRING_ADDR came with the LOG flag:
 *
 *   split    used ring                    the log address alone, which need not lie in any region
 *   packed   descriptor ring              where it lies in guest-physical memory
 *            device event suppression     the log address, which QEMU fills with that of this area, and where it lies
 *
 * The protocol has one log address, made for the used ring. A packed ring is written in two areas, and peers disagree about
 * which of them it names (DPDK takes it for the descriptor ring's), so both are marked where they lie in any case: a page
 * marked in vain is sent once more, one that is not marked is lost.
 *
 * With ACCESS_PLATFORM the log address is an I/O virtual address, as QEMU sends it; the log goes by guest-physical ones, so the
 * areas are marked where they lie and nowhere else.
 */
export function ringLog(
  writer: DirtyWriter,
  features: bigint,
  { memory, areas, addresses }: BoundRing,
): VirtqueueLog {
  const windowAddresses = memory.windowAddresses();
  const guestAddress = ({ window, offset }: MemoryPlace): number => windowAddresses[window]! + offset;
  if ((addresses.flags & VringAddressFlag.log) === 0) {
    return { writer, windowAddresses, descriptor: [], device: [] };
  }
  const translated = (features & VirtioFeature.accessPlatform) !== 0n;
  const packed = (features & VirtioFeature.ringPacked) !== 0n;
  const own = guestAddress(areas.device);
  // Above 2^53 it is only roughly right, and outside of any log all the same.
  const named = Number(addresses.log);
  const device = translated ? [own] : packed ? [...new Set([named, own])] : [named];
  return { writer, windowAddresses, descriptor: packed ? [guestAddress(areas.descriptor)] : [], device };
}
