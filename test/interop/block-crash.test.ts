/**
 * vhost-user-blk is killed with SIGKILL and started again while a guest writes with fsync: the guest sees a pause and no
 * error, and what it was told is on the disk is in the file.
 */
import { createHash } from 'node:crypto';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { blockDevice, negotiated } from '../support/guest/block-matrix.js';
import { startDaemon } from '../support/guest/daemon.js';
import { Guest } from '../support/guest/guest.js';
import { eventually, type RunningProgram, TemporaryFolder } from '../support/guest/processes.js';
import { Random } from '../support/random.js';

const MIB = 1 << 20;
/** Each writer of the guest has so much of the disk to itself. */
const PART = MIB;
const KILLS = 10;

/**
 * A writer for each processor: blocks of 1 to 32 KiB from a file of random bytes, each followed by fsync, every other one past
 * the page cache. Every write that succeeded is done to an image in the guest's memory too.
 */
function startWriters(guest: Guest, writers: number): Promise<string> {
  return guest.read(`
    dd if=/dev/urandom of=/run/source bs=64k count=16 2> /run/why
    : > /run/failed
    for writer in $(seq 0 ${writers - 1}); do
      dd if=/dev/zero of=/run/image$writer bs=64k count=${PART / 65536} 2> /run/why
      cat > /run/writer$writer << END
n=$writer
while [ ! -e /run/stop ]; do
  n=\\$(( (n * 1103515245 + 12345) & 0x7fffffff ))
  size=\\$(( 1 + (n >> 8) % 64 ))
  at=\\$(( (n >> 4) % (${PART / 512} - size) ))
  direct=
  [ \\$(( n & 16 )) = 0 ] || direct=,direct
  blocks="bs=\\$((size * 512)) count=1 iflag=skip_bytes skip=\\$(( at * 512 ))"
  dd if=/run/source of=/run/piece$writer \\$blocks 2> /run/why$writer
  dd if=/run/piece$writer of=/dev/vda bs=\\$((size * 512)) count=1 oflag=seek_bytes\\$direct \\
    seek=\\$(( $writer * ${PART} + at * 512 )) conv=notrunc,fsync 2> /run/why$writer || cat /run/why$writer >> /run/failed
  dd if=/run/piece$writer of=/run/image$writer bs=\\$((size * 512)) count=1 oflag=seek_bytes \\
    seek=\\$(( at * 512 )) conv=notrunc 2> /run/why$writer
  echo >> /run/written$writer
done
touch /run/stopped$writer
END
      taskset $(printf %x $((1 << writer))) sh /run/writer$writer > /run/out$writer 2>&1 &
    done`);
}

/** The memory in which the daemon keeps record for its successor, as QEMU has given it back. */
function recordOf(daemon: RunningProgram): string | undefined {
  const maps = readFileSync(`/proc/${daemon.child.pid}/maps`, 'utf8').split('\n');
  const line = maps.find((each) => each.includes('memfd:inflight'));
  // Device and inode.
  return line?.split(/\s+/).slice(3, 5).join(' ');
}

async function written(guest: Guest): Promise<number> {
  return Number(await guest.read('cat /run/written* 2> /run/why | wc -l'));
}

function md5(bytes: Buffer): string {
  return createHash('md5').update(bytes).digest('hex');
}

