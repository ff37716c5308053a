/** The demo's devices: a worker thread that serves a RAM disk or an echoing network card until it is told to close. */
import { parentPort, workerData } from 'node:worker_threads';
import { EchoPort } from '../backings/ports/echo.js';
import { PlatformPacketMemory } from '../backings/ports/packet-memory.js';
import { RamBacking } from '../backings/ram.js';
import { BlockDevice } from '../devices/blk/index.js';
import { NetDevice } from '../devices/net/index.js';
import { createLinuxPlatform } from '../platform/linux.js';
import { serveDevice } from '../vhost-user/backend/server.js';

/** What to serve: a disk of so many bytes, or a network card when they are 0. */
const { path, bytes } = workerData as { path: string; bytes: number };
const platform = createLinuxPlatform();
const backing = bytes > 0 ? new RamBacking(platform, BigInt(bytes)) : null;
const device =
  backing !== null
    ? new BlockDevice(backing)
    : new NetDevice(new EchoPort(new PlatformPacketMemory(platform)), { queuePairs: 2 });
const backend = serveDevice(device, { platform, socketPath: path });
parentPort!.once('message', () => backend.close());
parentPort!.postMessage('serving');
await backend.finished;
await backing?.close();
