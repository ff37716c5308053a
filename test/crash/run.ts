/**
 * A write and verify load while the back-end is killed at random times, over both ring formats, with and without indirect
 * tables and event idx: `npm run test:crash -- [--kills=N] [--seed=S] [--only=NAME] [--mode=MODE]`,
 * NAME being a part of a combination's name and MODE `tracked` (when absent) or `reissued`.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { readCommandLine, refuse, someOf, wholeNumber } from '../support/command-line.js';
import { Backends } from './backends.js';
import { combinations, nameOf } from './combinations.js';
import { type CrashCounts, type CrashMode, crashRun } from './crash-run.js';

const { values } = readCommandLine({
  options: {
    kills: { type: 'string', default: '1000' },
    seed: { type: 'string', default: String(Date.now() % 0x7fffffff) },
    only: { type: 'string', default: '' },
    mode: { type: 'string', default: 'tracked' },
    spares: { type: 'string', default: '2' },
  },
});
const kills = wholeNumber('kills', values.kills, 1);
const seed = wholeNumber('seed', values.seed);
const spares = wholeNumber('spares', values.spares, 1);
const [mode] = someOf<CrashMode>('mode', [values.mode], ['tracked', 'reissued']);
const chosen = combinations()
  .map((combination, number) => ({ combination, number, name: nameOf(combination) }))
  .filter(({ name }) => name.includes(values.only));
if (chosen.length === 0) refuse(`--only: no combination has "${values.only}" in its name`);
console.log(`${kills} kills over ${chosen.length} combinations, --seed=${seed}`);

const memory = '/dev/shm';
const folder = mkdtempSync(join(existsSync(memory) ? memory : tmpdir(), 'vhost-user-crash-'));
process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
const platform = createLinuxPlatform();
await using backends = new Backends(spares);
let [passed, failed, total] = [0, 0, 0];
const begin = performance.now();
for (const [i, { combination, number, name }] of chosen.entries()) {
  const share = Math.floor(((i + 1) * kills) / chosen.length) - Math.floor((i * kills) / chosen.length);
  const since = performance.now();
  try {
    const counts = await crashRun({
      platform,
      combination,
      kills: share,
      seed: seed + number,
      file: join(folder, `disk-${number}`),
      socketPath: join(folder, `socket-${number}`),
      backends,
      mode: mode!,
    });
    passed++;
    total += share;
    console.log(`ok   ${name}: ${describe(counts)}, ${((performance.now() - since) / 1000).toFixed(1)} s`);
  } catch (error) {
    failed++;
    console.log(`FAIL ${name}, --seed=${seed} --only="${name}"\n${(error as Error).stack ?? String(error)}`);
  }
}
console.log(`${total} kills survived in ${((performance.now() - begin) / 1000).toFixed(0)} s`);
console.log(`\n${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

function describe({ kills: each, beforeReady, caught, requests }: CrashCounts): string {
  const kinds = Object.entries(each).map(([kind, count]) => `${kind} ${count}`);
  return `${requests} requests, ${caught} under way at kills (${kinds.join(', ')}; ${beforeReady} before it was ready)`;
}
