/**
 * Our front-end's dirty log around our back-end: random I/O with the log on, then every page that changed must be marked, save
 * those that the driver wrote itself. Seeded.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtioDriver } from '../../../runtime/drivers/virtio-driver.js';
import { EntropyDevice } from '../../../runtime/devices/entropy/index.js';
import { createFakePlatform } from '../../../runtime/platform/fake.js';
import { createLinuxPlatform } from '../../../runtime/platform/linux.js';
import type { Platform, SocketStream } from '../../../runtime/platform/platform.js';
import { serveDevice } from '../../../runtime/vhost-user/backend/server.js';
import { FrontendDirtyLog } from '../../../runtime/vhost-user/frontend/dirty-log.js';
import type { VhostError } from '../../../runtime/errors.js';
import { Random } from '../../support/random.js';
import { RawBackend } from '../../support/raw-backend.js';
import { bytes, Protocol } from '../../support/raw-frontend.js';

const test = suite("a front-end's dirty log");
const PAGE = 4096;

async function withDriver(
  platform: Platform,
  options: { format: 'split' | 'packed'; eventIdx: boolean; inOrder: boolean; regions: number },
  use: (driver: VirtioDriver, log: FrontendDirtyLog) => Promise<void>,
): Promise<void> {
  const [near, far] = platform.socketPair();
  const backend = serveDevice(new EntropyDevice(), { platform, fd: far, spinMicroseconds: 0 });
  const { regions, ...rest } = options;
  const driver = await VirtioDriver.start({
    platform,
    stream: platform.adoptSocket(near) as SocketStream,
    queueSize: 64,
    memory: { size: 2 << 20, regions },
    ...rest,
  });
  const log = new FrontendDirtyLog(driver.frontend);
  try {
    await use(driver, log);
  } finally {
    log[Symbol.dispose]();
    driver.close();
    backend.close();
  }
}

/** Guest addresses of the pages that differ between two copies of the memory. */
function changedPages(driver: VirtioDriver, before: readonly Uint8Array[]): number[] {
  return snapshot(driver).flatMap((now, i) => {
    const start = Number(driver.memory.regions[i]!.region.description.guestAddress);
    const pages: number[] = [];
    for (let at = 0; at < now.byteLength; at += PAGE) {
      if (Buffer.compare(now.subarray(at, at + PAGE), before[i]!.subarray(at, at + PAGE)) !== 0) {
        pages.push(start + at);
      }
    }
    return pages;
  });
}

function snapshot(driver: VirtioDriver): Uint8Array[] {
  return driver.memory.regions.map(({ region: { mapping } }) =>
    driver.platform.windows.u8[mapping.firstWindow]!.slice(0, Number(mapping.length)),
  );
}

/** Pages of what the driver alone writes: the available ring, and in a split ring the descriptors. */
function driversOwn(driver: VirtioDriver, size: number): Set<number> {
  const own = new Set<number>();
  for (const { setup } of driver.frontend.startedVrings) {
    const { areas } = setup!;
    for (const place of [areas.driver, ...(driver.format === 'split' ? [areas.descriptor] : [])]) {
      const start = Number(driver.memory.guestAddress(place));
      for (let at = start - (start % PAGE); at < start + 16 * size; at += PAGE) own.add(at);
    }
  }
  return own;
}

for (const [name, create] of [
  ['fake', () => createFakePlatform()],
  ['linux', () => createLinuxPlatform()],
] as const) {
  for (const format of ['split', 'packed'] as const) {
    for (const eventIdx of [false, true]) {
      for (const inOrder of [false, true]) {
        test(`${name}, ${format}, event idx ${eventIdx}, in order ${inOrder}: every page that changed is marked`, async () => {
          for (let seed = 1; seed <= 3; seed++) {
            const random = new Random(seed);
            await withDriver(create(), { format, eventIdx, inOrder, regions: seed }, async (driver, log) => {
              await driver.queues[0]!.transfer([], [100]);
              await log.start();
              for (let round = 0; round < 4; round++) {
                log.collect();
                const before = snapshot(driver);
                await Promise.all(
                  Array.from({ length: 1 + random.below(12) }, () =>
                    driver.queues[0]!.transfer(
                      [],
                      Array.from({ length: 1 + random.below(3) }, () => 1 + random.below(9000)),
                    ),
                  ),
                );
                // The rings ask for kicks again only when they have nothing left to do.
                await new Promise((resolve) => setImmediate(resolve));
                const own = driversOwn(driver, 64);
                const marked = new Set(log.collect());
                const missed = changedPages(driver, before).filter(
                  (page) => !marked.has(page) && !own.has(page),
                );
                assert.equal(missed, [], `seed ${seed}, round ${round}`);
                assert.ok(marked.size > 0);
              }
              await log.stop();
              log.collect();
              await driver.queues[0]!.transfer([], [5000]);
              assert.equal(log.collect(), [], 'nothing is marked any more');
            });
          }
        });
      }
    }
  }
}

test('a longer log takes over while requests are under way', async () => {
  await withDriver(
    createLinuxPlatform(),
    { format: 'packed', eventIdx: true, inOrder: false, regions: 1 },
    async (driver, log) => {
      await log.start();
      const pending = Array.from({ length: 20 }, () => driver.queues[0]!.transfer([], [4096]));
      using second = new FrontendDirtyLog(driver.frontend);
      await second.share();
      await Promise.all(pending);
      log.collect();
      second.collect();
      await driver.queues[0]!.transfer([], [4096]);
      assert.equal(log.collect(), []);
      assert.ok(second.collect().length > 0);
    },
  );
});

test('interop trap 4: SET_LOG_BASE is answered by nothing, by 0 or by what libvhost-user left in the message', async () => {
  const size = 4096n;
  for (const [answer, code] of [
    [bytes(), null],
    [bytes(0n), null],
    [bytes(size), null],
    [bytes(1n), 'ERR_VHOST_REFUSED'],
  ] as const) {
    const platform = createFakePlatform();
    const { backend, stream } = RawBackend.pair(platform, {
      getProtocolFeatures: bytes(Protocol.replyAck | Protocol.logShmfd),
      setLogBase: answer,
    });
    const driver = await VirtioDriver.start({ platform, stream, memory: { size: 1 << 20 } });
    const log = new FrontendDirtyLog(driver.frontend);
    const result = await log.share().catch((error: unknown) => error);
    assert.is((result as VhostError | undefined)?.code ?? null, code);
    assert.is(new DataView(backend.last('setLogBase').payload.buffer).getBigUint64(0, true), size);
    assert.ok(driver.frontend.connected);
    log[Symbol.dispose]();
    driver.close();
    await backend.untilHungUp();
    backend.close();
    assert.equal(platform.openFds, []);
  }
});

test.run();
