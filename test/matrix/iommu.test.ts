/**
 * Our front-end on our back-end behind an IOMMU: scattered addresses, pages asked for one by one, translations taken back at
 * random while requests run, everything verified.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { RamBacking } from '../../runtime/backings/ram.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import { Random } from '../support/random.js';
import { combinations, nameOf } from './combinations.js';
import { MovingIommu } from './moving-iommu.js';
import { DISK_BYTES, DISK_QUEUES, verifyRun } from './verify-run.js';

const test = suite('front-end and back-end behind an IOMMU');

const PATH = '/run/disk.sock';

for (const [i, combination] of combinations()
  .filter(({ notified }) => notified === 'by eventfds')
  .entries()) {
  test(nameOf(combination), async () => {
    const platform = createFakePlatform();
    const backing = new RamBacking(platform, BigInt(DISK_BYTES));
    const device = new BlockDevice(backing, { queueCount: DISK_QUEUES });
    const limits = { iotlbEntries: i % 2 === 0 ? 8192 : 64 };
    const backend = serveDevice(device, { platform, socketPath: PATH, spinMicroseconds: 0, limits });
    const iommu = new MovingIommu(new Random(1000 + i));
    const moving = iommu.move();
    await verifyRun({ platform, path: PATH, combination, seed: i + 1, requests: 60, iommu });
    iommu.stop();
    await moving;
    assert.ok(iommu.asked > 20, `${iommu.asked} misses`);
    assert.ok(iommu.invalidated > 20, `${iommu.invalidated} invalidations`);
    backend.close();
    await backend.finished;
    await backing.close();
    for (let turn = 0; turn < 100 && platform.openFdCount > 0; turn++) await new Promise(setImmediate);
    assert.equal(platform.openFds, [], 'nothing stays open');
    assert.is(platform.mappingCount, 0, 'nothing stays mapped');
  });
}

test.run();
