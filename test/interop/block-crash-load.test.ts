/**
 * A short form of `npm run test:crash`: our own driver writes and verifies while the back-end is killed, over every form of
 * the rings; and the proof that the test can fail.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockClient } from '../../runtime/drivers/blk/block-client.js';
import { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { Backends } from '../crash/backends.js';
import { combinations, nameOf } from '../crash/combinations.js';
import { type CrashMode, type CrashOptions, crashRun } from '../crash/crash-run.js';
import { DISK_SECTORS, Load, LOAD_QUEUES } from '../crash/load.js';
import { SECTOR, SectorModel } from '../crash/sector-model.js';
import { PATIENCE, TemporaryFolder } from '../support/guest/processes.js';
import { Random } from '../support/random.js';

const test = suite('a back-end that is killed under load');

const platform = createLinuxPlatform();

async function run(number: number, kills: number, mode: CrashMode, more: Partial<CrashOptions> = {}) {
  const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'vhost-user-crash-'));
  const clean = (): void => rmSync(folder, { recursive: true, force: true });
  process.once('exit', clean);
  await using backends = new Backends(2);
  try {
    return await crashRun({
      platform,
      combination: combinations()[number]!,
      kills,
      seed: 20 + number,
      file: join(folder, 'disk'),
      socketPath: join(folder, 'socket'),
      backends,
      mode,
      ...more,
    });
  } finally {
    process.off('exit', clean);
    clean();
  }
}

for (const [number, combination] of combinations().entries()) {
  test(`${nameOf(combination)}: nothing is lost, nothing comes back twice, no block is damaged`, async () => {
    const { requests, caught } = await run(number, 5, 'tracked');
    assert.ok(requests >= 40 && caught > 0, `${requests} requests, ${caught} under way at kills`);
  });
}

test('however many kills are asked for, the last is followed by a back-end that serves what it caught', async () => {
  for (const kills of [1, 9]) {
    const counts = await run(0, kills, 'tracked');
    assert.is(
      Object.values(counts.kills).reduce((sum, count) => sum + count, 0),
      kills,
    );
  }
});

for (const number of [0, 4]) {
  test(`${combinations()[number]!.format}: without a record what was under way is issued again`, async () => {
    await run(number, 5, 'reissued');
  });

  test(`${combinations()[number]!.format}: without a record and without issuing again, the loss is seen`, async () => {
    const outcome = await run(number, 24, 'forgetful', { settleLimit: 3000 }).catch(
      (error: unknown) => error,
    );
    // How it shows depends on what was under way: a request never returns, or another one's chain does; a half-written
    // chain reads as a bad request (an IOERR) or as a broken ring. That it shows, after a kill, is the point.
    assert.instance(outcome, Error);
    assert.match((outcome as Error).message, /^after [1-9]\d* kills, /);
  });
}

for (const number of [3, 7]) {
  const { format, indirect, eventIdx } = combinations()[number]!;
  test(`${nameOf(combinations()[number]!)}: front-ends that go in the middle of it leave a disk as it must be to the next`, async () => {
    using folder = new TemporaryFolder();
    const [file, path] = [folder.file('disk'), folder.file('socket')];
    writeFileSync(file, '');
    truncateSync(file, DISK_SECTORS * SECTOR);
    await using backends = new Backends(1);
    const assignment = { socketPath: path, file, queues: LOAD_QUEUES, seed: number, death: null };
    await using backend = await backends.start(assignment);
    const model = new SectorModel(DISK_SECTORS);
    const random = new Random(number);
    const signal = AbortSignal.timeout(PATIENCE);
    for (let round = 0; round < 12; round++) {
      const driver = await VirtioDriver.start({
        ...{ platform, path, format, indirect, eventIdx, signal },
        retry: { attempts: Infinity, delayMilliseconds: 1 },
        queues: LOAD_QUEUES,
        queueSize: 64,
        memory: { size: 16 << 20 },
      });
      // Nothing of this one is done before what the one before left is.
      await new BlockClient(driver.queues[0]!).flush();
      model.abandon();
      const load = new Load(driver, round, indirect, model);
      await Promise.race([load.failed, delay(random.below(40))]);
      const last = round === 11;
      if (last) await Promise.race([load.failed, load.settle()]);
      assert.ok(last || load.underWay > 0);
      if (last) {
        const bytes = readFileSync(file);
        assert.is(
          model.damage(new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2)),
          null,
        );
      }
      driver.close();
    }
    assert.is(backend.exit, null);
    assert.is(backend.output, 'warm\n');
  });
}

test.run();
