/** Our front-end and block client on block back-ends: qemu-storage-daemon, and our own program, killed and restarted. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockClient } from '../../runtime/drivers/blk/block-client.js';
import { VirtioDriver, type VirtioDriverOptions } from '../../runtime/drivers/virtio-driver.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { daemonPath, startDaemon, startListening } from '../support/guest/daemon.js';
import { PATIENCE, RunningProgram, TemporaryFolder, within } from '../support/guest/processes.js';
import { Qmp } from '../support/guest/qmp.js';
import { Random } from '../support/random.js';

const test = suite('front-end on block back-ends');

const MIB = 1 << 20;
const DISK = 8 * MIB;
const BLOCK = 4096;
const LIMIT_MS = PATIENCE;

const platform = createLinuxPlatform();

interface StorageDaemon extends AsyncDisposable {
  readonly image: string;
  readonly socket: string;
  readonly qmp: Qmp;
}

async function storageDaemon(): Promise<StorageDaemon> {
  const folder = new TemporaryFolder();
  const [image, socket, monitor] = [folder.file('disk'), folder.file('blk'), folder.file('qmp')];
  writeFileSync(image, '');
  truncateSync(image, DISK);
  const program = await startListening('qemu-storage-daemon', socket, 'qemu-storage-daemon', [
    ...['--blockdev', `driver=file,node-name=disk,filename=${image},discard=unmap`],
    ...['--chardev', `socket,id=monitor,path=${monitor},server=on,wait=off`],
    ...['--monitor', 'chardev=monitor'],
    '--export',
    `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${socket},writable=on,num-queues=2`,
  ]);
  const qmp = await Qmp.open(monitor, program);
  return {
    image,
    socket,
    qmp,
    async [Symbol.asyncDispose]() {
      qmp.close();
      await program[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
    },
  };
}

/** Resolves when the back-end says that its configuration space has changed. */
function announced(driver: VirtioDriver): Promise<void> {
  return new Promise((resolve) => driver.frontend.once('configurationChanged', () => resolve()));
}

function connect(path: string, options: Partial<VirtioDriverOptions> = {}): Promise<VirtioDriver> {
  return VirtioDriver.start({ platform, path, signal: AbortSignal.timeout(LIMIT_MS), ...options });
}

/** Writes every block with a pattern of the salt's, in a shuffled order; what the disk holds then. */
async function fill(disk: BlockClient, salt: number, onBlock?: (n: number) => void): Promise<Uint32Array> {
  const expected = new Uint32Array(DISK / 4);
  let blocks = 0;
  await disk.run({
    operation: 'write',
    positions: shuffled(salt),
    blockLength: BLOCK,
    depth: 48,
    indirect: true,
    fill: (words, first, position) => {
      for (let i = 0; i < BLOCK / 4; i++) {
        words[first + i] = expected[position / 4 + i] = Math.imul(position + i, 0x9e3779b1) ^ salt;
      }
      onBlock?.(++blocks);
    },
  });
  return expected;
}

async function check(disk: BlockClient, expected: Uint32Array, salt: number): Promise<void> {
  const { requests } = await disk.run({
    operation: 'read',
    positions: shuffled(salt + 1),
    blockLength: BLOCK,
    depth: 48,
    indirect: true,
    check: (words, first, position) => {
      for (let i = 0; i < BLOCK / 4; i++) {
        if (words[first + i] !== expected[position / 4 + i]) {
          throw new Error(`word ${i} of the block at ${position} is wrong`);
        }
      }
    },
  });
  assert.is(requests, DISK / BLOCK);
}

function shuffled(seed: number): Float64Array {
  const random = new Random(seed);
  const positions = Float64Array.from({ length: DISK / BLOCK }, (_, i) => i * BLOCK);
  for (let i = positions.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [positions[i], positions[j]] = [positions[j]!, positions[i]!];
  }
  return positions;
}

function imageOf(path: string): Uint32Array {
  const bytes = readFileSync(path);
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2);
}

const variants: Partial<VirtioDriverOptions>[] = [
  { order: 'virtio-user' },
  { order: 'qemu' },
  { memory: { size: 16 * MIB, regions: 8, filePerRegion: true } },
  { memoryTable: true, memory: { size: 16 * MIB, regions: 4 } },
];

for (const [salt, variant] of variants.entries()) {
  test(`qemu-storage-daemon: written, flushed and read back, ${JSON.stringify(variant)}`, async () => {
    await using daemon = await storageDaemon();
    using driver = await connect(daemon.socket, { queues: 2, ...variant });
    const disk = new BlockClient(driver.queues[1]!);
    assert.is((await BlockClient.configuration(driver)).capacity, BigInt(DISK / 512));
    const expected = await fill(disk, salt);
    await disk.flush();
    assert.ok(Buffer.from(imageOf(daemon.image).buffer).equals(Buffer.from(expected.buffer)), 'the image');
    await check(new BlockClient(driver.queues[0]!), expected, salt);
    await disk.discard(65536, 65536);
    assert.equal(
      await disk.read(65536, 65536),
      new Uint8Array(65536),
      'a discarded part of a file is a hole',
    );
    await disk.writeZeroes(0, BLOCK, { unmap: true });
    assert.equal(await disk.read(0, BLOCK), new Uint8Array(BLOCK));
  });
}

