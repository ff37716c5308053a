import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startDaemon } from '../support/guest/daemon.js';
import { Guest } from '../support/guest/guest.js';
import { TemporaryFolder } from '../support/guest/processes.js';

const read = 'dd if=/dev/hwrng bs=64 count=1 iflag=fullblock 2> /dev/null | md5sum | cut -d " " -f 1';
const zeros = '3b5d3c7d207e37dceeedd301e35e2e58'; // md5 of 64 zero bytes

for (const ring of ['split', 'packed'] as const) {
  test(`${ring}: the guest's /dev/hwrng is our entropy device, and never gives the same twice`, async () => {
    using folder = new TemporaryFolder();
    const socket = folder.file('rng');
    await using daemon = await startDaemon('vhost-user-rng', socket);
    const options = `packed=${ring === 'packed' ? 'on' : 'off'}`;
    for (let boot = 0; boot < 2; boot++) {
      await using guest = await Guest.boot({
        devices: [
          ...['-chardev', `socket,id=c0,path=${socket}`],
          ...['-device', `vhost-user-rng-pci,chardev=c0,${options}`],
        ],
      });
      const features = await guest.read('cat /sys/bus/virtio/devices/virtio0/features');
      assert.is(features[32], '1', 'version 1');
      assert.is(features[34], ring === 'packed' ? '1' : '0', 'packed ring');
      assert.match(await guest.read('cat /sys/class/misc/hw_random/rng_current'), /^virtio/);
      const sums = new Set([zeros]);
      for (let i = 0; i < 4; i++) sums.add(await guest.read(read));
      assert.is(sums.size, 5, [...sums].join(' '));
      // More than one ring's worth of buffers: they are given again and again.
      assert.is(
        await guest.read('dd if=/dev/hwrng bs=4k count=64 iflag=fullblock 2> /dev/null | wc -c'),
        '262144',
      );
      await guest.powerOff();
    }
    assert.equal(await daemon.terminate(), { status: 0, signal: null });
  });
}

test.run();
