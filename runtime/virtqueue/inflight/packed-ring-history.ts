import { InflightDescriptorPacked, InflightRegionPacked } from '../../../generated/vhost-user/inflight.js';
import { AVAIL, USED } from '../packed/layout.js';
import type { PackedPosition, PackedRegionContent } from './packed-reader.js';
import { VERSION } from './region.js';

/**
 * Whether a packed ring's region was left from before the guest made its rings again, or from before somebody else served
 * them. The ring holds no index that would tell, so its descriptors have to. Then the ring stands where the front-end
 * says and nothing of it is in flight. `found` is the region's content, or what is wrong with it.
 */
export function isOfAnotherLife(
  region: Uint32Array,
  found: PackedRegionContent | string,
  ring: Int32Array,
  size: number,
  base: PackedPosition,
): boolean {
  if (InflightRegionPacked.version(region, 0) !== VERSION) return false;
  if (InflightRegionPacked.features(region, 0) !== 0) return false;
  const offered = neverAnswered(ring, size);
  if (typeof found === 'string') return offered >= 0 || hasNoMarks(region);
  const { position, parked } = found;
  if (offered >= 0) {
    const slots = parked.reduce((sum, chain) => sum + chain.slots, 0);
    return position.used !== 0 || position.wrap !== 1 || slots === 0 || slots > offered;
  }
  return parked.length === 0 && !fits(ring, size, position) && fits(ring, size, base);
}

/**
 * Slots that the driver has filled in a ring in which it never had an answer; it waits for all of them. -1 when a device
 * has written to the ring, and when that cannot be told since no slot is as the ring was made.
 */
function neverAnswered(ring: Int32Array, size: number): number {
  let offered = 0;
  while (offered < size && ((ring[offered * 4 + 3]! >>> 16) & (AVAIL | USED)) === AVAIL) offered++;
  if (offered === size) return -1;
  for (let word = offered * 4; word < size * 4; word++) if (ring[word] !== 0) return -1;
  return offered;
}

function hasNoMarks(region: Uint32Array): boolean {
  const { descriptorsIndex } = InflightRegionPacked;
  for (let entry = 0; descriptorsIndex(0, entry + 1) <= region.length; entry++) {
    const index = descriptorsIndex(0, entry);
    if (InflightDescriptorPacked.inflight(region, index) !== 0) return false;
  }
  return true;
}

/**
 * Whether a ring without chains in flight can stand at this position: from there on come descriptors that the driver made
 * available in their lap, and behind them none of their lap at all.
 */
function fits(ring: Int32Array, size: number, { used, wrap }: PackedPosition): boolean {
  let offered = true;
  for (let i = 0; i < size; i++) {
    const slot = (used + i) % size;
    const lap = used + i < size ? wrap : 1 - wrap;
    const flags = ring[slot * 4 + 3]! >>> 16;
    const available = (flags & AVAIL) === 0 ? 0 : 1;
    const isUsed = (flags & USED) === 0 ? 0 : 1;
    if (offered && available === lap && isUsed !== lap) continue;
    offered = false;
    if (available === lap) return false;
  }
  return true;
}
