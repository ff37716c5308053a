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
  VirtioFeature.accessPlatform |
  VirtioFeature.vhostUserProtocolFeatures;

/** Protocol bits that this back-end serves for every device. */
const PROTOCOL_FEATURES =
  ProtocolFeature.mq |
  ProtocolFeature.logShmfd |
  ProtocolFeature.replyAck |
  ProtocolFeature.backendReq |
  ProtocolFeature.inflightShmfd |
  ProtocolFeature.getVringBaseInflight |
  ProtocolFeature.getVringBaseSkipDrain |
  ProtocolFeature.resetDevice |
  ProtocolFeature.configureMemSlots |
  ProtocolFeature.status;

/** Protocol bits that are served and offered only where the back-end's options ask for them; BackendOptions says why. */
const PROTOCOL_FEATURES_ON_REQUEST =
  ProtocolFeature.inbandNotifications | ProtocolFeature.pagefault | ProtocolFeature.gpaAddresses;

/** Virtio bits offered for a device; `without` takes some of them back. */
export function offeredFeatures(device: VirtioDevice, without: bigint): bigint {
  return (device.features | RING_FEATURES) & ~without;
}

/** Protocol bits offered for a device: beyond those of every device the ones that it has a use for. */
export function offeredProtocolFeatures(device: VirtioDevice, onRequest: bigint): bigint {
  let features = PROTOCOL_FEATURES | (onRequest & PROTOCOL_FEATURES_ON_REQUEST);
  // The two exclude each other, and QEMU accepts both where both are offered: its migration would fail halfway.
  if ((features & ProtocolFeature.pagefault) !== 0n) features &= ~ProtocolFeature.configureMemSlots;
  if (device.config !== undefined) features |= ProtocolFeature.config;
  if (device.announce !== undefined) features |= ProtocolFeature.rarp;
  if (device.setMtu !== undefined) features |= ProtocolFeature.mtu;
  if (device.hostNotifiers === true) features |= ProtocolFeature.hostNotifier | ProtocolFeature.backendSendFd;
  if (device.sharedObject !== undefined) features |= ProtocolFeature.sharedObject;
  if (device.sharedMemory !== undefined) features |= ProtocolFeature.shmem | ProtocolFeature.backendSendFd;
  if (device.saveState !== undefined && device.loadState !== undefined) {
    features |= ProtocolFeature.deviceState;
  }
  return features;
}
