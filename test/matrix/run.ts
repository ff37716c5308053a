/**
 * `npm run test:matrix [-- --seed=N --rounds=N]`: our front-end on our back-end in every combination, over real sockets and
 * shared memory between two threads. A failure prints the seed that repeats it.
 */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { readCommandLine, wholeNumber } from '../support/command-line.js';
import { combinations, nameOf } from './combinations.js';
import { verifyRun } from './verify-run.js';

/** Nothing takes a fraction of this. */
const RUN_LIMIT_MS = 60_000;

const { values } = readCommandLine({
  options: {
    seed: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '4' },
    requests: { type: 'string', default: '600' },
  },
});
const firstSeed = wholeNumber('seed', values.seed);
const rounds = wholeNumber('rounds', values.rounds, 1);
const requests = wholeNumber('requests', values.requests, 1);

const folder = mkdtempSync(join(tmpdir(), 'vhost-user-matrix-'));
const path = join(folder, 'disk.sock');
const server = new Worker(fileURLToPath(new URL('./disk-worker.js', import.meta.url)), {
  workerData: { path },
});
const exit = once(server, 'exit');
let [passed, failed] = [0, 0];
try {
  await once(server, 'message');
  const platform = createLinuxPlatform();
  const common = { platform, path, requests };
  for (const combination of combinations()) {
    const failures: string[] = [];
    for (let round = 0; round < rounds; round++) {
      const seed = firstSeed + round;
      try {
        await limited(verifyRun({ ...common, combination, seed, signal: AbortSignal.timeout(RUN_LIMIT_MS) }));
      } catch (error) {
        failures.push(`  --seed=${seed} --rounds=1: ${(error as Error).stack ?? String(error)}`);
      }
    }
    if (failures.length === 0) passed++;
    else failed++;
    console.log(
      [`${failures.length === 0 ? 'ok  ' : 'FAIL'} ${nameOf(combination)}`, ...failures].join('\n'),
    );
  }
} finally {
  server.postMessage('close');
  await exit;
  rmSync(folder, { recursive: true, force: true });
}
console.log(`\n${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

/** A hang is a failure, not a wait. */
async function limited(run: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not finished after ${RUN_LIMIT_MS / 1000} s`)), RUN_LIMIT_MS);
  });
  await Promise.race([run, limit]).finally(() => clearTimeout(timer));
}
