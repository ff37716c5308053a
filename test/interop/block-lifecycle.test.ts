import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { blockDevice, negotiated } from '../support/guest/block-matrix.js';
import { startDaemon } from '../support/guest/daemon.js';
import { checksumScript, fsync, ModelDisk } from '../support/guest/disk.js';
import { Guest } from '../support/guest/guest.js';
import { eventually, type RunningProgram, TemporaryFolder } from '../support/guest/processes.js';

const MIB = 1 << 20;

interface Served extends AsyncDisposable {
  readonly disk: ModelDisk;
  readonly socket: string;
  readonly daemon: RunningProgram;
}

async function serve(size: number, ...args: string[]): Promise<Served> {
  const folder = new TemporaryFolder();
  const disk = new ModelDisk(folder.file('disk'), size, size);
  const socket = folder.file('blk');
  const daemon = await startDaemon('vhost-user-blk', socket, [`--blk-file=${disk.path}`, ...args]);
  return {
    disk,
    socket,
    daemon,
    async [Symbol.asyncDispose]() {
      await daemon[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
    },
  };
}

/** Open fds and mappings of guest memory of a process. */
function holdings(daemon: RunningProgram): { mappings: number } {
  const maps = readFileSync(`/proc/${daemon.child.pid}/maps`, 'utf8').split('\n');
  return { mappings: maps.filter((line) => line.includes('memfd:memory-backend-memfd')).length };
}

/**
 * Has the guest read and write without a pause until `stopWork`. Every write puts back what was read. The work has a device
 * node of its own: dd would make a plain file in the place of a node that the kernel took away.
 */
async function startWork(guest: Guest): Promise<void> {
  await guest.read(`
    rm -f /run/stop /run/stopped /run/failed /run/rounds /run/disk
    mknod /run/disk b $(tr : ' ' < /sys/block/vda/dev)
    (
      while [ ! -e /run/stop ]; do
        for at in 0 1 2 3 4 5 6 7; do
          dd if=/run/disk of=/run/work bs=256k count=1 skip=$at iflag=direct 2> /run/why &&
          dd if=/run/work of=/run/disk bs=256k count=1 seek=$at oflag=direct conv=notrunc 2> /run/why || touch /run/failed
        done
        echo >> /run/rounds
      done
      touch /run/stopped
    ) > /dev/null 2>&1 &
    while [ ! -e /run/rounds ] && [ ! -e /run/failed ]; do usleep 10000; done`);
}

async function stopWork(guest: Guest): Promise<void> {
  await guest.read(`
    touch /run/stop
    while [ ! -e /run/stopped ]; do usleep 10000; done
    [ ! -e /run/failed ] || { cat /run/why >&2; exit 1; }`);
}

test('the serial is what GET_ID says, the geometry what the file has, down to half a page', async () => {
  const size = 3 * MIB + 5 * 512;
  await using served = await serve(size, '--serial=DISK-0123456789-end.');
  await using guest = await Guest.boot({ devices: blockDevice(served.socket) });
  assert.is(await guest.read('cat /sys/block/vda/size'), String(size / 512));
  // 20 bytes, as long as one can be: nothing ends it on the wire.
  assert.is(await guest.read('cat /sys/block/vda/serial'), 'DISK-0123456789-end.');
  assert.is(await guest.read('cat /sys/block/vda/ro'), '0');
  assert.is(await guest.read('cat /sys/block/vda/queue/logical_block_size'), '512');
  assert.is(await guest.read('md5sum < /dev/vda | cut -d " " -f 1'), served.disk.checksum);
  // The last sector, alone and past the page cache.
  await guest.read(`dd if=/dev/vda of=/run/first bs=512 count=1 iflag=direct`);
  await guest.read(
    `dd if=/run/first of=/dev/vda bs=512 seek=${size / 512 - 1} oflag=direct conv=notrunc,fsync`,
  );
  served.disk.model.copyWithin(size - 512, 0, 512);
  assert.is(served.disk.difference(), null);
});

for (const ring of ['split', 'packed'] as const) {
  const packed = `,packed=${ring === 'packed' ? 'on' : 'off'}`;

  test(`${ring}: a read-only disk is read, and every write to it refused`, async () => {
    await using served = await serve(4 * MIB, '--read-only');
    await using guest = await Guest.boot({ devices: blockDevice(served.socket, packed) });
    const features = await negotiated(guest);
    assert.is(features.readOnly, true);
    assert.is(features.ringPacked, ring === 'packed');
    assert.is(await guest.read('cat /sys/block/vda/ro'), '1');
    assert.is(await guest.read(checksumScript()), served.disk.checksum);
    assert.is.not((await guest.run('dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct')).status, 0);
    assert.is.not((await guest.run('/usr/sbin/blkdiscard -f /dev/vda')).status, 0);
    assert.is(served.disk.difference(), null);
    assert.is(await guest.read(checksumScript()), served.disk.checksum);
  });

  test(`${ring}: reboot inside the guest, and a reset from outside while it works, start over on the same connection`, async () => {
    await using served = await serve(8 * MIB);
    await using guest = await Guest.boot({ devices: blockDevice(served.socket, packed) });
    await served.disk.copyAround(guest, 6);
    await guest.reboot();
    assert.is(await guest.read(checksumScript()), served.disk.checksum);
    await served.disk.copyAround(guest, 6);
    assert.is(served.disk.difference(), null);
    await startWork(guest);
    await guest.reset();
    assert.is(await guest.read(checksumScript()), served.disk.checksum);
    await served.disk.copyAround(guest, 6);
    assert.is(served.disk.difference(), null);
    assert.equal(await served.daemon.terminate(), { status: 0, signal: null });
  });

  test(`${ring}: memory plugged in while the guest works is used, and nothing is lost`, async () => {
    await using served = await serve(8 * MIB);
    await using guest = await Guest.boot({ devices: blockDevice(served.socket, packed), hotplugMemory: 256 });
    const memory = async (): Promise<number> =>
      Number(await guest.read("awk '/MemTotal/{print $2}' /proc/meminfo"));
    const before = await memory();
    const { mappings } = holdings(served.daemon);
    assert.ok(mappings > 0);
    await startWork(guest);
    await guest.qmp.execute('object-add', {
      'qom-type': 'memory-backend-memfd',
      id: 'more',
      size: 128 * MIB,
      share: true,
    });
    await guest.qmp.execute('device_add', { driver: 'pc-dimm', id: 'dimm0', memdev: 'more' });
    await eventually(
      async () => (await memory()) > before + 100 * 1024,
      () => 'the guest does not see the memory',
    );
    assert.ok(holdings(served.daemon).mappings > mappings, 'the new region is mapped');
    await stopWork(guest);
    // All there was is below 4 GiB, so the kernel takes pages for its cache from what was added first.
    await guest.read('echo 3 > /proc/sys/vm/drop_caches');
    assert.is(await guest.read('md5sum < /dev/vda | cut -d " " -f 1'), served.disk.checksum);
    await served.disk.copyAround(guest, 12);
    assert.is(served.disk.difference(), null);
    assert.is(served.daemon.exit, null);
  });

  test(`${ring}: a disk unplugged at work comes back when it is plugged in again`, async () => {
    await using served = await serve(8 * MIB);
    await using guest = await Guest.boot({
      devices: [
        '-device',
        'pcie-root-port,id=port0,chassis=1,slot=1',
        ...blockDevice(served.socket, `,bus=port0${packed}`),
      ],
    });
    await served.disk.copyAround(guest, 4);
    for (let round = 0; round < 2; round++) {
      await startWork(guest);
      const seen = guest.qmp.events.length;
      await guest.qmp.execute('device_del', { id: 'disk0' });
      await guest.qmp.event(
        ({ event, data }) => event === 'DEVICE_DELETED' && data?.['device'] === 'disk0',
        seen,
      );
      await guest.read(
        'touch /run/stop; while [ -e /sys/block/vda ] || [ ! -e /run/stopped ]; do usleep 10000; done',
      );
      await guest.qmp.execute('chardev-remove', { id: 'c0' });
      await eventually(
        () => holdings(served.daemon).mappings === 0,
        () => 'the guest memory is still mapped after the device went',
      );
      assert.is(served.disk.difference(), null);
      await guest.qmp.execute('chardev-add', {
        id: 'c0',
        backend: {
          type: 'socket',
          data: { addr: { type: 'unix', data: { path: served.socket } }, server: false, reconnect: 1 },
        },
      });
      await guest.qmp.execute('device_add', {
        driver: 'vhost-user-blk-pci',
        id: 'disk0',
        chardev: 'c0',
        bus: 'port0',
        packed: ring === 'packed',
      });
      await guest.read('while [ ! -b /dev/vda ]; do usleep 10000; done');
      assert.is(await guest.read(checksumScript()), served.disk.checksum);
      await served.disk.copyAround(guest, 4);
      assert.is(served.disk.difference(), null);
    }
  });

  test(`${ring}: SIGTERM ends the daemon at once while the guest writes; what was fsynced is in the file`, async () => {
    await using served = await serve(8 * MIB);
    await using guest = await Guest.boot({ devices: blockDevice(served.socket, packed) });
    await served.disk.copyAround(guest, 8);
    await startWork(guest);
    assert.equal(await served.daemon.terminate(), { status: 0, signal: null });
    assert.is(served.disk.difference(), null);
  });
}

test('a RAM disk starts empty and keeps what one guest wrote for the next', async () => {
  using folder = new TemporaryFolder();
  const socket = folder.file('blk');
  await using daemon = await startDaemon('vhost-user-blk', socket, ['--memory=8M']);
  const sums: string[] = [];
  for (let boot = 0; boot < 2; boot++) {
    await using guest = await Guest.boot({ devices: blockDevice(socket, ',packed=on') });
    sums.push(await guest.read(checksumScript()));
    if (boot === 0) {
      await guest.read(`dd if=/dev/urandom of=/dev/vda bs=64k count=100 conv=notrunc && ${fsync()}`);
      await guest.read('echo 3 > /proc/sys/vm/drop_caches');
      sums.push(await guest.read(checksumScript()));
    }
    await guest.powerOff();
  }
  const empty = createHash('md5')
    .update(new Uint8Array(8 * MIB))
    .digest('hex');
  assert.is(sums[0], empty);
  assert.is.not(sums[1], empty);
  assert.is(sums[2], sums[1]);
  assert.is(daemon.exit, null);
});

test('where the kernel has no io_uring, threads serve the disk all the same', async () => {
  process.env['VHOST_USER_BLOCK_ENGINE'] = 'threads';
  try {
    await using served = await serve(8 * MIB, '--num-queues=2');
    await using guest = await Guest.boot({ devices: blockDevice(served.socket, ',num-queues=2'), cpus: 2 });
    assert.is(await guest.read(checksumScript()), served.disk.checksum);
    await served.disk.copyAround(guest, 16);
    await served.disk.discard(guest, MIB, MIB);
    await served.disk.writeZeroes(guest, 3 * MIB, MIB);
    assert.is(served.disk.difference(), null);
  } finally {
    delete process.env['VHOST_USER_BLOCK_ENGINE'];
  }
});

test('two guests one after the other, then a third with the other ring format, on the same daemon', async () => {
  await using served = await serve(8 * MIB, '--num-queues=2');
  for (const options of [
    ',packed=off,num-queues=2',
    ',packed=off,num-queues=1',
    ',packed=on,num-queues=2,queue-size=16',
  ]) {
    await using guest = await Guest.boot({ devices: blockDevice(served.socket, options), cpus: 2 });
    assert.is(await guest.read(checksumScript()), served.disk.checksum);
    await served.disk.copyAround(guest, 10);
    assert.is(served.disk.difference(), null);
    await guest.powerOff();
  }
  await eventually(
    () => holdings(served.daemon).mappings === 0,
    () => 'guest memory is still mapped after the guests are gone',
  );
});

test('a QEMU that is killed at work leaves a daemon that serves the next one', async () => {
  await using served = await serve(8 * MIB);
  {
    await using guest = await Guest.boot({ devices: blockDevice(served.socket) });
    await startWork(guest);
    await guest.qemu.terminate('SIGKILL');
  }
  assert.is(served.disk.difference(), null);
  await using guest = await Guest.boot({ devices: blockDevice(served.socket) });
  assert.is(await guest.read(checksumScript()), served.disk.checksum);
  await guest.read(`dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=notrunc && ${fsync()}`);
  served.disk.model.fill(0, 0, 4096);
  assert.is(served.disk.difference(), null);
});

test.run();
