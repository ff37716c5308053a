/** A driver whose back-end goes away and comes back: retries, replays, and what was under way. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { RamBacking } from '../../runtime/backings/ram.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { BlockClient } from '../../runtime/drivers/blk/block-client.js';
import { VirtioDriver, type VirtioDriverOptions } from '../../runtime/drivers/virtio-driver.js';
import type { VhostUserError } from '../../runtime/errors.js';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import {
  serveDevice,
  type BackendOptions,
  type VhostUserBackend,
} from '../../runtime/vhost-user/backend/server.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { RawBackend } from '../support/raw-backend.js';
import { bytes, PROTOCOL_FEATURES, turns, until, VERSION_1 } from '../support/raw-frontend.js';
import type { SocketStream } from '../../runtime/platform/platform.js';

const test = suite('a back-end that is restarted');

const PATH = '/run/disk.sock';
const DISK = 1 << 20;

interface World {
  readonly platform: FakePlatform;
  /** Starts a back-end that connects to PATH, or listens on it. */
  readonly serve: (options?: Partial<BackendOptions>) => VhostUserBackend;
}

async function withDisk(use: (world: World) => Promise<void>): Promise<void> {
  const platform = createFakePlatform();
  const backing = new RamBacking(platform, BigInt(DISK));
  const backends: VhostUserBackend[] = [];
  const serve = (options: Partial<BackendOptions> = {}) => {
    const device = new BlockDevice(backing, { queueCount: 2 });
    const backend = serveDevice(device, { platform, socketPath: PATH, spinMicroseconds: 0, ...options });
    backends.push(backend);
    return backend;
  };
  await use({ platform, serve });
  for (const backend of backends) {
    backend.close();
    await backend.finished;
  }
  await backing.close();
  for (let turn = 0; turn < 200 && platform.openFdCount > 0; turn++) await turns(1);
  assert.equal(platform.openFds, [], 'nothing stays open');
  assert.is(platform.mappingCount, 0, 'nothing stays mapped');
}

function options(platform: FakePlatform, more: Partial<VirtioDriverOptions> = {}): VirtioDriverOptions {
  return { platform, path: PATH, queues: 2, ...more };
}

test('connecting is tried as often as the caller says, and no more', async () => {
  await withDisk(async ({ platform, serve }) => {
    const retry = { attempts: 3, delayMilliseconds: 1 };
    const failed = await VirtioDriver.start(options(platform, { retry })).catch((error: unknown) => error);
    assert.match((failed as Error).message, /ENOENT/);
    assert.is(platform.openFdCount, 0);
    const many = { attempts: 10_000, delayMilliseconds: 1 };
    const starting = VirtioDriver.start(options(platform, { retry: many }));
    await turns(20);
    serve();
    using driver = await starting;
    assert.is((await new BlockClient(driver.queues[1]!).read(0, 512)).byteLength, 512);
  });
});

test('waiting for a back-end is ended by the signal, connecting or listening', async () => {
  await withDisk(async ({ platform }) => {
    for (const listen of [false, true]) {
      const abort = new AbortController();
      const retry = { attempts: Infinity, delayMilliseconds: 60_000 };
      const starting = VirtioDriver.start(options(platform, { listen, retry, signal: abort.signal }));
      const failed = starting.catch((error: unknown) => error);
      await turns(10);
      const reason = new Error('no more');
      abort.abort(reason);
      assert.is(await failed, reason);
      assert.is(platform.openFdCount, 0);
    }
  });
});

