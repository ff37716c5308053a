/** A driver whose back-ends are killed with requests in flight: the next one finishes them, and none is made twice. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { RamBacking } from '../../runtime/backings/ram.js';
import { ChainBatch, type DeviceQueue, type VirtioDevice } from '../../runtime/device/index.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { BlockClient } from '../../runtime/drivers/blk/block-client.js';
import { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import { serveDevice, type VhostUserBackend } from '../../runtime/vhost-user/backend/server.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { Random } from '../support/random.js';
import { RawBackend } from '../support/raw-backend.js';
import { bytes, Protocol, turns, until } from '../support/raw-frontend.js';

const test = suite('requests in flight in a back-end that is killed');

const PATH = '/run/ledger.sock';

/** Answers each chain with what it was sent, when it is told to, and remembers what it has seen. */
class Ledger implements VirtioDevice {
  readonly deviceId = 4;
  readonly features = 0n;
  readonly queueCount = 2;
  readonly seen: number[] = [];
  readonly #held: { queue: DeviceQueue; handle: number; answer: () => void }[] = [];
  readonly #batch = new ChainBatch(8, 64);

  get held(): number {
    return this.#held.length;
  }

  serveQueue(queue: DeviceQueue): void {
    for (let count = queue.drain(this.#batch, 8); count > 0; count = queue.drain(this.#batch, 8)) {
      for (let row = 0; row < count; row++) {
        const [handle, first] = this.#batch.chains.subarray(row * 4, row * 4 + 2);
        const place = (i: number): Uint8Array => {
          const [window, offset, length] = this.#batch.segments.subarray(
            (first! + i) * 4,
            (first! + i) * 4 + 3,
          );
          return queue.u8[window!]!.subarray(offset!, offset! + length!);
        };
        const [from, to] = [place(0), place(1)];
        this.seen.push(new DataView(from.buffer, from.byteOffset).getUint32(0, true));
        this.#held.push({ queue, handle: handle!, answer: () => to.set(from) });
      }
    }
  }

  /** Answers `count` of the requests, the oldest or any. */
  answer(count = Infinity, random?: Random): void {
    for (; count > 0 && this.#held.length > 0; count--) {
      const [next] = this.#held.splice(random?.below(this.#held.length) ?? 0, 1);
      next!.answer();
      next!.queue.complete(next!.handle, 4);
      next!.queue.commit();
    }
  }
}

interface World {
  readonly platform: FakePlatform;
  readonly devices: Ledger[];
  readonly backends: VhostUserBackend[];
  life(): Ledger;
  /** Ends the back-end of the last life, as SIGKILL would. */
  kill(): void;
}

async function withLedger(use: (world: World) => Promise<void>): Promise<void> {
  const platform = createFakePlatform();
  const devices: Ledger[] = [];
  const backends: VhostUserBackend[] = [];
  const world: World = {
    platform,
    devices,
    backends,
    life: () => {
      const device = new Ledger();
      devices.push(device);
      backends.push(serveDevice(device, { platform, socketPath: PATH, connect: true, spinMicroseconds: 0 }));
      return device;
    },
    kill: () => backends.at(-1)!.close(),
  };
  await use(world);
  for (const device of devices) device.answer();
  for (const backend of backends) {
    backend.close();
    await backend.finished;
  }
  for (let turn = 0; turn < 200 && platform.openFdCount > 0; turn++) await turns(1);
  assert.equal(platform.openFds, [], 'nothing stays open');
  assert.is(platform.mappingCount, 0, 'nothing stays mapped');
}

function send(driver: VirtioDriver, token: number): Promise<number> {
  const queue = driver.queues[token % driver.queues.length]!;
  return queue
    .transfer([bytes(token)], [4], { indirect: token % 3 === 0 })
    .then((result) => new DataView(result.bytes.buffer).getUint32(0, true));
}

