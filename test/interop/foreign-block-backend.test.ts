/** The mock front-end and the driver's queues against a back-end that is not ours: qemu-storage-daemon. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  BlockClient,
  createLinuxPlatform,
  MockDriver,
  type MockDriverOptions,
} from '../../runtime/testing/index.js';
import { startListening } from '../support/guest/daemon.js';
import { PATIENCE, type RunningProgram, TemporaryFolder } from '../support/guest/processes.js';
import { Random } from '../support/random.js';

const test = suite('qemu-storage-daemon under the mock driver');

const DISK_BYTES = 16 << 20;
const BLOCK_BYTES = 4096;

const folder = new TemporaryFolder();
let daemon: RunningProgram;

test.before(async () => {
  writeFileSync(imagePath(), '');
  truncateSync(imagePath(), DISK_BYTES);
  daemon = await startListening('qemu-storage-daemon', socketPath(), 'qemu-storage-daemon', [
    ...['--blockdev', `driver=file,node-name=disk,filename=${imagePath()},discard=unmap`],
    '--export',
    `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${socketPath()},writable=on,num-queues=2`,
  ]);
});

test.after(async () => {
  await daemon[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

const variants: Partial<MockDriverOptions>[] = [
  {},
  { eventIdx: false },
  { indirect: false },
  { ram: { regions: 8, size: 16 << 20 } },
  { queues: 2 },
];

for (const [pass, variant] of variants.entries()) {
  test(`a whole disk is written, flushed and read back: ${JSON.stringify(variant)}`, async () => {
    using driver = await start(variant);
    const disk = new BlockClient(driver.queues.at(-1)!);
    const { capacity } = await BlockClient.configuration(driver);
    assert.is(capacity, BigInt(DISK_BYTES / 512));
    const random = new Random(pass);
    const positions = Float64Array.from({ length: DISK_BYTES / BLOCK_BYTES }, (_, i) => i * BLOCK_BYTES);
    for (let i = positions.length - 1; i > 0; i--) {
      const j = random.below(i + 1);
      [positions[i], positions[j]] = [positions[j]!, positions[i]!];
    }
    const word = (position: number, i: number) => (Math.imul(position + i, 0x9e3779b1) + pass) >>> 0;
    const common = { positions, blockLength: BLOCK_BYTES, depth: 48, indirect: variant.indirect !== false };
    await disk.run({
      ...common,
      operation: 'write',
      fill: (words, first, position) => {
        for (let i = 0; i < BLOCK_BYTES / 4; i++) words[first + i] = word(position, i);
      },
    });
    await disk.flush();
    const image = readFileSync(imagePath());
    const onDisk = new Uint32Array(image.buffer, image.byteOffset, image.byteLength >>> 2);
    const wrong = onDisk.findIndex(
      (value, i) => value !== word(i * 4 - ((i * 4) % BLOCK_BYTES), i % (BLOCK_BYTES / 4)),
    );
    assert.is(wrong, -1, 'the image holds what was written');
    await disk.run({
      ...common,
      operation: 'read',
      check: (words, first, position) => {
        for (let i = 0; i < BLOCK_BYTES / 4; i++) {
          if (words[first + i] !== word(position, i)) throw new Error(`wrong word ${i} at byte ${position}`);
        }
      },
    });
  });
}

test('single requests: discard, write zeroes, serial number, a read past the end', async () => {
  using driver = await start({});
  const disk = new BlockClient(driver.queues[0]!);
  await disk.write(65536, new Uint8Array(8192).fill(0xa7));
  await disk.discard(65536, 4096);
  assert.equal(
    await disk.read(65536, 4096),
    new Uint8Array(4096),
    'a discarded hole of a file reads as zeros',
  );
  await disk.writeZeroes(69632, 512, { unmap: true });
  assert.equal(await disk.read(69632, 512), new Uint8Array(512));
  assert.equal(await disk.read(70144, 512), new Uint8Array(512).fill(0xa7));
  assert.is(await disk.getId(), 'vhost_user_blk');
  const error = await disk.read(DISK_BYTES, 512).catch((reason: unknown) => reason as Error);
  assert.match(String((error as Error).message), /IOERR/);
});

test('rings are stopped and go on where they stood', async () => {
  using driver = await start({ queues: 2, queueSize: 16 });
  for (let i = 0; i < 21; i++) await new BlockClient(driver.queues[1]!).read(i * 512, 512);
  const states = await driver.stopRings();
  assert.equal(states[1], { format: 'split', nextAvailable: 21, nextUsed: 21 });
  await driver.startRings(states);
  await new BlockClient(driver.queues[1]!).read(0, 512);
});

function start(options: Partial<MockDriverOptions>): Promise<MockDriver> {
  return MockDriver.start({
    platform: createLinuxPlatform(),
    path: socketPath(),
    signal: AbortSignal.timeout(PATIENCE),
    ...options,
  });
}

function imagePath(): string {
  return folder.file('disk.img');
}

function socketPath(): string {
  return folder.file('disk.sock');
}

test.run();
