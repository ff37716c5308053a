/** The demo's disk: a worker thread that serves memory until it is told to close. */
import { parentPort, workerData } from 'node:worker_threads';
import { RamBacking } from '../backings/ram.js';
import { BlockDevice } from '../devices/blk/index.js';
import { createLinuxPlatform } from '../platform/linux.js';
import { serveDevice } from '../vhost-user/backend/server.js';

const { path, bytes } = workerData as { path: string; bytes: number };
const platform = createLinuxPlatform();
const backing = new RamBacking(platform, BigInt(bytes));
const backend = serveDevice(new BlockDevice(backing), { platform, socketPath: path });
parentPort!.once('message', () => backend.close());
parentPort!.postMessage('serving');
await backend.finished;
await backing.close();
