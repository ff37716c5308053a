import type { RegionDescription } from '../../memory/guest-memory.js';
import type { SharedMemory, SharedRegion } from '../../memory/shared-memory.js';
import { type VringAddress, VringFdFlag } from '../../../generated/vhost-user/payloads.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import type { FrontendIommu } from './iommu.js';
import type { MessageOrder } from './negotiation.js';
import type { RequestChannel } from './request-channel.js';
import type { FrontendVring, NotificationMeans } from './vring.js';

/** Options of a request that a signal may bound. */
export function bounded(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}

/** A region as the back-end is told of it. With GPA_ADDRESSES its user address is its guest address. */
export function announced({ features }: RequestChannel, { region }: SharedRegion): RegionDescription {
  const { description } = region;
  if (!features.hasProtocol(ProtocolFeature.gpaAddresses)) return description;
  return { ...description, userAddress: description.guestAddress };
}

/** The whole memory as one table. */
export async function announceTable(
  channel: RequestChannel,
  memory: SharedMemory,
  signal: AbortSignal | undefined,
): Promise<void> {
  const regions = memory.regions.map((shared) => announced(channel, shared));
  const fds = memory.regions.map((shared) => shared.fd);
  await channel.request('setMemTable', { regions }, { ...bounded(signal), fds });
}

/**
 * The whole memory as it is when this resolves, region by region or as a table: regions that come or go meanwhile, since a
 * change was under way when the back-end before left, are told as well.
 */
export async function announceMemory(
  channel: RequestChannel,
  memory: SharedMemory,
  slots: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (!slots) {
    let told;
    do {
      told = memory.regions;
      await announceTable(channel, memory, signal);
    } while (memory.regions !== told);
    return;
  }
  const told = new Set<SharedRegion>();
  for (;;) {
    const gone = [...told].find((shared) => !memory.regions.includes(shared));
    const missing = memory.regions.find((shared) => !told.has(shared));
    if (gone !== undefined) {
      told.delete(gone);
      await channel.request('remMemReg', { region: announced(channel, gone) }, bounded(signal));
    } else if (missing !== undefined) {
      told.add(missing);
      await announceRegion(channel, missing, signal);
    } else return;
  }
}

/** One more region, for a back-end with CONFIGURE_MEM_SLOTS. */
export async function announceRegion(
  channel: RequestChannel,
  shared: SharedRegion,
  signal: AbortSignal | undefined,
): Promise<void> {
  const region = announced(channel, shared);
  await channel.request('addMemReg', { region }, { ...bounded(signal), fds: [shared.fd] });
}

/** An eventfd of a ring, or that there is none. Nothing when the ring is notified in-band. */
export async function announceFd(
  channel: RequestChannel,
  name: 'setVringKick' | 'setVringCall' | 'setVringErr',
  index: number,
  fd: number,
  means: NotificationMeans,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (means === 'inband') return;
  if (fd < 0) await channel.request(name, BigInt(index) | VringFdFlag.noFd, bounded(signal));
  else await channel.request(name, BigInt(index), { ...bounded(signal), fds: [fd] });
}

/** SET_VRING_ADDR of a ring that is not logged. */
export function vringAddress(
  memory: SharedMemory,
  iommu: FrontendIommu,
  { index, setup }: FrontendVring,
  { features, protocol }: { readonly features: bigint; readonly protocol: bigint },
): VringAddress {
  // An IOVA behind an IOMMU, a guest address with GPA_ADDRESSES, else the front-end's own.
  const address = (place: { window: number; offset: number }): bigint =>
    (features & VirtioFeature.accessPlatform) !== 0n
      ? iommu.address(memory.memory, place)
      : (protocol & ProtocolFeature.gpaAddresses) !== 0n
        ? memory.guestAddress(place)
        : memory.userAddress(place);
  const { descriptor, driver, device } = setup!.areas;
  return {
    index,
    flags: 0,
    descriptor: address(descriptor),
    used: address(device),
    available: address(driver),
    log: 0n,
  };
}

/** NUM, BASE, ADDR, ERR, and a kick fd or a kick, which starts the ring; CALL in the place that the order gives it. */
export async function announceVring(
  channel: RequestChannel,
  memory: SharedMemory,
  iommu: FrontendIommu,
  vring: FrontendVring,
  order: MessageOrder,
  signal: AbortSignal | undefined,
): Promise<void> {
  const pass = bounded(signal);
  const { index, notifications: means } = vring;
  const { size } = vring.setup!;
  const { accepted, acceptedProtocol } = channel.features;
  if (order !== 'qemu') await announceFd(channel, 'setVringCall', index, vring.callFd, means.call, signal);
  await channel.request('setVringNum', { index, num: size }, pass);
  await channel.request('setVringBase', { index, num: vring.base }, pass);
  const negotiated = { features: accepted, protocol: acceptedProtocol };
  await channel.request('setVringAddr', vringAddress(memory, iommu, vring, negotiated), pass);
  if (vring.errFd >= 0) await announceFd(channel, 'setVringErr', index, vring.errFd, means.err, signal);
  await announceFd(channel, 'setVringKick', index, vring.kickFd, means.kick, signal);
  if (means.kick === 'inband') await channel.request('vringKick', { index, num: 0 }, pass);
  if (order === 'qemu') await announceFd(channel, 'setVringCall', index, vring.callFd, means.call, signal);
}
