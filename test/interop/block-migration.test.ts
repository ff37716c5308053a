/**
 * A guest moves from one QEMU to another while it reads and writes its disk, each with a `vhost-user-blk` of its own on the same
 * image. What the guest writes itself is sent whatever the device does, so the proof is in what the device writes: the guest
 * reads a large part of the disk into its page cache after most of the memory was sent, and does not touch it again before it
 * has arrived.
 */
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Belongings } from '../support/guest/belongings.js';
import { blockDevice, negotiated } from '../support/guest/block-matrix.js';
import { startDaemon, startWithoutDirtyLog } from '../support/guest/daemon.js';
import { checksumScript, ModelDisk } from '../support/guest/disk.js';
import { Guest } from '../support/guest/guest.js';
import { LiveMigration } from '../support/guest/migration.js';
import { type RunningProgram, TemporaryFolder } from '../support/guest/processes.js';

const MIB = 1 << 20;
const DISK = 40 * MIB;
/** The part that is read into the page cache; the guest writes behind it. */
const READ = 32 * MIB;
const RECORD = 4096;

interface Pair extends AsyncDisposable {
  readonly disk: ModelDisk;
  readonly source: Guest;
  readonly target: Guest;
  readonly daemons: readonly [RunningProgram, RunningProgram];
}

async function bootPair(options: string, start = startDaemon): Promise<Pair> {
  const belongings = new Belongings();
  try {
    const folder = belongings.keep(new TemporaryFolder());
    const disk = new ModelDisk(folder.file('disk'), DISK, 77);
    const daemonArguments = [`--blk-file=${disk.path}`, '--num-queues=2'];
    const sockets = [folder.file('a'), folder.file('b')] as const;
    const daemons = [
      belongings.keep(await start('vhost-user-blk', sockets[0], daemonArguments)),
      belongings.keep(await startDaemon('vhost-user-blk', sockets[1], daemonArguments)),
    ] as const;
    const source = belongings.keep(await Guest.boot({ devices: blockDevice(sockets[0], options), cpus: 2 }));
    const target = belongings.keep(
      await Guest.boot({ devices: blockDevice(sockets[1], options), cpus: 2, incoming: true }),
    );
    return { disk, source, target, daemons, [Symbol.asyncDispose]: () => belongings[Symbol.asyncDispose]() };
  } catch (error) {
    await belongings[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Has the guest write numbered records behind READ, each followed by fsync, and read others past its page cache, until
 * `stopWriting`. A record counts as written when fsync has returned.
 */
async function startWriting(guest: Guest): Promise<void> {
  await guest.read(`
    # The kernel forgets what it has cached of a disk when nobody has it open any more.
    sleep 10000 < /dev/vda > /dev/null 2>&1 &
    rm -f /run/stop /run/stopped /run/failed /run/written
    (
      i=0
      while [ ! -e /run/stop ] && [ $i -lt ${(DISK - READ) / RECORD} ]; do
        printf 'record %d of the guest\\n' $i | dd of=/dev/vda bs=${RECORD} count=1 conv=sync,notrunc,fsync seek=$((${READ / RECORD} + i)) 2> /run/why &&
        dd if=/dev/vda of=/run/direct bs=64k count=1 iflag=direct skip=$((i % ${READ / 65536})) 2> /run/why || touch /run/failed
        echo $i > /run/written
        i=$((i + 1))
      done
      touch /run/stopped
    ) > /dev/null 2>&1 &
    while [ ! -e /run/written ] && [ ! -e /run/failed ]; do usleep 10000; done`);
}

/** Gives the number of records that the guest wrote. */
async function stopWriting(guest: Guest): Promise<number> {
  const written = await guest.read(`
    touch /run/stop
    while [ ! -e /run/stopped ]; do usleep 10000; done
    [ ! -e /run/failed ] || { cat /run/why >&2; exit 1; }
    cat /run/written`);
  return Number(written) + 1;
}

/** The checksum of READ bytes as they stand in the page cache; nothing of it was evicted, so nothing is read again. */
const cachedChecksum = `dd if=/dev/vda bs=1M count=${READ / MIB} 2> /dev/null | md5sum | cut -d ' ' -f 1`;
const readIntoCache = `dd if=/dev/vda of=/dev/null bs=1M count=${READ / MIB}`;
/** Sectors that were read from the disk so far. */
const sectorsRead = `awk '{ print $3 }' /sys/block/vda/stat`;

function checkRecords(disk: ModelDisk, count: number): void {
  const file = readFileSync(disk.path);
  for (let i = 0; i < count; i++) {
    const at = READ + i * RECORD;
    const text = `record ${i} of the guest\n`;
    assert.is(file.toString('latin1', at, at + text.length), text);
  }
}

for (const [ring, options] of [
  ['split', ',packed=off,num-queues=2'],
  ['packed', ',packed=on,num-queues=2'],
  [
    'split, without event idx and indirect descriptors',
    ',packed=off,num-queues=2,event_idx=off,indirect_desc=off',
  ],
  [
    'packed, without event idx and indirect descriptors',
    ',packed=on,num-queues=2,event_idx=off,indirect_desc=off',
  ],
] as const) {
  test(`${ring}: a guest that reads and writes moves to another daemon and nothing is lost`, async () => {
    await using pair = await bootPair(options);
    const { disk, source, target, daemons } = pair;
    assert.is((await negotiated(source)).ringPacked, ring.startsWith('packed'));
    await startWriting(source);
    {
      using migration = await LiveMigration.begin(source, target);
      await source.read(readIntoCache);
      await migration.finish();
    }
    const before = Number(await target.read(sectorsRead));
    assert.is(
      await target.read(cachedChecksum),
      disk.checksumOf(0, READ),
      'what the device read for the guest',
    );
    const count = await stopWriting(target);
    assert.ok(count > 4, `${count} records`);
    assert.ok(Number(await target.read(sectorsRead)) - before < READ / 512, 'it came out of the page cache');
    checkRecords(disk, count);
    assert.is(await target.read(`${checksumScript()}`), checksumOfFile(disk), 'the guest and the file agree');
    assert.equal(await daemons[0].terminate(), { status: 0, signal: null });
    await target.read(`dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=notrunc,fsync`);
    await target.powerOff();
  });
}

for (const ring of ['split', 'packed'] as const) {
  test(`${ring}: the same with the dirty log switched off loses what the device wrote`, async () => {
    const options = `,packed=${ring === 'packed' ? 'on' : 'off'},num-queues=2`;
    await using pair = await bootPair(options, startWithoutDirtyLog);
    const { disk, source, target } = pair;
    await startWriting(source);
    using migration = await LiveMigration.begin(source, target);
    await source.read(readIntoCache);
    // A guest whose rings are stale may not even arrive.
    const outcome = await migration.finish().then(
      () => target.run(cachedChecksum, 20_000).catch(() => null),
      () => null,
    );
    assert.is.not(outcome?.stdout.trim(), disk.checksumOf(0, READ));
  });
}

test('a migration that is called off leaves the guest at work on the first daemon', async () => {
  await using pair = await bootPair(',packed=on,num-queues=2');
  const { disk, source, target } = pair;
  await startWriting(source);
  {
    using migration = await LiveMigration.begin(source, target);
    await migration.cancel();
  }
  await source.read(readIntoCache);
  assert.is(await source.read(cachedChecksum), disk.checksumOf(0, READ));
  checkRecords(disk, await stopWriting(source));
});

function checksumOfFile(disk: ModelDisk): string {
  readFileSync(disk.path).copy(disk.model);
  return disk.checksum;
}

test.run();
