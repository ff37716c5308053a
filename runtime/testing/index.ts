/**
 * `vhost-user/testing`: a mock front-end and driver for testing back-ends and devices, of this package or of others.
 *
 * - `MockDriver` is a whole pretended guest over a socket: negotiation, memory, rings.
 * - `Loopback` puts a device and a driver together in one process without a socket, for a device author's unit tests.
 * - `BlockClient` drives a block device over either, `NetClient` a network device.
 * - `MockFrontend` sends single requests, in any order and any shape.
 *
 * @module
 */
export { BlockClient, type BlockOptions } from '../drivers/blk/block-client.js';
export type { BlockBatch, BlockBatchResult } from '../drivers/blk/block-pipeline.js';
export { NetClient, type NetStartOptions, type ReceivedPacket } from '../drivers/net/net-client.js';
export { FrontendConnection, type RawMessage } from './frontend-connection.js';
export {
  GuestBuffer,
  SharedMemory as GuestRam,
  type SharedMemoryOptions as GuestRamOptions,
  type SharedRegionLayout as GuestRamRegion,
} from '../memory/shared-memory.js';
export { Loopback, type LoopbackEvents, type LoopbackOptions } from './loopback.js';
export { MockDriver, type MockDriverOptions } from './mock-driver.js';
export {
  MockFrontend,
  type Negotiated,
  type NegotiationOptions,
  type RequestOptions,
  type VringSetup,
} from './mock-frontend.js';
export {
  DriverQueue as MockQueue,
  type QueueLink,
  type TransferOptions,
  type TransferResult,
} from '../drivers/driver-queue.js';
export { FrontendPostcopy } from '../vhost-user/frontend/postcopy.js';
export { RawSender } from './raw-sender.js';
export { createFakePlatform, type FakePlatform } from '../platform/fake.js';
export { createLinuxPlatform } from '../platform/linux.js';
