import { closeFeatures, type FeatureTable } from '../../wire/index.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { closeVirtioFeatures, VirtioFeature } from '../../../generated/virtio/features.js';

/** What the driver and the front-end in front of it understand. */
export interface FeatureFilter {
  /** Virtio bits, generic and of the device type. The driver gets these of what is offered. */
  readonly supported: bigint;
  /** Bits of `supported` without which the driver cannot work: a back-end that does not offer them is refused. */
  readonly required?: bigint;
  /**
   * Bits that the front-end provides by itself, offered or not: with a control queue that it answers, CTRL_VQ and what hangs
   * on it. The driver gets them if `supported` has them.
   */
  readonly provided?: bigint;
  /** Bits that the back-end is never told of, accepted by the driver or not (MAC, STATUS and CTRL_VQ of a network device). */
  readonly withheld?: bigint;
  /** The device type's bits with their dependencies: one that lacks what it needs is not accepted. */
  readonly table?: FeatureTable;
  /** Protocol bits; all that the front-end serves when absent. */
  readonly protocol?: bigint;
}

/** Protocol features that the front-end serves. */
export const SUPPORTED_PROTOCOL_FEATURES =
  ProtocolFeature.mq |
  ProtocolFeature.logShmfd |
  ProtocolFeature.deviceState |
  ProtocolFeature.rarp |
  ProtocolFeature.replyAck |
  ProtocolFeature.mtu |
  ProtocolFeature.backendReq |
  ProtocolFeature.config |
  ProtocolFeature.backendSendFd |
  ProtocolFeature.inflightShmfd |
  ProtocolFeature.resetDevice |
  ProtocolFeature.configureMemSlots |
  ProtocolFeature.status;

export interface AcceptedFeatures {
  /** What the driver has negotiated. */
  readonly driver: bigint;
  /** What the back-end is told in SET_FEATURES. */
  readonly backend: bigint;
}

/** Offered ∩ supported with dependencies closed, for the driver and for the back-end. */
export function acceptFeatures(offered: bigint, filter: FeatureFilter): AcceptedFeatures {
  const { provided = 0n, withheld = 0n, table } = filter;
  let driver = closeVirtioFeatures((offered | provided) & filter.supported);
  if (table !== undefined) driver = closeFeatures(table, driver);
  // Bit 30 is between front-end and back-end; a driver knows nothing of it.
  const transport = offered & VirtioFeature.vhostUserProtocolFeatures;
  driver &= ~VirtioFeature.vhostUserProtocolFeatures;
  return { driver, backend: (driver & offered & ~withheld) | transport };
}
