/** A driver whose device misuses its ring, or lies about where it stopped. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import type { VhostError, VirtqueueError } from '../../runtime/errors.js';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { RawBackend } from '../support/raw-backend.js';
import { bytes, PROTOCOL_FEATURES, turns, VERSION_1 } from '../support/raw-frontend.js';

const test = suite('a device that misbehaves');

interface World {
  readonly platform: FakePlatform;
  readonly backend: RawBackend;
  readonly driver: VirtioDriver;
  /** The used ring of a queue, as 16-bit words. */
  readonly used: (index: number) => Uint16Array;
  /** Calls the driver. */
  readonly call: (index: number) => void;
}

async function withDriver(
  format: 'split' | 'packed',
  getVringBase: (index: number) => number,
  use: (world: World) => Promise<void>,
): Promise<void> {
  const platform = createFakePlatform();
  const { backend, stream } = RawBackend.pair(platform, {
    getFeatures: bytes(VERSION_1 | PROTOCOL_FEATURES | VirtioFeature.ringPacked),
    getVringBase: ({ payload }, self) =>
      self.reply('getVringBase', bytes(payload[0]!, getVringBase(payload[0]!))),
  });
  const driver = await VirtioDriver.start({ platform, stream, format, queues: 2, queueSize: 8 });
  const used = (index: number): Uint16Array => {
    const { areas } = driver.frontend.vring(index)!.setup!;
    const { window, offset } = format === 'split' ? areas.device : areas.descriptor;
    const view = platform.windows.u8[window]!;
    return new Uint16Array(view.buffer, view.byteOffset + offset, 64);
  };
  const call = (index: number): void => platform.signalEventFd(driver.frontend.vring(index)!.callFd);
  await use({ platform, backend, driver, used, call });
  driver.close();
  await backend.untilHungUp();
  backend.close();
  assert.equal(platform.openFds, [], 'nothing stays open');
  assert.is(platform.mappingCount, 0, 'nothing stays mapped');
}

const split: [string, (used: Uint16Array) => void][] = [
  ['an id beyond the ring', (used) => used.set([0, 1, 99, 0, 16, 0])],
  ['an id that was never issued', (used) => used.set([0, 1, 5, 0, 16, 0])],
  ['more bytes than the buffer has', (used) => used.set([0, 1, 0, 0, 65, 0])],
  ['the same id twice', (used) => used.set([0, 2, 0, 0, 16, 0, 0, 0, 16, 0])],
  ['more used entries than there are chains', (used) => used.set([0, 100, 0, 0, 16, 0])],
];

for (const [what, misuse] of split) {
  test(`split: ${what} latches the queue, fails what waits, and leaves the other queue alone`, async () => {
    await withDriver(
      'split',
      () => 0,
      async ({ driver, used, call }) => {
        const first = driver.queues[0]!.transfer([], [64]).then(
          (value) => value,
          (error: unknown) => error as VirtqueueError,
        );
        const [second, other] = [0, 1].map((index) =>
          driver.queues[index]!.transfer([], [64]).catch((error: unknown) => error as VirtqueueError),
        );
        misuse(used(0));
        call(0);
        assert.is(((await second) as VirtqueueError).code, 'ERR_VIRTQ_USED');
        assert.is(((await second) as VirtqueueError).queue, 0);
        // What came back rightly before may have been handed over, wrong data never.
        const result = await first;
        if (!(result instanceof Error)) assert.ok(result.written <= 64);
        const refused = await driver.queues[0]!.transfer([], [64]).catch((error: unknown) => error);
        assert.is((refused as VirtqueueError).code, 'ERR_VIRTQ_USED');
        used(1).set([0, 1, 0, 0, 7, 0]);
        call(1);
        assert.is(((await other) as { written: number }).written, 7);
        assert.ok(driver.frontend.connected);
      },
    );
  });
}

const packed: [string, number, number][] = [
  ['an id that was never issued', 5, 16],
  ['an id beyond the ring', 300, 16],
  ['more bytes than the buffer has', 0, 4096],
];

for (const [what, id, length] of packed) {
  test(`packed: ${what} latches the queue`, async () => {
    await withDriver(
      'packed',
      () => 0x8000_8000,
      async ({ driver, used, call }) => {
        const waiting = driver.queues[0]!.transfer([], [64]).catch(
          (error: unknown) => error as VirtqueueError,
        );
        // Address stays; length, id, and AVAIL and USED set as in the first round.
        used(0).set([length & 0xffff, length >>> 16, id, 0x8082], 4);
        call(0);
        assert.is(((await waiting) as VirtqueueError).code, 'ERR_VIRTQ_USED');
      },
    );
  });
}

