export { ChainBatch } from '../virtqueue/chain-batch.js';
export type { QueueCounters } from '../virtqueue/device-virtqueue.js';
export { DescriptorChain } from './chain.js';
export { ChainCursor, ChainReader, ChainWriter } from './chain-cursor.js';
export { ChainDevice } from './chain-device.js';
export { ChainQueue, segmentCapacity } from './chain-queue.js';
export type { DeviceQueue } from './device-queue.js';
export {
  NO_FRONTEND_SERVICES,
  type FrontendServices,
  type HostNotifierArea,
  type SharedMemoryRange,
  type SharedMemorySource,
} from './frontend-services.js';
export type {
  DeviceConfiguration,
  DeviceHost,
  SharedMemoryDeclaration,
  VirtioDevice,
} from './virtio-device.js';
