import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { NetHeader, NetHeaderLegacy } from '../../../generated/virtio/devices/net/layouts.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';

/** What hangs on the control queue that the front-end answers: the driver gets it whatever the back-end offers. */
export const CONTROL_FEATURES: bigint =
  NetFeature.ctrlVq |
  NetFeature.ctrlRx |
  NetFeature.ctrlRxExtra |
  NetFeature.ctrlVlan |
  NetFeature.ctrlMacAddr;

/** Bits that are between driver and front-end: the back-end is not told of them, offered or not. */
export const WITHHELD_FEATURES: bigint = CONTROL_FEATURES | NetFeature.mac | NetFeature.status;

/** What the client takes without being asked for more: nothing that leaves packets unfinished. */
export const PLAIN_FEATURES: bigint =
  NetFeature.mrgRxbuf | NetFeature.mq | NetFeature.guestAnnounce | NetFeature.mtu;

/** Offloads that need every buffer to hold 64 KiB unless buffers are mergeable (virtio 1.4, 5.1.6.3.1). */
export const LARGE_RECEIVE: bigint =
  NetFeature.guestTso4 |
  NetFeature.guestTso6 |
  NetFeature.guestUfo |
  NetFeature.guestUso4 |
  NetFeature.guestUso6;

/** Drivers of packed rings use the long header whether they negotiated VERSION_1 or not. */
const LONG_HEADER = NetFeature.mrgRxbuf | VirtioFeature.version1 | VirtioFeature.ringPacked;

/** Bytes in front of each packet, by what was negotiated (virtio 1.4, 5.1.6). */
export function headerBytes(features: bigint): number {
  return (features & LONG_HEADER) !== 0n ? NetHeader.maxSize : NetHeaderLegacy.maxSize;
}
