/**
 * The public entry: write a device, serve it; or drive one that somebody serves.
 *
 * ```ts
 * import { ChainDevice, DeviceId, serve } from 'vhost-user';
 * using backend = serve(new MyDevice(), { socketPath: '/run/my.sock' });
 * await backend.finished;
 * ```
 */
import { createLinuxPlatform } from './platform/linux.js';
import type { Platform } from './platform/platform.js';
import type { VirtioDevice } from './device/virtio-device.js';
import { serveDevice, type BackendOptions, type VhostUserBackend } from './vhost-user/backend/server.js';

export interface ServeOptions extends Omit<BackendOptions, 'platform'> {
  /** What stands for the operating system; Linux by default. */
  readonly platform?: Platform;
}

/**
 * Serves a device to the front-ends that come over a Unix socket, one after the other, until the returned back-end is
 * closed or `options.signal` aborts. Throws OptionError or PlatformError when it cannot begin.
 */
export function serve(device: VirtioDevice, options: ServeOptions): VhostUserBackend {
  return serveDevice(device, { ...options, platform: options.platform ?? createLinuxPlatform() });
}

export * from './device/index.js';
export { VhostUserBackend, type BackendEvents, type BackendOptions } from './vhost-user/backend/server.js';
export { BackendSession, type Log } from './vhost-user/backend/session.js';
export { DEFAULT_LIMITS, type SessionLimits } from './vhost-user/backend/session-limits.js';
export {
  Frontend,
  type ConnectOptions,
  type FrontendEvents,
  type FrontendOptions,
} from './vhost-user/frontend/frontend.js';
export type { BackendRequestMap, RequestFds } from './vhost-user/frontend/backend-requests.js';
export { FrontendDirtyLog } from './vhost-user/frontend/dirty-log.js';
export {
  type DeviceStateOptions,
  loadDeviceState,
  saveDeviceState,
} from './vhost-user/frontend/device-state.js';
export type { HostNotifier, HostNotifierHandler } from './vhost-user/frontend/host-notifiers.js';
export type { ShmemHandler, ShmemMapping } from './vhost-user/frontend/shmem-table.js';
export { SharedObjectRegistry, type SharedObjectOwner } from './vhost-user/frontend/shared-objects.js';
export { FrontendIommu, type FrontendIommuOptions, type Translation } from './vhost-user/frontend/iommu.js';
export type { Retry } from './vhost-user/frontend/connections.js';
export type { FeatureFilter } from './vhost-user/frontend/feature-filter.js';
export type { MessageOrder, Negotiated } from './vhost-user/frontend/negotiation.js';
export type { RequestOptions } from './vhost-user/frontend/request-channel.js';
export type { FrontendVring, VringSetup } from './vhost-user/frontend/vring.js';
export { VirtioDriver, type VirtioDriverOptions } from './drivers/virtio-driver.js';
export {
  DriverQueue,
  type QueueUser,
  type TransferOptions,
  type TransferResult,
} from './drivers/driver-queue.js';
export type { VirtqueueAreas, VirtqueueState } from './virtqueue/device-virtqueue.js';
export type { DriverVirtqueue } from './virtqueue/driver-virtqueue.js';
export { BlockClient, type BlockOptions, type ConfiguredDevice } from './drivers/blk/block-client.js';
export type { BlockBatch, BlockBatchResult } from './drivers/blk/block-pipeline.js';
export {
  NetClient,
  type NetClientOptions,
  type NetLink,
  type NetStartOptions,
  type PacketOptions,
  type QueuePair,
  type ReceivedPacket,
} from './drivers/net/net-client.js';
export type { NetControl } from './drivers/net/net-control.js';
export type { ControlState, ReceiveMode } from './drivers/net/control-state.js';
export { PACKET_STRIDE, PacketField, PacketTable } from './drivers/net/packet-table.js';
export type { Receiver, ReceiverOptions } from './drivers/net/receiver.js';
export type { Transmitter, TransmitterOptions } from './drivers/net/transmitter.js';
export {
  GuestBuffer,
  SharedMemory,
  type SharedMemoryOptions,
  type SharedRegion,
  type SharedRegionLayout,
} from './memory/shared-memory.js';
export type { MessageTrace } from './vhost-user/message-trace.js';
export { createLinuxPlatform, type LinuxPlatformOptions } from './platform/linux.js';
export type { Platform, SocketListener, SocketStream } from './platform/platform.js';
export type { FdBundle, OwnedFd } from './vhost-user/fd-bundle.js';
export * from './errors.js';
export { DeviceId } from '../generated/virtio/device-ids.js';
export { DeviceStatus } from '../generated/virtio/status.js';
export { ProtocolFeature } from '../generated/vhost-user/protocol-features.js';
export { VirtioFeature } from '../generated/virtio/features.js';