for (const format of ['split', 'packed'] as const) {
  for (const listen of [true, false]) {
    const how = listen ? 'server mode' : 'client mode, reconnecting';
    test(`${format}, ${how}: a session goes on with the next back-end`, async () => {
      await withDisk(async ({ platform, serve }) => {
        const retry = { attempts: Infinity, delayMilliseconds: 1 };
        const starting = VirtioDriver.start(options(platform, { format, listen, retry, reconnect: true }));
        await turns(3);
        let backend = serve({ connect: listen });
        using driver = await starting;
        const disks = driver.queues.map((queue) => new BlockClient(queue));
        for (let round = 0; round < 4; round++) {
          const data = new Uint8Array(4096).fill(round + 1);
          await disks[round % 2]!.write(round * 4096, data);
          assert.equal(await disks[1]!.read(round * 4096, 4096), data);
          const [gone, back] = [heard(driver, 'disconnected'), heard(driver, 'reconnected')];
          backend.close();
          await gone;
          assert.not(driver.frontend.connected);
          // Asked for while nobody is there: done by the next one.
          const waiting = disks[0]!.read(round * 4096, 4096);
          const refused = await driver.frontend.readConfig(8).catch((error: unknown) => error);
          assert.is((refused as VhostUserError).code, 'ERR_VHOST_DISCONNECTED');
          backend = serve({ connect: listen });
          await back;
          assert.equal(await waiting, data);
          assert.is((await driver.frontend.readConfig(8)).byteLength, 8);
        }
      });
    });
  }

  test(`${format}: what was under way is issued again, in its order, and nothing is lost`, async () => {
    await withDisk(async ({ platform, serve }) => {
      const starting = VirtioDriver.start(options(platform, { format, listen: true, queueSize: 64 }));
      // The first back-end takes everything and answers nothing.
      const mute = new RawBackend(platform, await platform.connect(PATH), {
        getFeatures: bytes(VERSION_1 | PROTOCOL_FEATURES | VirtioFeature.ringPacked),
      });
      using driver = await starting;
      const disk = new BlockClient(driver.queues[0]!);
      const writes = Array.from({ length: 12 }, (_, i) =>
        disk.write((i % 4) * 4096, new Uint8Array(4096).fill(i + 1)),
      );
      const batch = new BlockClient(driver.queues[1]!).run({
        operation: 'write',
        positions: Float64Array.from({ length: 100 }, (_, i) => 65536 + i * 4096),
        blockLength: 4096,
        depth: 16,
        fill: (words, first, position) => words.fill(position, first, first + 1024),
      });
      await turns(20);
      assert.is(driver.queues[0]!.driver.inFlight, 12);
      assert.is(driver.queues[1]!.driver.inFlight, 16);
      mute.close();
      await heard(driver, 'disconnected');
      serve({ connect: true });
      await Promise.all(writes);
      assert.is((await batch).requests, 100);
      // Each block holds what was written to it last.
      for (let i = 0; i < 4; i++) {
        assert.equal(await disk.read(i * 4096, 4096), new Uint8Array(4096).fill(9 + i));
      }
      const checked = await new BlockClient(driver.queues[1]!).run({
        operation: 'read',
        positions: Float64Array.from({ length: 100 }, (_, i) => 65536 + i * 4096),
        blockLength: 4096,
        depth: 16,
        check: (words, first, position) =>
          assert.ok(words.subarray(first, first + 1024).every((word) => word === position)),
      });
      assert.is(checked.requests, 100);
    });
  });
}

test('what the one before had used, called or not, is collected and not issued again', async () => {
  await withDisk(async ({ platform, serve }) => {
    const starting = VirtioDriver.start(options(platform, { listen: true }));
    const first = new RawBackend(platform, await platform.connect(PATH));
    using driver = await starting;
    const queue = driver.queues[0]!;
    const [done, open] = [queue.transfer([], [512]), new BlockClient(queue).read(0, 512)];
    // Head 0 is used with 7 bytes, but nobody is called.
    useHead0(driver);
    first.close();
    await heard(driver, 'disconnected');
    serve({ connect: true });
    assert.is((await done).written, 7);
    assert.equal(await open, new Uint8Array(512));
    assert.is(queue.driver.counters.chains, 1, 'only the other one was issued again');
  });
});

test('a stopped ring stays stopped over a restart; a disabled one is told so again', async () => {
  await withDisk(async ({ platform, serve }) => {
    const starting = VirtioDriver.start(options(platform, { listen: true }));
    const backend = serve({ connect: true });
    using driver = await starting;
    await driver.frontend.stopVrings([1]);
    await driver.frontend.enableVring(0, false);
    const gone = heard(driver, 'disconnected');
    backend.close();
    await gone;
    const getFeatures = bytes(driver.frontend.negotiated.offered);
    const next = new RawBackend(platform, await platform.connect(PATH), { getFeatures });
    await heard(driver, 'reconnected');
    assert.equal(
      next.seen.filter(({ name }) => name === 'setVringKick').map(({ payload }) => payload[0]),
      [0],
    );
    assert.not(next.names.includes('setVringEnable!'));
    driver.close();
    await next.untilHungUp();
    next.close();
  });
});

