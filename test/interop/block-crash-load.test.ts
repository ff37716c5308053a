/**
 * A short form of `npm run test:crash`: our own driver writes and verifies while the back-end is killed, over every form of
 * the rings; and the proof that the test can fail.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { Backends } from '../crash/backends.js';
import { combinations, nameOf } from '../crash/combinations.js';
import { type CrashMode, type CrashOptions, crashRun } from '../crash/crash-run.js';

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
    assert.ok(requests > 100 && caught > 0, `${requests} requests, ${caught} under way at kills`);
  });
}

for (const number of [0, 4]) {
  test(`${combinations()[number]!.format}: without a record what was under way is issued again`, async () => {
    await run(number, 5, 'reissued');
  });

  test(`${combinations()[number]!.format}: without a record and without issuing again, the loss is seen`, async () => {
    const outcome = await run(number, 24, 'forgetful', { settleLimit: 3000 }).catch(
      (error: unknown) => error,
    );
    assert.instance(outcome, Error);
    assert.match(
      (outcome as Error).message,
      /never came back|is broken|was acknowledged twice|expected|without a status|bytes written/,
    );
  });
}

test.run();
