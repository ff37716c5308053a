import { VhostError } from '../../errors.js';
import { featureNames } from '../../wire/index.js';
import { MAX_MEMORY_REGIONS, type ShmemConfig } from '../../../generated/vhost-user/payloads.js';
import { closeProtocolFeatures, ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature, virtioFeatureTable } from '../../../generated/virtio/features.js';
import { DeviceStatus } from '../../../generated/virtio/status.js';
import { NegotiatedFeatures } from '../negotiated-features.js';
import { acceptFeatures, type FeatureFilter, SUPPORTED_PROTOCOL_FEATURES } from './feature-filter.js';
import type { RequestChannel } from './request-channel.js';

/** What the two sides agreed on. */
export interface Negotiated {
  /** Virtio bits that the back-end offers. */
  readonly offered: bigint;
  /** Virtio bits that the back-end was told of. */
  readonly features: bigint;
  /** Virtio bits that the driver goes by: `features` and what the front-end provides itself. */
  readonly driverFeatures: bigint;
  readonly offeredProtocol: bigint;
  readonly protocol: bigint;
  /** How many queues the back-end serves; null when it does not say (no MQ). */
  readonly queueCount: number | null;
  /** How many memory regions it takes. */
  readonly memorySlots: number;
}

/**
 * In whose order messages are sent. Both are what back-ends meet in the wild:
 * - `virtio-user` (DPDK): SET_OWNER first; SET_VRING_CALL of a ring before everything else of it, SET_VRING_KICK last.
 * - `qemu`: SET_OWNER after the protocol features; SET_VRING_CALL once before SET_FEATURES and again after SET_VRING_KICK.
 */
export type MessageOrder = 'virtio-user' | 'qemu';

export interface NegotiationSteps {
  readonly filter: FeatureFilter;
  readonly order: MessageOrder;
  /** BACKEND_REQ is negotiated: sends SET_BACKEND_REQ_FD. */
  readonly openBackendChannel: (signal: AbortSignal | undefined) => Promise<void>;
  /** SHMEM is negotiated: takes the reply to GET_SHMEM_CONFIG. */
  readonly sharedMemory?: (config: ShmemConfig) => void;
  /** Before SET_FEATURES: sends SET_VRING_CALL for the rings that there will be. */
  readonly earlyCalls: (queueCount: number | null, signal: AbortSignal | undefined) => Promise<void>;
  /** Bits that an earlier back-end of this session was told of. Another one must offer them all. */
  readonly required?: bigint;
  readonly signal: AbortSignal | undefined;
}

/** Everything from the connection up to and with SET_FEATURES. `channel.features` is what was agreed on afterwards. */
export async function negotiate(channel: RequestChannel, steps: NegotiationSteps): Promise<Negotiated> {
  const { filter, order, signal, required } = steps;
  const pass = signal === undefined ? {} : { signal };
  if (order === 'virtio-user') await channel.request('setOwner', undefined, pass);
  const offered = await channel.request('getFeatures', undefined, pass);
  const { driver, backend } = acceptFeatures(offered, filter);
  if (required !== undefined && (required & ~offered) !== 0n) {
    const missing = featureNames(virtioFeatureTable, required & ~offered).join(', ');
    throw new VhostError('ERR_VHOST_GATE', `the back-end no longer offers ${missing}, which is in use`);
  }
  const lacking = (filter.required ?? 0n) & ~driver;
  if (lacking !== 0n) {
    const names = featureNames(virtioFeatureTable, lacking).join(', ');
    throw new VhostError('ERR_VHOST_GATE', `the back-end does not offer ${names}, which the driver needs`);
  }
  const features = required ?? backend;
  channel.features = new NegotiatedFeatures(offered, 0n);
  let [offeredProtocol, protocol, queueCount, memorySlots] = [
    0n,
    0n,
    null as number | null,
    MAX_MEMORY_REGIONS,
  ];
  if ((features & VirtioFeature.vhostUserProtocolFeatures) !== 0n) {
    offeredProtocol = await channel.request('getProtocolFeatures', undefined, pass);
    protocol = closeProtocolFeatures(offeredProtocol & (filter.protocol ?? SUPPORTED_PROTOCOL_FEATURES));
    await channel.request('setProtocolFeatures', protocol, { ...pass, needReply: false });
    const agreed = new NegotiatedFeatures(offered, protocol);
    agreed.acceptProtocol(protocol);
    channel.features = agreed;
    if (agreed.hasProtocol(ProtocolFeature.mq)) {
      queueCount = countOf(await channel.request('getQueueNum', undefined, pass));
    }
    if (agreed.hasProtocol(ProtocolFeature.configureMemSlots)) {
      memorySlots = countOf(await channel.request('getMaxMemSlots', undefined, pass));
    }
    if (agreed.hasProtocol(ProtocolFeature.shmem) && steps.sharedMemory !== undefined) {
      steps.sharedMemory(await channel.request('getShmemConfig', undefined, pass));
    }
    if (agreed.hasProtocol(ProtocolFeature.backendReq)) await steps.openBackendChannel(signal);
  }
  if (order === 'qemu') await channel.request('setOwner', undefined, pass);
  await steps.earlyCalls(queueCount, signal);
  await channel.request('setFeatures', features, pass);
  channel.features.accept(features);
  if (channel.features.hasProtocol(ProtocolFeature.status)) await acceptedStatus(channel, pass);
  return {
    offered,
    features,
    driverFeatures: required === undefined ? driver : (driver | required) & filter.supported,
    offeredProtocol,
    protocol,
    queueCount,
    memorySlots,
  };
}

/** Says FEATURES_OK and looks whether it stays (virtio 1.4, 3.1.1 step 6). */
async function acceptedStatus(channel: RequestChannel, pass: { signal?: AbortSignal }): Promise<void> {
  const wanted = DeviceStatus.acknowledge | DeviceStatus.driver | DeviceStatus.featuresOk;
  await channel.request('setStatus', BigInt(wanted), pass);
  const status = await channel.request('getStatus', undefined, pass);
  if ((status & BigInt(DeviceStatus.featuresOk)) === 0n) {
    throw new VhostError(
      'ERR_VHOST_REFUSED',
      `the device status is 0x${status.toString(16)} without FEATURES_OK`,
      {
        request: 'VHOST_USER_GET_STATUS',
      },
    );
  }
}

/** A count that comes as a u64; more than a number holds is as good as no limit. */
function countOf(value: bigint): number {
  return Number(value);
}