test('qemu-storage-daemon: a resize comes as a change of the configuration space, from QEMU 8.1 on', async () => {
  await using daemon = await storageDaemon();
  using driver = await connect(daemon.socket);
  const changed = announced(driver);
  const { qemu } = await daemon.qmp.execute<{ qemu: { major: number; minor: number } }>('query-version');
  await daemon.qmp.execute('block_resize', { 'node-name': 'disk', size: 2 * DISK });
  const disk = new BlockClient(driver.queues[0]!);
  await disk.write(DISK, new Uint8Array(BLOCK).fill(7));
  assert.equal(await disk.read(DISK, BLOCK), new Uint8Array(BLOCK).fill(7));
  // An older one serves what it got, but goes on to show the capacity of its start.
  const tells = qemu.major > 8 || (qemu.major === 8 && qemu.minor >= 1);
  if (tells) await within(LIMIT_MS, changed, () => 'the change was not announced');
  assert.is((await BlockClient.configuration(driver)).capacity, BigInt(((tells ? 2 : 1) * DISK) / 512));
});

test('vhost-user-blk: a resize comes as a change of the configuration space', async () => {
  using folder = new TemporaryFolder();
  const image = folder.file('disk');
  writeFileSync(image, '');
  truncateSync(image, DISK);
  await using daemon = await startDaemon('vhost-user-blk', folder.file('blk'), [`--blk-file=${image}`]);
  using driver = await connect(folder.file('blk'));
  const changed = announced(driver);
  truncateSync(image, 2 * DISK);
  daemon.child.kill('SIGHUP');
  await within(LIMIT_MS, changed, () => `the change was not announced\n${daemon.output}`);
  assert.is((await BlockClient.configuration(driver)).capacity, BigInt((2 * DISK) / 512));
  await new BlockClient(driver.queues[0]!).write(2 * DISK - 512, new Uint8Array(512));
});

test('qemu-storage-daemon: memory is plugged and used while requests run, rings stop and go on', async () => {
  await using daemon = await storageDaemon();
  using driver = await connect(daemon.socket, { queues: 2, memory: { size: 2 * MIB } });
  const disk = new BlockClient(driver.queues[0]!);
  const under = fill(disk, 5);
  const added = await driver.addMemory(4 * MIB);
  const expected = await under;
  const before = driver.memory.freeBytes;
  // Larger than the memory of before: it lies in what was plugged.
  const data = new Uint8Array(2 * MIB).fill(9);
  await new BlockClient(driver.queues[1]!).write(0, data);
  expected.fill(0x0909_0909, 0, data.byteLength / 4);
  assert.is(driver.memory.freeBytes, before);
  const states = await driver.stopRings();
  assert.is(states[1]!.nextAvailable, 1);
  await driver.resumeRings();
  await driver.removeMemory(added);
  await check(disk, expected, 5);
});

for (const format of ['split', 'packed'] as const) {
  for (const inOrder of [false, true]) {
    test(`vhost-user-blk: ${format}${inOrder ? ', in order' : ''}: written, flushed, read back`, async () => {
      using folder = new TemporaryFolder();
      const image = folder.file('disk');
      writeFileSync(image, '');
      truncateSync(image, DISK);
      await using _daemon = await startDaemon('vhost-user-blk', folder.file('blk'), [`--blk-file=${image}`]);
      using driver = await connect(folder.file('blk'), { format, inOrder });
      assert.is((driver.features & VirtioFeature.inOrder) !== 0n, inOrder);
      assert.is(driver.format, format);
      const disk = new BlockClient(driver.queues[0]!);
      const expected = await fill(disk, 11);
      await disk.flush();
      assert.ok(Buffer.from(imageOf(image).buffer).equals(Buffer.from(expected.buffer)), 'the image');
      await check(disk, expected, 11);
    });
  }

  for (const listen of [true, false]) {
    const how = listen ? 'we listen' : 'we connect again';
    test(`vhost-user-blk: ${format}, ${how}: killed in the middle of its work, the next one finishes it`, async () => {
      using folder = new TemporaryFolder();
      const [image, socket] = [folder.file('disk'), folder.file('blk')];
      writeFileSync(image, '');
      truncateSync(image, DISK);
      const start = (): RunningProgram =>
        new RunningProgram('vhost-user-blk', process.execPath, [
          daemonPath('vhost-user-blk'),
          `--socket-path=${socket}`,
          `--blk-file=${image}`,
          ...(listen ? ['--connect'] : []),
        ]);
      let daemon = start();
      try {
        using driver = await connect(socket, {
          format,
          listen,
          reconnect: true,
          retry: { attempts: Infinity, delayMilliseconds: 10 },
        });
        const reconnected = () =>
          new Promise<void>((resolve) => driver.frontend.once('reconnected', () => resolve()));
        const disk = new BlockClient(driver.queues[0]!);
        const killed: Promise<void>[] = [];
        const kill = async (): Promise<void> => {
          const back = reconnected();
          await daemon.terminate('SIGKILL');
          daemon = start();
          await back;
        };
        const expected = await within(
          LIMIT_MS,
          fill(disk, 21, (n) => {
            if (n === 700) killed.push(kill());
          }),
          () => `the batch does not end\n${daemon.output}`,
        );
        await Promise.all(killed);
        assert.is(killed.length, 1);
        await disk.flush();
        assert.ok(Buffer.from(imageOf(image).buffer).equals(Buffer.from(expected.buffer)), 'the image');
        await check(disk, expected, 21);
      } finally {
        await daemon[Symbol.asyncDispose]();
      }
    });
  }
}

test.run();
