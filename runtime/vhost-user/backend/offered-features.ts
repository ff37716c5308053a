import type { VirtioDevice } from '../../device/virtio-device.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';

/** Virtio bits that every device gets from the ring and session code. */
const RING_FEATURES =
  VirtioFeature.version1 |
  VirtioFeature.ringPacked |
  VirtioFeature.eventIdx |
  VirtioFeature.indirectDesc |
  VirtioFeature.inOrder |
  VirtioFeature.anyLayout |
  VirtioFeature.vhostLogAll |
  VirtioFeature.vhostUserProtocolFeatures;

/** Protocol bits that this back-end serves for every device. */
const PROTOCOL_FEATURES =
  ProtocolFeature.mq |
  ProtocolFeature.logShmfd |
  ProtocolFeature.replyAck |
  ProtocolFeature.backendReq |
  ProtocolFeature.inflightShmfd |
  ProtocolFeature.resetDevice |
  ProtocolFeature.configureMemSlots |
  ProtocolFeature.status;

/** Protocol bits that are served and offered only where the back-end's options ask for them; BackendOptions says why. */
const PROTOCOL_FEATURES_ON_REQUEST = ProtocolFeature.inbandNotifications | ProtocolFeature.pagefault;

/** Virtio bits offered for a device; `without` takes some of them back. */
export function offeredFeatures(device: VirtioDevice, without: bigint): bigint {
  return (device.features | RING_FEATURES) & ~without;
}

/** Protocol bits offered for a device: CONFIG only with a configuration space to show, RARP and MTU for what takes them. */
export function offeredProtocolFeatures(device: VirtioDevice, onRequest: bigint): bigint {
  let features = PROTOCOL_FEATURES | (onRequest & PROTOCOL_FEATURES_ON_REQUEST);
  // The two exclude each other, and QEMU accepts both where both are offered: its migration would fail halfway.
  if ((features & ProtocolFeature.pagefault) !== 0n) features &= ~ProtocolFeature.configureMemSlots;
  if (device.config !== undefined) features |= ProtocolFeature.config;
  if (device.announce !== undefined) features |= ProtocolFeature.rarp;
  if (device.setMtu !== undefined) features |= ProtocolFeature.mtu;
  return features;
}