test('stopping that a back-end left half done is done by asking again', async () => {
  await withDisk(async ({ platform, serve }) => {
    const starting = VirtioDriver.start(options(platform, { listen: true }));
    const first = new RawBackend(platform, await platform.connect(PATH), {
      getVringBase: ({ payload }, self) => {
        if (payload[0] === 0) self.reply('getVringBase', bytes(0, 1));
        else self.close();
      },
    });
    using driver = await starting;
    const done = driver.queues[0]!.transfer([], [512]);
    useHead0(driver);
    platform.signalEventFd(driver.frontend.vring(0)!.callFd);
    assert.is((await done).written, 7);
    const back = heard(driver, 'reconnected');
    const failed = await driver.stopRings().catch((error: unknown) => error);
    assert.is((failed as VhostUserError).code, 'ERR_VHOST_DISCONNECTED');
    assert.equal(
      first.names.filter((name) => name === 'getVringBase'),
      ['getVringBase', 'getVringBase'],
    );
    serve({ connect: true });
    await back;
    const disks = driver.queues.map((queue) => new BlockClient(queue));
    await disks[1]!.write(0, new Uint8Array(512).fill(5));
    const states = await driver.stopRings();
    assert.equal(
      states.map(({ nextAvailable }) => nextAvailable),
      [1, 1],
    );
    await driver.resumeRings();
    for (const disk of disks) assert.equal(await disk.read(0, 512), new Uint8Array(512).fill(5));
  });
});

test('rings that a back-end was just starting when it left are taken over like those that run', async () => {
  await withDisk(async ({ platform, serve }) => {
    const starting = VirtioDriver.start(options(platform, { listen: true }));
    let resuming = false;
    const first = new RawBackend(platform, await platform.connect(PATH), {
      getVringBase: ({ payload }, self) => self.reply('getVringBase', bytes(payload[0]!, 0)),
      setVringKick: ({ payload }, self) => {
        if (resuming && payload[0] === 1) self.close();
        else self.reply('setVringKick', bytes(0n));
      },
    });
    using driver = await starting;
    await driver.stopRings();
    resuming = true;
    const back = heard(driver, 'reconnected');
    const failed = await driver.resumeRings().catch((error: unknown) => error);
    assert.is((failed as VhostUserError).code, 'ERR_VHOST_DISCONNECTED');
    assert.ok(first.names.includes('setVringKick!'));
    serve({ connect: true });
    await back;
    const disks = driver.queues.map((queue) => new BlockClient(queue));
    for (let round = 0; round < 2; round++) {
      for (const disk of disks) assert.equal(await disk.read(0, 512), new Uint8Array(512));
      await driver.stopRings();
      await driver.resumeRings();
    }
  });
});

test('rings are neither stopped nor started while a new back-end is told of them', async () => {
  await withDisk(async ({ platform, serve }) => {
    const starting = VirtioDriver.start(options(platform, { listen: true }));
    const first = serve({ connect: true });
    using driver = await starting;
    const offered = bytes(driver.frontend.negotiated.offered);
    const gone = heard(driver, 'disconnected');
    first.close();
    await gone;
    const slow = new RawBackend(platform, await platform.connect(PATH), {
      getFeatures: offered,
      setVringKick: null,
    });
    const kicked = () => slow.names.some((name) => name.startsWith('setVringKick'));
    await until(kicked, 'it is told of the first ring');
    for (const ask of [() => driver.stopRings(), () => driver.resumeRings()]) {
      const refused = await ask().catch((error: unknown) => error);
      assert.is((refused as VhostUserError).code, 'ERR_VHOST_STATE');
    }
    assert.not(slow.names.includes('getVringBase'));
    const back = heard(driver, 'reconnected');
    slow.close();
    serve({ connect: true });
    await back;
    assert.is((await driver.stopRings()).length, 2);
    await driver.resumeRings();
    assert.equal(await new BlockClient(driver.queues[1]!).read(0, 512), new Uint8Array(512));
  });
});

