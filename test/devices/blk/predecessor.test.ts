import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Disk } from './harness.js';

const test = suite('block device: what a killed process still writes');

test('nobody else holds the image: there is nothing to wait for', () => {
  const disk = new Disk();
  assert.is(disk.device.settled(), null);
  assert.equal(disk.logged, []);
});

test('a file system that cannot tell is mentioned for those who look for it', () => {
  const disk = new Disk();
  disk.image.heldElsewhere = null;
  assert.is(disk.device.settled(), null);
  assert.is(disk.logged.length, 1);
  assert.match(disk.logged[0]!, /^debug: the file system cannot tell/);
});

test('it waits while somebody holds the image, and goes on when he lets go', async () => {
  const disk = new Disk({ options: { settleLimit: 2 ** 31 - 1 } });
  disk.image.heldElsewhere = true;
  let settled = false;
  const waiting = disk.device.settled()!.then(() => (settled = true));
  for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
  assert.not(settled);
  disk.image.heldElsewhere = false;
  await waiting;
  assert.match(disk.logged.join(), /^info: waited for/);
});

test('one who stays is not waited for beyond the limit, which is said', async () => {
  const disk = new Disk({ options: { settleLimit: 0 } });
  disk.image.heldElsewhere = true;
  await disk.device.settled();
  assert.match(disk.logged.join(), /^warn: another process holds the image/);
});

test.run();
