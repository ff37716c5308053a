/** The crash test looks at the disk when its load has settled: nothing may be on its way then. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { RamBacking } from '../../runtime/backings/ram.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { Loopback } from '../../runtime/testing/index.js';
import { turns } from '../support/raw-frontend.js';
import { DISK_SECTORS, Load, LOAD_QUEUES } from './load.js';
import { SECTOR } from './sector-model.js';

const test = suite('the load of the crash test');

for (const format of ['split', 'packed'] as const) {
  test(`${format}: when it has settled nothing is issued, not even the rest of a batch`, async () => {
    const platform = createFakePlatform();
    const backing = new RamBacking(platform, BigInt(DISK_SECTORS * SECTOR));
    const device = new BlockDevice(backing, { queueCount: LOAD_QUEUES });
    await using loopback = new Loopback(device, {
      ...{ platform, format, queueSize: 64 },
      ram: { size: 16 << 20 },
    });
    const load = new Load(loopback, 1, true);
    for (let round = 0; round < 20; round++) {
      await Promise.race([load.failed, load.settle()]);
      const { issued } = load;
      assert.is(load.underWay, 0);
      await turns(20);
      assert.is(load.issued, issued);
      load.resume();
    }
    await load.stop();
  });
}

test.run();