for (const format of ['split', 'packed'] as const) {
  test(`${format}: they are finished by the next one, in their order, and not issued again`, async () => {
    await withLedger(async ({ platform, life, kill }) => {
      const starting = VirtioDriver.start({
        platform,
        path: PATH,
        listen: true,
        queues: 2,
        queueSize: 16,
        format,
      });
      const first = life();
      using driver = await starting;
      const answers = Array.from({ length: 12 }, (_, token) => send(driver, token));
      await until(() => first.held === 12, 'all of them are with the device');
      first.answer(5);
      await turns(10);
      kill();
      const second = life();
      await until(() => second.held === 7, 'the others are with the next device');
      for (const queue of [0, 1]) {
        const seen = (device: Ledger) => device.seen.filter((token) => token % 2 === queue);
        const answered = seen(first).filter((token) => !second.seen.includes(token));
        assert.equal(seen(second), seen(first).slice(answered.length));
      }
      second.answer();
      assert.equal(
        await Promise.all(answers),
        Array.from({ length: 12 }, (_, token) => token),
      );
      assert.is(driver.queues[0]!.driver.counters.chains + driver.queues[1]!.driver.counters.chains, 12);
    });
  });

  test(`${format}: killed again and again, every request comes back once`, async () => {
    await withLedger(async ({ platform, life, kill }) => {
      const random = new Random(7);
      const starting = VirtioDriver.start({
        platform,
        path: PATH,
        listen: true,
        queues: 2,
        queueSize: 8,
        format,
      });
      let device = life();
      using driver = await starting;
      const rings = driver.queues.map((queue) => queue.driver);
      let sent = 0;
      const answers: Promise<number>[] = [];
      for (let lives = 0; lives < 20; lives++) {
        for (let step = 0; step < 6; step++) {
          for (let n = random.below(4); n > 0; n--) answers.push(send(driver, sent++));
          await turns(random.below(4));
          device.answer(random.below(4), random);
        }
        const again = new Promise<void>((resolve) => driver.frontend.once('reconnected', () => resolve()));
        kill();
        device = life();
        await again;
      }
      const done = Promise.all(answers);
      let over = false;
      void done.then(() => (over = true));
      while (!over) {
        device.answer();
        await turns(1);
      }
      assert.equal(
        await done,
        Array.from({ length: sent }, (_, token) => token),
      );
      assert.equal(
        driver.queues.map((queue) => queue.driver),
        rings,
        'on the rings of the beginning',
      );
      assert.is(rings[0]!.counters.chains + rings[1]!.counters.chains, sent, 'each issued once');
    });
  });

  test(`${format}: many blocks under way in a disk that is killed`, async () => {
    const platform = createFakePlatform();
    const backing = new RamBacking(platform, 1n << 20n);
    const serve = () =>
      serveDevice(new BlockDevice(backing, { queueCount: 1 }), {
        platform,
        socketPath: PATH,
        connect: true,
        spinMicroseconds: 0,
      });
    const starting = VirtioDriver.start({ platform, path: PATH, listen: true, queueSize: 64, format });
    let backend = serve();
    const driver = await starting;
    const positions = Float64Array.from({ length: 2000 }, (_, i) => (i % 200) * 4096);
    const running = new BlockClient(driver.queues[0]!).run({
      operation: 'write',
      positions,
      blockLength: 4096,
      depth: 16,
      fill: (words, first, position) => words.fill(position, first, first + 1024),
    });
    let over = false;
    void running.then(() => (over = true));
    let kills = 0;
    while (!over) {
      await turns(3);
      if (over) break;
      const again = new Promise<void>((resolve) => driver.frontend.once('reconnected', () => resolve()));
      backend.close();
      backend = serve();
      await again;
      kills++;
    }
    assert.is((await running).requests, 2000);
    assert.ok(kills > 1, `${kills} kills`);
    assert.is(driver.queues[0]!.driver.counters.chains, 2000, 'each issued once');
    driver.close();
    backend.close();
    await backing.close();
  });
}

test('a back-end that keeps no record is followed as before: what was under way is issued again', async () => {
  await withLedger(async ({ platform, life, kill }) => {
    const protocol = ProtocolFeature.mq | ProtocolFeature.replyAck | ProtocolFeature.configureMemSlots;
    const starting = VirtioDriver.start({
      platform,
      path: PATH,
      listen: true,
      queues: 1,
      queueSize: 16,
      protocol,
    });
    const first = life();
    using driver = await starting;
    const before = driver.queues[0]!.driver;
    const answers = [send(driver, 1), send(driver, 2)];
    await until(() => first.held === 2, 'both are with the device');
    kill();
    const second = life();
    await until(() => second.held === 2, 'both are with the next device');
    second.answer();
    assert.equal(await Promise.all(answers), [1, 2]);
    assert.is.not(driver.queues[0]!.driver, before, 'on a fresh ring');
  });
});