test('a next back-end that lacks what is in use is the end, with the reason', async () => {
  await withDisk(async ({ platform, serve }) => {
    const starting = VirtioDriver.start(options(platform, { listen: true, format: 'packed' }));
    const backend = serve({ connect: true });
    using driver = await starting;
    const gone = heard(driver, 'disconnected');
    backend.close();
    await gone;
    const waiting = new BlockClient(driver.queues[0]!).read(0, 512).catch((error: unknown) => error);
    serve({ connect: true, withoutFeatures: VirtioFeature.ringPacked });
    const reason = await driver.frontend.ended;
    assert.match(reason.message, /no longer offers VIRTIO_F_RING_PACKED, which is in use/);
    assert.is(await waiting, reason);
  });
});

test('a next back-end that serves fewer queues than run is the end, before a ring is started', async () => {
  await withDisk(async ({ platform, serve }) => {
    const starting = VirtioDriver.start(options(platform, { listen: true }));
    const backend = serve({ connect: true });
    using driver = await starting;
    const gone = heard(driver, 'disconnected');
    backend.close();
    await gone;
    const waiting = new BlockClient(driver.queues[0]!).read(0, 512).catch((error: unknown) => error);
    const next = new RawBackend(platform, await platform.connect(PATH), {
      getFeatures: bytes(driver.frontend.negotiated.offered),
      getQueueNum: bytes(1n),
    });
    const reason = await driver.frontend.ended;
    assert.is((reason as VhostUserError).code, 'ERR_VHOST_STATE');
    assert.match(reason.message, /ring 1: the back-end serves 1 queues/);
    assert.is(await waiting, reason);
    await next.untilHungUp();
    assert.not(next.names.some((name) => name.startsWith('setVringKick')));
    next.close();
  });
});

test('a next back-end that hangs up or never answers is passed over', async () => {
  await withDisk(async ({ platform, serve }) => {
    const bound = new AbortController();
    const starting = VirtioDriver.start(
      options(platform, { listen: true, restoreSignal: () => bound.signal }),
    );
    const first = serve({ connect: true });
    using driver = await starting;
    const troubles: VhostUserError[] = [];
    driver.frontend.on('trouble', (error) => troubles.push(error));
    const gone = heard(driver, 'disconnected');
    first.close();
    await gone;
    const hasty: SocketStream = await platform.connect(PATH);
    await turns(3);
    hasty.close();
    await until(() => troubles.length === 1, 'the first is passed over');
    assert.is(troubles[0]!.code, 'ERR_VHOST_DISCONNECTED');
    const mute = await platform.connect(PATH);
    await turns(5);
    bound.abort(new Error('too slow'));
    await until(() => troubles.length === 2, 'the second is passed over');
    mute.close();
    driver.close();
  });
});

test('a connection that comes while another is served is kept for later, only the latest', async () => {
  await withDisk(async ({ platform, serve }) => {
    const starting = VirtioDriver.start(options(platform, { listen: true }));
    const first = serve({ connect: true });
    using driver = await starting;
    const dropped = await platform.connect(PATH);
    await turns(3);
    serve({ connect: true });
    await turns(3);
    assert.is(dropped.receive(new Uint8Array(1), []), 0, 'closed in favour of the one that came later');
    dropped.close();
    const back = heard(driver, 'reconnected');
    first.close();
    await back;
    await new BlockClient(driver.queues[0]!).read(0, 512);
  });
});

/** Uses the first chain of ring 0 with 7 bytes, by hand and without a call. */
function useHead0({ frontend, platform }: VirtioDriver): void {
  const { window, offset } = frontend.vring(0)!.setup!.areas.device;
  const view = platform.windows.u8[window]!;
  new Uint16Array(view.buffer, view.byteOffset + offset, 6).set([0, 1, 0, 0, 7, 0]);
}

/** Resolves at the next event of that name. */
function heard(driver: VirtioDriver, event: 'disconnected' | 'reconnected'): Promise<void> {
  return new Promise((resolve) => driver.frontend.once(event, () => resolve()));
}

test.run();
