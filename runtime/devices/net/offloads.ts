import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { NetGsoFlag, NetGsoType, NetHeaderFlag } from '../../../generated/virtio/devices/net/layouts.js';

/**
 * Offload bits that a port may have: what it takes from the driver (`sent`) and what it gives (`received`), and of the latter
 * those for one kind of segment.
 */
export const OFFLOADS = {
  sent: NetFeature.csum | NetFeature.hostTso4 | NetFeature.hostTso6 | NetFeature.hostEcn,
  received: NetFeature.guestCsum | NetFeature.guestTso4 | NetFeature.guestTso6 | NetFeature.guestEcn,
  tcp4: NetFeature.guestTso4,
  tcp6: NetFeature.guestTso6,
  ecn: NetFeature.guestEcn,
} as const;

/** Which header flags and kinds of segmentation one direction may use, by what was negotiated. */
export class OffloadSet {
  /** Whether a checksum may be partial. */
  readonly checksum: boolean;
  readonly #tcp4: boolean;
  readonly #tcp6: boolean;
  readonly #ecn: boolean;

  constructor(checksum: boolean, tcp4: boolean, tcp6: boolean, ecn: boolean) {
    this.checksum = checksum;
    // A segment's checksum is always partial (virtio 1.4, 5.1.3.1).
    this.#tcp4 = checksum && tcp4;
    this.#tcp6 = checksum && tcp6;
    this.#ecn = ecn;
  }

  /** What the driver may ask of the device. */
  static sent(features: bigint): OffloadSet {
    return new OffloadSet(
      (features & NetFeature.csum) !== 0n,
      (features & NetFeature.hostTso4) !== 0n,
      (features & NetFeature.hostTso6) !== 0n,
      (features & NetFeature.hostEcn) !== 0n,
    );
  }

  /** What the driver takes. */
  static received(features: bigint): OffloadSet {
    return new OffloadSet(
      (features & NetFeature.guestCsum) !== 0n,
      (features & NetFeature.guestTso4) !== 0n,
      (features & NetFeature.guestTso6) !== 0n,
      (features & NetFeature.guestEcn) !== 0n,
    );
  }

  /** Whether packets may carry this gso-type. */
  allows(gsoType: number): boolean {
    if (gsoType === NetGsoType.none) return true;
    if ((gsoType & NetGsoFlag.ecn) !== 0 && !this.#ecn) return false;
    switch (gsoType & ~NetGsoFlag.ecn) {
      case NetGsoType.tcpv4:
        return this.#tcp4;
      case NetGsoType.tcpv6:
        return this.#tcp6;
      default:
        return false;
    }
  }
}

/** Bytes of payload below which a segment is refused: cutting 64 KiB into crumbs would cost far more than it carries. */
const GSO_SIZE_MIN = 48;

/**
 * Checks the header of a packet that the driver sent and takes out what means nothing; false when it does not fit the packet
 * of `length` bytes (C12). From here on csum-start and csum-offset are inside the packet.
 */
export function checkSentHeader(
  words: Int32Array,
  at: number,
  length: number,
  offloads: OffloadSet,
): boolean {
  const word0 = words[at]!;
  const flags = word0 & NetHeaderFlag.needsCsum;
  const gsoType = (word0 >>> 8) & 0xff;
  if (flags === 0 || !offloads.checksum) {
    // Without NEEDS_CSUM nothing else in the header may be used (virtio 1.4, 5.1.6.2.2).
    if (gsoType !== NetGsoType.none) return false;
    words[at] = 0;
    words[at + 1] = 0;
    words[at + 2] = 0;
    return true;
  }
  const gsoSize = words[at + 1]! & 0xffff;
  const start = words[at + 1]! >>> 16;
  if (start + words[at + 2]! + 2 > length) return false;
  if (!offloads.allows(gsoType)) return false;
  if (gsoType !== NetGsoType.none && gsoSize < GSO_SIZE_MIN) return false;
  words[at] = flags | (gsoType << 8) | (word0 & 0xffff0000);
  if (gsoType === NetGsoType.none) words[at + 1] = start << 16;
  return true;
}