test('a base that is not where the used entries end is a wrong reply, and ends the conversation', async () => {
  for (const [format, base] of [
    ['split', 1],
    ['split', 0x1_0000],
    ['packed', 0x8001_8001],
    ['packed', 0x0001],
  ] as const) {
    await withDriver(
      format,
      () => base,
      async ({ driver, backend }) => {
        const error = (await driver.stopRings().catch((reason: unknown) => reason)) as VhostError;
        assert.is(error.code, 'ERR_VHOST_REPLY', `${format} 0x${base.toString(16)}`);
        assert.is(error.request, 'VHOST_USER_GET_VRING_BASE');
        assert.is(await driver.frontend.ended, error);
        await backend.untilHungUp();
      },
    );
  }
});

test('trap 1: a packed base of 16 bits, as DPDK sends it, is where both cursors stand', async () => {
  await withDriver(
    'packed',
    () => 0x8000,
    async ({ driver, backend }) => {
      const [state] = await driver.stopRings();
      assert.equal(state, { format: 'packed', nextAvailable: 0, availableWrap: 1, nextUsed: 0, usedWrap: 1 });
      await driver.resumeRings();
      assert.equal(backend.last('setVringBase').payload, bytes(1, 0x8000));
    },
  );
});

test('a ring that was disabled stays so when the rings are stopped and go on', async () => {
  await withDriver(
    'split',
    () => 0,
    async ({ driver, backend }) => {
      await driver.frontend.enableVring(1, false);
      await driver.stopRings();
      const before = backend.names.length;
      await driver.resumeRings();
      const enabled = backend.seen
        .slice(before)
        .filter((_, i) => backend.names[before + i]!.startsWith('setVringEnable'));
      assert.equal(
        enabled.map(({ payload }) => [...payload]),
        [[...bytes(0, 1)]],
      );
      assert.is(driver.frontend.vring(1)!.enabled, false);
    },
  );
});

test('a back-end that says that a ring is broken fails what waits there, and nothing else', async () => {
  await withDriver(
    'split',
    () => 0,
    async ({ driver, platform, used, call }) => {
      const [broken, sound] = driver.queues.map((queue) =>
        queue.transfer([], [8]).catch((error: unknown) => error as VirtqueueError),
      );
      platform.signalEventFd(driver.frontend.vring(0)!.errFd);
      const error = (await broken) as VirtqueueError;
      assert.equal([error.code, error.queue], ['ERR_VIRTQ_DEVICE', 0]);
      used(1).set([0, 1, 0, 0, 8, 0]);
      call(1);
      assert.is(((await sound) as { written: number }).written, 8);
    },
  );
});

test('an aborted transfer rejects at once; its memory comes back when the device has used it', async () => {
  await withDriver(
    'split',
    () => 0,
    async ({ driver, used, call }) => {
      const free = driver.memory.freeBytes;
      const abort = new AbortController();
      const waiting = driver.queues[0]!.transfer([new Uint8Array(3)], [64], { signal: abort.signal }).catch(
        (error: unknown) => error,
      );
      const reason = new Error('too long');
      abort.abort(reason);
      assert.is(await waiting, reason);
      assert.is(driver.memory.freeBytes, free - 67);
      used(0).set([0, 1, 0, 0, 1, 0]);
      call(0);
      await turns(5);
      assert.is(driver.memory.freeBytes, free);
    },
  );
});

test('a transfer waits while the ring is full; a chain that never fits is refused', async () => {
  await withDriver(
    'split',
    () => 0,
    async ({ driver, used, call }) => {
      const queue = driver.queues[0]!;
      const waiting = Array.from({ length: 10 }, () => queue.transfer([], [64]));
      await turns(5);
      assert.is(queue.driver.inFlight, 8);
      const ring = used(0);
      for (let i = 0; i < 8; i++) ring.set([i, 0, i, 0], 2 + i * 4);
      ring[1] = 8;
      call(0);
      await Promise.all(waiting.slice(0, 8));
      await turns(5);
      assert.is(queue.driver.inFlight, 2);
      const long = Array.from({ length: 9 }, () => 1);
      const refused = await queue.transfer([], long).catch((error: unknown) => error);
      assert.is((refused as VirtqueueError).code, 'ERR_VIRTQ_CHAIN');
      const rest = Promise.allSettled(waiting);
      driver.close();
      assert.equal(
        (await rest).map(({ status }) => status),
        [...Array<string>(8).fill('fulfilled'), 'rejected', 'rejected'],
      );
    },
  );
});

test.run();
