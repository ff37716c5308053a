import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startListening } from '../support/guest/daemon.js';
import { findGuestParts, findProgram } from '../support/guest/debian.js';
import { Guest, hangsInBoot } from '../support/guest/guest.js';
import { INIT_RUNS } from '../support/guest/initrd.js';
import { TemporaryFolder } from '../support/guest/processes.js';

// Proves the guest itself against a back-end that is known to be right: what fails here is no fault of ours.
test('a guest reads and writes a disk of qemu-storage-daemon', async () => {
  using folder = new TemporaryFolder();
  const image = folder.file('disk');
  const socket = folder.file('blk');
  const content = randomBytes(1 << 20);
  writeFileSync(image, content);
  await using daemon = await startListening(
    'qemu-storage-daemon',
    socket,
    findProgram('qemu-storage-daemon')!,
    [
      ...['--blockdev', `driver=file,node-name=f0,filename=${image}`],
      '--export',
      `type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=${socket},writable=on`,
    ],
  );
  await using guest = await Guest.boot({
    devices: [
      '-chardev',
      `socket,id=c0,path=${socket},reconnect=1`,
      '-device',
      'vhost-user-blk-pci,chardev=c0',
    ],
  });
  assert.is(daemon.exit, null);
  const sum = createHash('md5').update(content).digest('hex');
  assert.is((await guest.read('md5sum < /dev/vda')).split(' ')[0], sum);
  assert.equal(await guest.run('echo out; echo err >&2; exit 7'), {
    status: 7,
    stdout: 'out\n',
    stderr: 'err\n',
  });
  await guest.read('printf hello | dd of=/dev/vda bs=512 seek=3 conv=sync,fsync');
  assert.is(readFileSync(image).subarray(1536, 1541).toString(), 'hello');
  await guest.powerOff();
});

test('a guest runs every script, also while what earlier ones left running ends', async () => {
  await using guest = await Guest.boot({ devices: [] });
  // A long line takes a while to arrive.
  const comment = '#'.repeat(6000);
  for (let i = 0; i < 20; i++) {
    await guest.read('for i in 1 2 3 4 5 6 7 8; do (busybox usleep ${i}0000; true) & done');
    assert.is(await guest.read(`echo ${i} ${comment}`), `${i}`);
  }
});

test('a kernel that hangs before its first program is told from one that is slow, and from one that hangs later', () => {
  const line = (seconds: number) =>
    `[   ${seconds + 2}.503903] watchdog: BUG: soft lockup - CPU#0 stuck for ${seconds}s! [cryptomgr_test:49]\r\n`;
  assert.not(hangsInBoot(''));
  assert.not(hangsInBoot(line(26)));
  assert.ok(hangsInBoot(line(26) + line(52)));
  assert.ok(hangsInBoot(line(104)));
  assert.not(hangsInBoot(`${INIT_RUNS}\r\n${line(52)}`));
});

test('without the packages the message says what to install', () => {
  using folder = new TemporaryFolder();
  for (const root of [folder.path, folder.file('nothing')]) {
    assert.throws(
      () => findGuestParts(root),
      /apt-get install linux-image-cloud-amd64 qemu-system-x86 busybox-static util-linux cpio qemu-system-common iproute2/,
    );
  }
});

test.run();
