/**
 * A guest moves from one QEMU to another ahead of its memory, while it reads and writes its disk. Each QEMU has a
 * `vhost-user-blk --postcopy` of its own on the same image; the second works on memory whose pages are still on the way.
 */
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Belongings } from '../support/guest/belongings.js';
import { blockDevice, negotiated } from '../support/guest/block-matrix.js';
import { startDaemon } from '../support/guest/daemon.js';
import { checksumScript, fsync, ModelDisk } from '../support/guest/disk.js';
import { Guest } from '../support/guest/guest.js';
import { PostcopyMigration } from '../support/guest/postcopy-migration.js';
import { eventually, type RunningProgram, TemporaryFolder } from '../support/guest/processes.js';

const MIB = 1 << 20;
const DISK = 48 * MIB;
/** The part that the guest reads. Records are written behind it, and in the end a copy. */
const READ = 32 * MIB;
const COPY = 8 * MIB;
const RECORD = 4096;
const RECORDS = (DISK - COPY - READ) / RECORD;
/** So that the rest of the memory is on its way, however slow this machine is, until it is told to hurry. */
const SLOWLY = 2 * MIB;
const FAULT = 'vhost_user_postcopy_fault_handler_found';

interface Pair extends AsyncDisposable {
  readonly disk: ModelDisk;
  readonly source: Guest;
  readonly target: Guest;
  readonly daemons: readonly [RunningProgram, RunningProgram];
}

