/** MockDriver and BlockClient against the back-end of this package, in memory. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { RamBacking } from '../../runtime/backings/ram.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import {
  BlockClient,
  createFakePlatform,
  type FakePlatform,
  MockDriver,
  type MockDriverOptions,
} from '../../runtime/testing/index.js';
import { serveDevice, type VhostUserBackend } from '../../runtime/vhost-user/backend/server.js';
import type { VhostError } from '../../runtime/errors.js';
import { VirtioFeature } from '../../generated/virtio/features.js';

const test = suite('mock driver and block client');

const DISK_BYTES = 1 << 20;
const PATH = '/run/disk.sock';

const variants: Partial<MockDriverOptions>[] = [
  {},
  { eventIdx: false },
  { indirect: false },
  { inOrder: true },
  { withoutKick: true },
  { ram: { regions: 8, size: 4 << 20 } },
  { protocol: 0n },
  { queues: 2 },
];

for (const format of ['split', 'packed'] as const) {
  for (const variant of variants) {
    const name = JSON.stringify(variant, (_, value: unknown) =>
      typeof value === 'bigint' ? String(value) : value,
    );
    test(`${format} ${name}: blocks are read back as written`, async () => {
      await withDisk(async ({ platform }) => {
        using driver = await MockDriver.start({ platform, path: PATH, format, ...variant });
        assert.is(driver.format, format);
        for (const queue of driver.queues) {
          const disk = new BlockClient(queue);
          const data = Uint8Array.from({ length: 4096 }, (_, i) => i * 7 + queue.index);
          await disk.write(8192, data);
          await disk.flush();
          assert.equal(await disk.read(8192, 4096), data);
          await disk.writeZeroes(8704, 512);
          assert.equal(await disk.read(8704, 512), new Uint8Array(512));
          assert.equal(await disk.read(9216, 512), data.subarray(1024, 1536));
          assert.is(await disk.getId(), 'vhost-user-blk');
        }
      });
    });
  }
}

test('the configuration space comes decoded', async () => {
  await withDisk(async ({ platform }) => {
    using driver = await MockDriver.start({ platform, path: PATH });
    assert.is((await BlockClient.configuration(driver)).capacity, BigInt(DISK_BYTES / 512));
  });
});

test('a request that the device refuses rejects with the status by name', async () => {
  await withDisk(async ({ platform }) => {
    using driver = await MockDriver.start({ platform, path: PATH });
    const disk = new BlockClient(driver.queues[0]!);
    const error = await disk.read(DISK_BYTES, 512).catch((reason: unknown) => reason as Error);
    assert.match(String((error as Error).message), /read at sector 2048: IOERR \(1\)/);
    const odd = await disk.read(100, 512).catch((reason: unknown) => reason as Error);
    assert.match(String((odd as Error).message), /position 100 and length 512 must be multiples of 512/);
    assert.is((await disk.read(0, 512)).byteLength, 512, 'the queue goes on');
  });
});

for (const format of ['split', 'packed'] as const) {
  for (const depth of [1, 7, 64]) {
    test(`${format}: a batch writes and checks every block with ${depth} under way`, async () => {
      await withDisk(async ({ platform }) => {
        using driver = await MockDriver.start({ platform, path: PATH, format, queueSize: 64 });
        const before = driver.ram.freeBytes;
        const disk = new BlockClient(driver.queues[0]!);
        const positions = Float64Array.from({ length: DISK_BYTES / 4096 }, (_, i) => ((i * 37) % 256) * 4096);
        const common = { positions, blockLength: 4096, depth, indirect: true };
        const written = await disk.run({
          ...common,
          operation: 'write',
          fill: (words, first, position) => words.fill(position + 1, first, first + 1024),
        });
        assert.is(written.requests, 256);
        assert.is(written.bytes, DISK_BYTES);
        const checked: number[] = [];
        const read = await disk.run({
          ...common,
          operation: 'read',
          check: (words, first, position) => {
            checked.push(position);
            assert.ok(words.subarray(first, first + 1024).every((word) => word === position + 1));
          },
        });
        assert.equal(
          checked.sort((a, b) => a - b),
          [...positions].sort((a, b) => a - b),
        );
        assert.ok(read.kicks > 0 && read.kicks <= 256);
        assert.is(driver.ram.freeBytes, before);
      });
    });
  }
}

test('a batch ends with the first failure, with nothing left under way', async () => {
  await withDisk(async ({ platform }) => {
    using driver = await MockDriver.start({ platform, path: PATH });
    const disk = new BlockClient(driver.queues[0]!);
    const positions = Float64Array.from({ length: 100 }, (_, i) => (i === 50 ? DISK_BYTES : i * 4096));
    const common = { operation: 'read', blockLength: 4096, depth: 8 } as const;
    const outside = await disk.run({ ...common, positions }).catch((reason: unknown) => reason as Error);
    assert.match(String((outside as Error).message), new RegExp(`read at byte ${DISK_BYTES}: IOERR`));
    assert.is(driver.queues[0]!.driver.inFlight, 0);
    const mismatch = new Error('not what was written');
    const wrong = await disk
      .run({
        ...common,
        positions: positions.slice(0, 50),
        check: (_words, _first, position) => {
          if (position === 4096 * 20) throw mismatch;
        },
      })
      .catch((reason: unknown) => reason);
    assert.is(wrong, mismatch);
    assert.is(driver.queues[0]!.driver.inFlight, 0);
  });
});

test('rings that were stopped go on where they stood, or start afresh', async () => {
  for (const format of ['split', 'packed'] as const) {
    await withDisk(async ({ platform }) => {
      using driver = await MockDriver.start({ platform, path: PATH, format, queues: 2, queueSize: 16 });
      for (let i = 0; i < 9; i++) await new BlockClient(driver.queues[1]!).read(i * 512, 512);
      const states = await driver.stopRings();
      assert.equal(states[1], driver.queues[1]!.driver.state());
      assert.is(states[0]!.nextAvailable, 0);
      await driver.startRings(states);
      assert.equal(driver.queues[1]!.driver.state(), states[1]);
      await new BlockClient(driver.queues[1]!).read(0, 512);
      await driver.stopRings();
      await driver.startRings();
      assert.is(driver.queues[1]!.driver.state().nextAvailable, 0);
      await new BlockClient(driver.queues[1]!).read(0, 512);
    });
  }
});

test('packed rings that were asked for and are not offered: nothing is started', async () => {
  await withDisk(
    async ({ platform }) => {
      const before = platform.openFdCount;
      const refused: unknown = await MockDriver.start({ platform, path: PATH, format: 'packed' }).catch(
        (error: unknown) => error,
      );
      assert.is((refused as VhostError).code, 'ERR_VHOST_GATE');
      assert.match((refused as VhostError).message, /does not offer VIRTIO_F_RING_PACKED,/);
      while (platform.openFdCount > before) await new Promise(setImmediate);
      for (const format of ['split', 'any', undefined] as const) {
        using driver = await MockDriver.start({
          ...{ platform, path: PATH },
          ...(format === undefined ? {} : { format }),
        });
        assert.is(driver.format, 'split', format);
      }
    },
    { withoutFeatures: VirtioFeature.ringPacked },
  );
});

test('rings of any format are packed where they are offered', async () => {
  await withDisk(async ({ platform }) => {
    using driver = await MockDriver.start({ platform, path: PATH, format: 'any' });
    assert.is(driver.format, 'packed');
    await new BlockClient(driver.queues[0]!).read(0, 512);
  });
});

test('a back-end of legacy devices is refused', async () => {
  await withDisk(
    async ({ platform }) => {
      for (const format of ['split', 'packed', 'any'] as const) {
        const refused: unknown = await MockDriver.start({ platform, path: PATH, format }).catch(
          (error: unknown) => error,
        );
        assert.is((refused as VhostError).code, 'ERR_VHOST_GATE');
        assert.match((refused as VhostError).message, /does not offer VIRTIO_F_VERSION_1/, format);
      }
    },
    { withoutFeatures: VirtioFeature.version1 },
  );
});

test('a back-end that goes away fails what waits, and a second driver finds the next one', async () => {
  await withDisk(async ({ platform, backend }) => {
    using driver = await MockDriver.start({ platform, path: PATH });
    const disk = new BlockClient(driver.queues[0]!);
    await disk.read(0, 512);
    backend.close();
    await driver.frontend.ended;
    const error = await disk.read(0, 512).catch((reason: unknown) => reason as Error);
    assert.is((error as { code?: string }).code, 'ERR_VHOST_DISCONNECTED');
    const batch = disk.run({ operation: 'read', positions: new Float64Array(4), blockLength: 512, depth: 2 });
    assert.is((await batch.catch((reason: unknown) => reason as { code?: string })) instanceof Error, true);
  });
});

test('a driver that cannot connect or start leaves nothing open', async () => {
  const platform = createFakePlatform();
  const refused = await MockDriver.start({ platform, path: '/nowhere' }).catch(
    (error: unknown) => error as Error,
  );
  assert.match(String((refused as Error).message), /ENOENT/);
  assert.is(platform.openFdCount, 0);
  await withDisk(async ({ platform: served }) => {
    const before = served.openFdCount;
    const wrong = await MockDriver.start({ platform: served, path: PATH, queueSize: 3 }).catch(
      (error: unknown) => error,
    );
    assert.instance(wrong, Error);
    while (served.openFdCount > before) await new Promise(setImmediate);
    const aborted = await MockDriver.start({
      platform: served,
      path: PATH,
      signal: AbortSignal.abort(),
    }).catch((error: unknown) => error);
    assert.instance(aborted, Error);
    assert.is(served.openFdCount, before);
  });
});

/** Runs `use` against a served RAM disk, then sees to it that nothing stays open. */
async function withDisk(
  use: (world: { platform: FakePlatform; backend: VhostUserBackend }) => Promise<void>,
  options: { withoutFeatures?: bigint } = {},
): Promise<void> {
  const platform = createFakePlatform();
  const backing = new RamBacking(platform, BigInt(DISK_BYTES));
  const device = new BlockDevice(backing, { queueCount: 2 });
  const backend = serveDevice(device, { platform, socketPath: PATH, spinMicroseconds: 0, ...options });
  await use({ platform, backend });
  backend.close();
  await backend.finished;
  await backing.close();
  for (let turn = 0; turn < 100 && platform.openFdCount > 0; turn++) await new Promise(setImmediate);
  assert.equal(platform.openFds, [], 'nothing stays open');
  assert.is(platform.mappingCount, 0, 'nothing stays mapped');
}

test.run();
