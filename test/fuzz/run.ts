/**
 * Fuzzes: `npm run fuzz -- [--kind=NAME,…|all] [--seed=S] [--inputs=N] [--seconds=N] [--jobs=N]`.
 *
 * Every kind runs in a process of its own, watched from here: one that throws, crashes or stands still is a finding, and the
 * command that plays its sequence again is printed. Without --inputs and --seconds each kind runs for 60 seconds;
 * without --seed the seed is drawn. The last line is `N passed, N failed`, counted in kinds.
 */
import { fork } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readCommandLine, someOf, wholeNumber } from '../support/command-line.js';
import { fuzzKinds } from './kinds.js';
import { Watchdog } from './watchdog.js';

/** No sequence takes a hundredth of this. */
const HANG_MS = Number(process.env['FUZZ_HANG_MS'] ?? 60_000);

interface Options {
  readonly seed: number;
  readonly inputs: number;
  readonly seconds: number;
}

interface Done {
  readonly inputs: number;
  readonly sequences: number;
  readonly reached: Record<string, number>;
}

const { values } = readCommandLine({
  options: {
    kind: { type: 'string', default: 'all' },
    seed: { type: 'string' },
    inputs: { type: 'string' },
    seconds: { type: 'string' },
    jobs: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});
const kinds = values.kind === 'all' ? Object.keys(fuzzKinds) : values.kind.split(',');
const options: Options = {
  seed: numberGiven('seed') ?? randomInt(2 ** 32),
  inputs: numberGiven('inputs', 1) ?? Infinity,
  seconds: numberGiven('seconds', 1) ?? (values.inputs === undefined ? 60 : Infinity),
};
// A kind may be a module of its own, too: the tests of this command bring theirs.
const named = kinds.filter((kind) => !isAbsolute(kind));
someOf('kind', named, Object.keys(fuzzKinds));
const jobs = numberGiven('jobs', 1) ?? availableParallelism();
const folder = mkdtempSync(join(tmpdir(), 'vhost-user-fuzz-'));
let failed = 0;
try {
  console.log(`seed ${options.seed}`);
  const queue = [...kinds];
  const worker = async (): Promise<void> => {
    for (let kind = queue.shift(); kind !== undefined; kind = queue.shift()) {
      if (!(await fuzz(kind, options))) failed++;
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, Math.min(jobs, kinds.length)) }, worker));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.log(`${kinds.length - failed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;

function numberGiven(name: 'seed' | 'inputs' | 'seconds' | 'jobs', low = 0): number | undefined {
  const text = values[name];
  return text === undefined ? undefined : wholeNumber(name, text, low);
}

/** True when nothing was found. */
async function fuzz(kind: string, { seed, inputs, seconds }: Options): Promise<boolean> {
  const began = performance.now();
  const path = join(folder, `${kinds.indexOf(kind)}`);
  const child = fork(
    fileURLToPath(new URL('child.js', import.meta.url)),
    [kind, String(seed), String(inputs), String(seconds), path],
    { stdio: ['ignore', 'pipe', 'pipe', 'ipc'], execArgv: ['--expose-gc', '--max-old-space-size=1024'] },
  );
  let output = '';
  const take = (chunk: Buffer): void => void (output = (output + chunk.toString()).slice(-20_000));
  child.stdout!.on('data', take);
  child.stderr!.on('data', take);
  let done: Done | null = null;
  child.on('message', (message) => (done = message as Done));
  const watchdog = new Watchdog(path, HANG_MS, () => child.kill('SIGKILL'));
  const ended = await new Promise<string | null>((resolve) =>
    child.on('close', (status, signal) => resolve(signal ?? (status === 0 ? null : `status ${status}`))),
  );
  watchdog.stop();
  const result = done as Done | null;
  if (ended === null && result !== null) {
    report(kind, result, performance.now() - began);
    return true;
  }
  const what = watchdog.barked ? `a hang: nothing moved for ${HANG_MS / 1000} s` : `ended with ${ended}`;
  const at = watchdog.last();
  console.log(`\n${kind}: a finding after ${at?.inputs ?? 0} inputs: ${what}`);
  console.log(output.trimEnd());
  console.log(`play it again: npm run fuzz -- --kind=${kind} --seed=${at?.seed ?? seed} --inputs=1\n`);
  return false;
}

function report(kind: string, { inputs, sequences, reached }: Done, milliseconds: number): void {
  const rate = Math.round((inputs / milliseconds) * 1000);
  console.log(`${kind}: ${inputs} inputs in ${sequences} sequences, ${rate} a second, no finding`);
  if (!values.verbose) return;
  for (const [what, times] of Object.entries(reached).sort(([a], [b]) => (a < b ? -1 : 1))) {
    console.log(`    ${String(times).padStart(9)} ${what}`);
  }
}