async function bootPair(options: string, targetDaemon: readonly string[] = ['--postcopy']): Promise<Pair> {
  const belongings = new Belongings();
  try {
    const folder = belongings.keep(new TemporaryFolder());
    const disk = new ModelDisk(folder.file('disk'), DISK, 78);
    const common = [`--blk-file=${disk.path}`, '--num-queues=2'];
    const sockets = [folder.file('a'), folder.file('b')] as const;
    const daemons = [
      belongings.keep(await startDaemon('vhost-user-blk', sockets[0], [...common, '--postcopy'])),
      belongings.keep(await startDaemon('vhost-user-blk', sockets[1], [...common, ...targetDaemon])),
    ] as const;
    const source = belongings.keep(await Guest.boot({ devices: blockDevice(sockets[0], options), cpus: 2 }));
    const devices = [...blockDevice(sockets[1], options), '-trace', FAULT];
    const target = belongings.keep(await Guest.boot({ devices, cpus: 2, incoming: true }));
    return { disk, source, target, daemons, [Symbol.asyncDispose]: () => belongings[Symbol.asyncDispose]() };
  } catch (error) {
    await belongings[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Has the guest write numbered records behind READ and check pieces that it reads, both past its page cache, until /run/stop is
 * there.
 */
async function startWorking(guest: Guest, disk: ModelDisk): Promise<void> {
  const pieces = Array.from({ length: 16 }, (_, i) => disk.checksumOf(i * 64 * 1024, 64 * 1024));
  await guest.read(`
    printf '%s\\n' ${pieces.join(' ')} > /run/pieces
    (
      i=0
      while [ ! -e /run/stop ] && [ $i -lt ${RECORDS} ]; do
        printf 'record %d of the guest\\n' $i | dd of=/dev/vda bs=${RECORD} count=1 conv=sync,notrunc oflag=direct seek=$((${READ / RECORD} + i)) 2> /run/why || touch /run/failed
        sum=$(dd if=/dev/vda bs=64k count=1 iflag=direct skip=$((i % 16)) 2> /run/why | md5sum | cut -d ' ' -f 1)
        [ $sum = $(sed -n $((i % 16 + 1))p /run/pieces) ] || echo "piece $i: $sum" >> /run/failed
        echo $i > /run/written
        i=$((i + 1))
      done
      touch /run/stopped
    ) > /dev/null 2>&1 &
    while [ ! -e /run/written ] && [ ! -e /run/failed ]; do usleep 10000; done`);
}

const written = async (guest: Guest): Promise<number> => Number(await guest.read('cat /run/written')) + 1;

/** Gives the number of records that the guest wrote. */
async function stopWorking(guest: Guest): Promise<number> {
  await guest.read(`
    touch /run/stop
    while [ ! -e /run/stopped ]; do usleep 10000; done
    [ ! -e /run/failed ] || { cat /run/failed /run/why >&2; exit 1; }`);
  return written(guest);
}

function checkRecords(disk: ModelDisk, count: number): void {
  const file = readFileSync(disk.path);
  for (let i = 0; i < count; i++) {
    const at = READ + i * RECORD;
    const text = `record ${i} of the guest\n`;
    assert.is(file.toString('latin1', at, at + text.length), text);
  }
  assert.ok(file.subarray(0, READ).equals(disk.model.subarray(0, READ)), 'what was only read');
}

for (const [ring, options] of [
  ['split', ',packed=off,num-queues=2'],
  ['packed', ',packed=on,num-queues=2'],
] as const) {
  test(`${ring}: a guest that reads and writes goes ahead of its memory, and nothing is lost`, async () => {
    await using pair = await bootPair(options);
    const { disk, source, target, daemons } = pair;
    assert.is((await negotiated(source)).ringPacked, ring === 'packed');
    // Memory to leave behind: what was read lies in the guest's page cache, and is read from there on the other side.
    // The kernel drops that with the device's last user, so there is always one.
    await source.read(`
      sleep 1000000 < /dev/vda > /dev/null 2>&1 &
      dd if=/dev/vda of=/dev/null bs=1M count=${READ / MIB}`);
    await startWorking(source, disk);
    // Written by the guest, not by the device yet: that reads it out of pages that the guest does not touch any more.
    await source.read(`
      echo 0 > /proc/sys/vm/dirty_writeback_centisecs
      echo 80 > /proc/sys/vm/dirty_background_ratio
      echo 90 > /proc/sys/vm/dirty_ratio
      dd if=/dev/vda of=/dev/vda bs=1M count=${COPY / MIB} seek=${(DISK - COPY) / MIB} conv=notrunc`);
    using migration = await PostcopyMigration.begin(source, target, SLOWLY);
    await migration.moveAhead();
    await target.read(fsync());
    const before = await written(target);
    assert.is(await migration.status(), 'postcopy-active', 'the guest answers before its memory is there');
    assert.match(daemons[1].output, /postcopy: the guest runs/);
    // Fresh pages of the guest, pages of it that are on the way, and the disk behind its page cache.
    await target.read(`dd if=/dev/vda of=/run/copy bs=256k count=16 iflag=direct`);
    assert.is(
      await target.read(`dd if=/dev/vda bs=1M count=${READ / MIB} 2> /dev/null | md5sum | cut -d ' ' -f 1`),
      disk.checksumOf(0, READ),
    );
    await migration.memoryFollowed();
    const faults = target.qemu.output.split(FAULT).length - 1;
    assert.ok(faults > 0, 'the daemon missed pages');
    const after = await written(target);
    assert.ok(after > before, `${before} records written before, ${after} after`);
    const count = await stopWorking(target);
    checkRecords(disk, count);
    const copy = readFileSync(disk.path).subarray(DISK - COPY);
    assert.ok(copy.equals(disk.model.subarray(0, COPY)), 'what was written from pages that were missing');
    readFileSync(disk.path).copy(disk.model);
    assert.is(await target.read(checksumScript()), disk.checksum, 'the guest and the file agree');
    assert.match(daemons[1].output, /postcopy has ended/);
    assert.equal(await daemons[0].terminate(), { status: 0, signal: null });
    await target.read(`dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=notrunc,fsync`);
    await target.powerOff();
  });
}

test('a target whose daemon takes no part is told so before anything moves', async () => {
  await using pair = await bootPair(',packed=off,num-queues=2', []);
  const { disk, source, target } = pair;
  await startWorking(source, disk);
  const refused = await PostcopyMigration.begin(source, target, SLOWLY).then(
    (migration) => {
      migration[Symbol.dispose]();
      return 'it began';
    },
    (error: unknown) => String(error),
  );

  assert.match(refused, /Postcopy is not supported/);
  // It is said at the same time in another place.
  await eventually(
    () => target.qemu.output.includes('vhost-user backend not capable of postcopy'),
    () => target.qemu.output,
  );
  checkRecords(disk, await stopWorking(source));
});

test.run();