test('a next back-end that does not know of the record gets fresh rings, and one after it a record of its own', async () => {
  await withLedger(async ({ platform, life, kill }) => {
    const starting = VirtioDriver.start({ platform, path: PATH, listen: true, queues: 1, queueSize: 16 });
    const first = life();
    using driver = await starting;
    const answers = [send(driver, 1), send(driver, 2)];
    await until(() => first.held === 2, 'both are with the device');
    const again = new Promise<void>((resolve) => driver.frontend.once('reconnected', () => resolve()));
    kill();
    const raw = new RawBackend(platform, await platform.connect(PATH), {
      getFeatures: bytes(driver.frontend.negotiated.offered),
      getProtocolFeatures: bytes(Protocol.replyAck),
    });
    await again;
    assert.not(raw.names.includes('setInflightFd'));
    const third = new Promise<void>((resolve) => driver.frontend.once('reconnected', () => resolve()));
    raw.close();
    const last = life();
    await third;
    await until(() => last.held === 2, 'both are with the third');
    kill();
    const end = life();
    await until(() => end.held === 2, 'both are with the fourth');
    end.answer();
    assert.equal(await Promise.all(answers), [1, 2]);
  });
});

test('the region is asked for once, handed back before every start, and its fd closed with the front-end', async () => {
  const platform = createFakePlatform();
  const made: number[] = [];
  const raw = async () =>
    new RawBackend(platform, await platform.connect(PATH), {
      getProtocolFeatures: bytes(Protocol.mq | Protocol.replyAck | Protocol.inflightShmfd),
      getInflightFd: ({ payload }, backend) => {
        const fd = platform.createSharedMemory('inflight', 4096n);
        made.push(fd);
        backend.reply('getInflightFd', bytes(4096n, 0n, payload.subarray(16)), [fd]);
      },
    });
  const starting = VirtioDriver.start({ platform, path: PATH, listen: true, queues: 2, queueSize: 16 });
  const first = await raw();
  const driver = await starting;
  const of = (backend: RawBackend) =>
    backend.names.filter((name) => /inflight|Kick/i.test(name)).map((name) => name.replace('!', ''));
  assert.equal(of(first), ['getInflightFd', 'setInflightFd', 'setVringKick', 'setVringKick']);
  const [wanted] = first.seen.filter(({ name }) => name === 'getInflightFd');
  assert.equal(wanted!.payload, bytes(0n, 0n, 2 | (16 << 16), 0), 'trap 3: 24 bytes');
  const again = new Promise<void>((resolve) => driver.frontend.once('reconnected', () => resolve()));
  first.close();
  const second = await raw();
  await again;
  assert.equal(of(second), ['setInflightFd', 'setVringKick', 'setVringKick']);
  driver.close();
  await second.untilHungUp();
  second.close();
  for (const fd of made) platform.closeFd(fd);
  for (let turn = 0; turn < 100 && platform.openFdCount > 0; turn++) await turns(1);
  assert.equal(platform.openFds, []);
});

test('memory that is too small, or none at all, is no reply', async () => {
  for (const [queues, withFd] of [
    [1, true],
    [2, false],
  ] as const) {
    const platform = createFakePlatform();
    const fd = platform.createSharedMemory('inflight', 4096n);
    const starting = VirtioDriver.start({ platform, path: PATH, listen: true, queues: 2, queueSize: 16 });
    const raw = new RawBackend(platform, await platform.connect(PATH), {
      getProtocolFeatures: bytes(Protocol.mq | Protocol.replyAck | Protocol.inflightShmfd),
      getInflightFd: (_, backend) =>
        backend.reply('getInflightFd', bytes(4096n, 0n, queues | (16 << 16), 0), withFd ? [fd] : []),
    });
    const error = await starting.catch((reason: unknown) => reason);
    assert.match((error as Error).message, /GET_INFLIGHT_FD.*asked for memory for 2 queues of 16, got/);
    raw.close();
    platform.closeFd(fd);
  }
});

test.run();
