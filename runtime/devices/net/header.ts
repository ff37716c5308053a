import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { NetHeader, NetHeaderHash, NetHeaderLegacy } from '../../../generated/virtio/devices/net/layouts.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';

/** Drivers of packed rings use the long header whether they negotiated VERSION_1 or not. */
const LONG_HEADER = NetFeature.mrgRxbuf | VirtioFeature.version1 | VirtioFeature.ringPacked;

/** Bytes in front of each packet, by what was negotiated (virtio 1.4, 5.1.6). */
export function headerSize(features: bigint): number {
  if ((features & NetFeature.hashReport) !== 0n) return NetHeaderHash.maxSize;
  return (features & LONG_HEADER) !== 0n ? NetHeader.maxSize : NetHeaderLegacy.maxSize;
}

/**
 * Reads the three header words at byte `offset` of a window into `into[at]` to `into[at + 2]`, leaving num-buffers out. Each
 * word of memory is read once. Headers are seldom aligned: drivers put them right in front of a packet whose IP header is.
 */
export function readHeader(words: Uint32Array, offset: number, into: Int32Array, at: number): void {
  const word = offset >>> 2;
  const shift = (offset & 3) << 3;
  if (shift === 0) {
    into[at] = words[word]!;
    into[at + 1] = words[word + 1]!;
    into[at + 2] = words[word + 2]! & 0xffff;
    return;
  }
  const a = words[word]!;
  const b = words[word + 1]!;
  const c = words[word + 2]!;
  const d = words[word + 3]!;
  into[at] = (a >>> shift) | (b << (32 - shift));
  into[at + 1] = (b >>> shift) | (c << (32 - shift));
  into[at + 2] = ((c >>> shift) | (d << (32 - shift))) & 0xffff;
}

/** Byte `index` of the header. */
export function headerByte(words: Int32Array, at: number, last: number, index: number): number {
  if (index >= 12) return 0;
  const word = index < 4 ? words[at]! : index < 8 ? words[at + 1]! : last;
  return (word >>> ((index & 3) << 3)) & 0xff;
}
