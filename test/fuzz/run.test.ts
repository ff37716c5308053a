import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const test = suite('the fuzzer');

function fuzz(
  kind: string,
  options: readonly string[] = [],
  environment: NodeJS.ProcessEnv = {},
): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [fileURLToPath(new URL('run.js', import.meta.url)), `--kind=${kind}`, ...options],
    { encoding: 'utf8', env: { ...process.env, ...environment } },
  );
  return { status, output: stdout + stderr };
}

function kindFile(name: string): string {
  return fileURLToPath(new URL(`../support/${name}.js`, import.meta.url));
}

test('a finding names the sequence that shows it, in one command', () => {
  const kind = kindFile('fuzz-throws');
  const { status, output } = fuzz(kind, ['--seed=4294967294', '--inputs=100']);
  assert.is(status, 1);
  assert.match(output, 'found on purpose');
  assert.match(output, 'a finding after 30 inputs');
  // Seeds have 32 bits and go round.
  assert.match(output, `npm run fuzz -- --kind=${kind} --seed=1 --inputs=1\n`);
  assert.match(output, /0 passed, 1 failed\n$/);
});

test('a sequence that stands still is ended and named', () => {
  const { status, output } = fuzz(kindFile('fuzz-hangs'), ['--seed=7', '--inputs=100'], {
    FUZZ_HANG_MS: '2000',
  });
  assert.is(status, 1);
  assert.match(output, 'a hang');
  assert.match(output, '--seed=8 --inputs=1');
});

test('a process that dies is a finding', () => {
  const { status, output } = fuzz(kindFile('fuzz-dies'), ['--seed=7', '--inputs=100']);
  assert.is(status, 1);
  assert.match(output, 'ended with SIGSEGV');
  assert.match(output, '--seed=9 --inputs=1');
});

test('without a finding it says how much was played; the seed is printed first', () => {
  const { status, output } = fuzz('packed-driver', ['--seed=5', '--inputs=200']);
  assert.is(status, 0);
  assert.match(
    output,
    /^seed 5\npacked-driver: \d+ inputs in \d+ sequences, .* no finding\n1 passed, 0 failed\n$/,
  );
  assert.is(output.replace(/, \d+ a second/, ''), again(5).replace(/, \d+ a second/, ''));
});

function again(seed: number): string {
  return fuzz('packed-driver', [`--seed=${seed}`, '--inputs=200']).output;
}

test('what cannot be meant is refused', () => {
  assert.is(fuzz('split', ['--inputs=many']).status, 2);
  assert.is(fuzz('no-such-kind').status, 2);
});

test.run();
