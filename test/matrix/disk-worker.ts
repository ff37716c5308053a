/** The matrix's disk: a worker thread that serves memory until it is told to close. */
import { parentPort, workerData } from 'node:worker_threads';
import { RamBacking } from '../../runtime/backings/ram.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { DISK_BYTES, DISK_QUEUES } from './verify-run.js';

const { path } = workerData as { path: string };
const platform = createLinuxPlatform();
const backing = new RamBacking(platform, BigInt(DISK_BYTES));
const backend = serveDevice(new BlockDevice(backing, { queueCount: DISK_QUEUES }), {
  platform,
  socketPath: path,
  withProtocolFeatures: ProtocolFeature.inbandNotifications | ProtocolFeature.gpaAddresses,
});
parentPort!.once('message', () => backend.close());
parentPort!.postMessage('serving');
await backend.finished;
await backing.close();
