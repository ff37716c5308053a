/** Ones' complement sum of `length` bytes at `offset`, added to `sum`; not folded. Good for 64 KiB and more. */
export function addToSum(bytes: Uint8Array, offset: number, length: number, sum: number): number {
  const end = offset + length;
  let at = offset;
  for (; at + 1 < end; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!;
  if (at < end) sum += bytes[at]! << 8;
  return sum;
}

/** Folds a sum to the 16 bits that are stored, big-endian; never zero, which means "no checksum" in UDP. */
export function foldSum(sum: number): number {
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return ~sum & 0xffff || 0xffff;
}

/**
 * Completes a partial checksum (virtio 1.4, 5.1.6.2): the sum from `start` to the end of the packet, over the pseudo-header's
 * sum that stands in its place. `start` and `offset` are inside the packet of `length` bytes at `base`.
 */
export function completeChecksum(
  bytes: Uint8Array,
  base: number,
  length: number,
  start: number,
  offset: number,
): void {
  const sum = foldSum(addToSum(bytes, base + start, length - start, 0));
  const place = base + start + offset;
  bytes[place] = sum >>> 8;
  bytes[place + 1] = sum & 0xff;
}