for (const packed of ['off', 'on']) {
  for (const queues of [1, 4]) {
    const ring = packed === 'on' ? 'packed' : 'split';
    test(`${ring}, ${queues} queues: the guest writes on while the daemon is killed ${KILLS} times`, async () => {
      using folder = new TemporaryFolder();
      const random = new Random(queues * 2 + (packed === 'on' ? 1 : 0));
      const disk = folder.file('disk');
      writeFileSync(disk, '');
      truncateSync(disk, queues * PART);
      const socket = folder.file('blk');
      const start = (): Promise<RunningProgram> =>
        startDaemon('vhost-user-blk', socket, [`--blk-file=${disk}`, `--num-queues=${queues}`]);
      let daemon = await start();
      try {
        await using guest = await Guest.boot({
          devices: blockDevice(socket, `,num-queues=${queues},packed=${packed}`),
          cpus: queues,
        });
        assert.is((await negotiated(guest)).ringPacked, packed === 'on');
        const record = recordOf(daemon);
        assert.type(record, 'string', 'QEMU has it keep record of what is in flight');
        await startWriters(guest, queues);
        for (let kill = 0; kill < KILLS; kill++) {
          const before = await written(guest);
          // Every third one right after QEMU is back; the others at work.
          if (kill % 3 === 0) await delay(random.below(30));
          else {
            await eventually(
              async () => (await written(guest)) >= before + 4 * queues,
              () => `the guest does not go on\n${daemon.output}\n${guest.console}`,
            );
            await delay(random.below(100));
          }
          assert.equal(await daemon.terminate('SIGKILL'), { status: null, signal: 'SIGKILL' });
          daemon = await start();
          await eventually(
            () => daemon.output.includes('a front-end connected'),
            () => `QEMU does not come back\n${daemon.output}`,
          );
        }
        const before = await written(guest);
        await eventually(
          async () => (await written(guest)) >= before + 10 * queues,
          () => `the guest does not go on\n${daemon.output}\n${guest.console}`,
        );
        assert.is(recordOf(daemon), record, 'the last daemon goes by what the first one began');
        await guest.read(`
          touch /run/stop
          for writer in $(seq 0 ${queues - 1}); do while [ ! -e /run/stopped$writer ]; do usleep 10000; done; done`);
        assert.is(await guest.read('cat /run/failed'), '', 'no write failed');
        assert.not.match(
          await guest.read('dmesg'),
          /I\/O error|blk_update_request|virtblk_timeout|blocked for more than/i,
        );
        await guest.read('echo 3 > /proc/sys/vm/drop_caches');
        const file = readFileSync(disk);
        for (let writer = 0; writer < queues; writer++) {
          const expected = await guest.read(`md5sum < /run/image${writer} | cut -d ' ' -f 1`);
          const seen = await guest.read(
            `dd if=/dev/vda bs=64k skip=${(writer * PART) / 65536} count=${PART / 65536} iflag=direct 2> /run/why | md5sum | cut -d ' ' -f 1`,
          );
          const part = file.subarray(writer * PART, (writer + 1) * PART);
          assert.equal(
            [seen, md5(part)],
            [expected, expected],
            `part ${writer}: as the guest reads it, in the file`,
          );
        }
        await guest.powerOff();
      } finally {
        await daemon[Symbol.asyncDispose]();
      }
    });
  }
}

test('QEMU is killed in the middle of its work, again and again: the daemon serves the next one, and has kept what was fsynced', async () => {
  using folder = new TemporaryFolder();
  const disk = folder.file('disk');
  writeFileSync(disk, '');
  truncateSync(disk, 2 * PART);
  const socket = folder.file('blk');
  await using daemon = await startDaemon('vhost-user-blk', socket, [`--blk-file=${disk}`, '--num-queues=2']);
  for (const packed of ['off', 'on', 'off']) {
    await using guest = await Guest.boot({
      devices: blockDevice(socket, `,num-queues=2,packed=${packed}`),
      cpus: 2,
    });
    const mark = `mark-${packed}-${guest.qemu.child.pid}`;
    await guest.read(`echo ${mark} | dd of=/dev/vda bs=512 count=1 conv=sync,notrunc,fsync 2> /run/why`);
    assert.is(readFileSync(disk).subarray(0, mark.length).toString(), mark);
    await startWriters(guest, 2);
    await eventually(
      async () => (await written(guest)) >= 8,
      () => `the guest does not write\n${daemon.output}\n${guest.console}`,
    );
    assert.equal(await guest.qemu.terminate('SIGKILL'), { status: null, signal: 'SIGKILL' });
    assert.is(daemon.exit, null);
  }
  assert.equal(await daemon.terminate(), { status: 0, signal: null });
});

test.run();
