/**
 * Our front-end on our back-end in every combination, a short run of each in memory. `npm run test:matrix` is the whole: longer
 * runs, more seeds, real sockets and memory between two threads.
 */
import { suite } from 'uvu';
import { RamBacking } from '../../runtime/backings/ram.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { combinations, nameOf } from './combinations.js';
import { DISK_BYTES, DISK_QUEUES, verifyRun } from './verify-run.js';
import * as assert from 'uvu/assert';

const test = suite('front-end and back-end, every combination');

const PATH = '/run/disk.sock';

for (const [i, combination] of combinations().entries()) {
  test(nameOf(combination), async () => {
    const platform = createFakePlatform();
    const backing = new RamBacking(platform, BigInt(DISK_BYTES));
    const device = new BlockDevice(backing, { queueCount: DISK_QUEUES });
    const backend = serveDevice(device, {
      platform,
      socketPath: PATH,
      spinMicroseconds: 0,
      withProtocolFeatures: ProtocolFeature.inbandNotifications | ProtocolFeature.gpaAddresses,
    });
    await verifyRun({ platform, path: PATH, combination, seed: i + 1, requests: 60 });
    backend.close();
    await backend.finished;
    await backing.close();
    for (let turn = 0; turn < 100 && platform.openFdCount > 0; turn++) await new Promise(setImmediate);
    assert.equal(platform.openFds, [], 'nothing stays open');
    assert.is(platform.mappingCount, 0, 'nothing stays mapped');
  });
}

test.run();
