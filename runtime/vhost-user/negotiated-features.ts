import { VhostError } from '../errors.js';
import { closeFeatures, featureNames, type Gate } from '../wire/index.js';
import { ProtocolFeature, protocolFeatureTable } from '../../generated/vhost-user/protocol-features.js';
import { VirtioFeature, virtioFeatureTable } from '../../generated/virtio/features.js';

/** What is offered and what was accepted of it, in one conversation. */
export class NegotiatedFeatures {
  readonly offered: bigint;
  readonly offeredProtocol: bigint;
  /** Accepted virtio bits; 0n before SET_FEATURES and after a reset. */
  accepted = 0n;
  /** Accepted protocol bits; 0n before SET_PROTOCOL_FEATURES. Kept over a reset. */
  acceptedProtocol = 0n;
  /** Named states of the conversation that reply rules depend on, e.g. `postcopy-listening`. */
  readonly states = new Set<string>();
  #protocolUsed = false;

  constructor(offered: bigint, offeredProtocol: bigint) {
    this.offered = offered;
    this.offeredProtocol = closeFeatures(protocolFeatureTable, offeredProtocol);
  }

  /** SET_FEATURES. Throws ERR_VHOST_PAYLOAD when a bit was never offered. */
  accept(word: bigint): void {
    const extra = word & ~this.offered;
    if (extra !== 0n) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `not offered: ${featureNames(virtioFeatureTable, extra).join(', ')}`,
      );
    }
    this.accepted = word;
  }

  /** SET_PROTOCOL_FEATURES. Throws ERR_VHOST_PAYLOAD when a bit was not offered or lacks one that it needs. */
  acceptProtocol(word: bigint): void {
    const extra = word & ~this.offeredProtocol;
    if (extra !== 0n) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `not offered: ${featureNames(protocolFeatureTable, extra).join(', ')}`,
      );
    }
    const alone = word & ~closeFeatures(protocolFeatureTable, word);
    if (alone !== 0n) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `accepted without the features they need: ${featureNames(protocolFeatureTable, alone).join(', ')}`,
      );
    }
    this.acceptedProtocol = word;
    this.#protocolUsed = true;
  }

  has(mask: bigint): boolean {
    return (this.accepted & mask) === mask;
  }

  hasProtocol(mask: bigint): boolean {
    return (this.acceptedProtocol & mask) === mask;
  }

  /**
   * Why a request with this gate is not legal now; null when it is.
   *
   * Bit 30 (PROTOCOL_FEATURES) counts as negotiated, where it is offered: QEMU before 7.2 uses protocol features and
   * SET_VRING_ENABLE, but never accepts the bit itself; DPDK's virtio-user of 2018 knows no protocol features and uses the
   * request; as a server it begins the conversation with a back-end that has returned by disabling and stopping its rings.
   * INFLIGHT_SHMFD and CONFIG count before SET_PROTOCOL_FEATURES: StratoVirt hands the region to a back-end that has returned
   * without negotiating protocol features again, and clients of SPDK's read the configuration before anything else.
   */
  refusal(gate: Gate): string | null {
    const virtio = gate.virtioOffered
      ? this.offered
      : this.accepted | (this.offered & VirtioFeature.vhostUserProtocolFeatures);
    const protocol = this.#protocolUsed
      ? this.acceptedProtocol
      : this.offeredProtocol & (ProtocolFeature.inflightShmfd | ProtocolFeature.config);
    const missing = [
      ...featureNames(virtioFeatureTable, gate.virtio & ~virtio),
      ...featureNames(protocolFeatureTable, gate.protocol & ~protocol),
    ];
    if (missing.length > 0) {
      return `needs ${missing.join(', ')}, which ${gate.virtioOffered ? 'is not offered' : 'was not negotiated'}`;
    }
    const excluded = featureNames(protocolFeatureTable, gate.excludes & this.acceptedProtocol);
    return excluded.length > 0 ? `is not allowed together with ${excluded.join(', ')}` : null;
  }

  /** Whether a sender's NEED_REPLY has to be honoured. */
  get replyAck(): boolean {
    return this.hasProtocol(ProtocolFeature.replyAck);
  }
}
