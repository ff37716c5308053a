import type { WindowTable } from '../../platform/platform.js';
import type { VirtqueueAreas, VirtqueueState } from '../device-virtqueue.js';
import { RingArea } from '../ring-area.js';

/** A split ring that is about to be taken over. */
export interface SplitRingPlace {
  readonly index: number;
  readonly size: number;
  readonly areas: VirtqueueAreas;
}

/**
 * Where a split ring goes on. `base` is the available index that the front-end tells, null when it tells none; the used index
 * stands in the ring itself, where the device before, in this process or another, left it. A ring was drained when it was
 * stopped, so that both are the same. Where they are not, the base counts, but for two habits of front-ends, after which
 * everything that was not used is still to be done (of what is in flight beyond it, a region tells):
 *
 * - 0 for a ring that was used: DPDK's virtio-user as a server, to every back-end that returns;
 * - what the driver has made available: cloud-hypervisor, Firecracker and StratoVirt, for a driver that fills its ring early
 *   as well as for a back-end that returns.
 *
 * Throws VirtqueueError (ERR_VIRTQ_CONFIGURATION) when the ring does not lie in memory.
 */
export function splitPosition(
  windows: WindowTable,
  ring: SplitRingPlace,
  base: number | null,
): VirtqueueState & { readonly format: 'split' } {
  const usedArea = new RingArea(windows, ring.areas.device, 4, 4, 'used ring', ring.index);
  const nextUsed = Atomics.load(usedArea.u16(), 1);
  const drained =
    base === null || base === 0 || base === nextUsed || toldAvailable(windows, ring, nextUsed, base);
  return { format: 'split', nextAvailable: drained ? nextUsed : base, nextUsed };
}

/**
 * Whether `base` lies among what the driver has made available since the used entries end. All of that must be chains that can be
 * available together: each head once. In a ring that rather begins at `base`, the entries before it are old or never written.
 */
function toldAvailable(
  windows: WindowTable,
  { index, size, areas }: SplitRingPlace,
  nextUsed: number,
  base: number,
): boolean {
  const area = new RingArea(windows, areas.driver, 4 + 2 * size, 2, 'available ring', index).u16();
  const pending = (Atomics.load(area, 1) - nextUsed) & 0xffff;
  if (pending > size || ((base - nextUsed) & 0xffff) > pending) return false;
  const heads = new Set<number>();
  for (let i = 0; i < pending; i++) {
    const head = area[2 + ((nextUsed + i) & (size - 1))]!;
    if (head >= size) return false;
    heads.add(head);
  }
  return heads.size === pending;
}
