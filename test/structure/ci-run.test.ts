import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { repositoryRoot } from '../support/repository.js';

/** .ci/run among programs that only pretend: each prints two passed tests, and fails when it is the one that is broken. */
const ci = suite<{ folder: string }>('what a change must pass');

const STUB = `#!/bin/sh
case "$(basename "$0") $*" in *"$BROKEN"*) exit 1 ;; esac
case "$(basename "$0")" in dpkg-query) echo installed ;; npm | node) echo; echo '2 passed, 0 failed' ;; esac
`;

ci.before.each((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'ci-'));
  for (const name of ['.ci', 'bin', 'native/src']) mkdirSync(join(context.folder, name), { recursive: true });
  copyFileSync(join(repositoryRoot(), '.ci/run'), join(context.folder, '.ci/run'));
  for (const name of ['npm', 'node', 'clang-format', 'dpkg-query']) {
    writeFileSync(join(context.folder, 'bin', name), STUB, { mode: 0o755 });
  }
});

ci.after.each(({ folder }) => rmSync(folder, { recursive: true, force: true }));

function run(folder: string, broken: string): { status: number | null; lastLine: string | undefined } {
  const { status, stdout } = spawnSync('bash', [join(folder, '.ci/run')], {
    encoding: 'utf8',
    env: {
      PATH: `${join(folder, 'bin')}:${process.env['PATH']}`,
      BROKEN: broken,
      TMPDIR: folder,
      FETCH_PAUSE: '0',
    },
  });
  return { status, lastLine: stdout.trimEnd().split('\n').at(-1) };
}

for (const broken of [
  'npm ci',
  'npm run build',
  'format:check',
  'clang-format',
  'generate -- --check',
  'npm test',
  'run -s fuzz',
  'run -s demo',
  'npm install',
  '--interop',
]) {
  ci(`fails when ${broken} does, and says so in its last line`, ({ folder }) => {
    const { status, lastLine } = run(folder, broken);
    assert.is.not(status, 0);
    assert.match(lastLine ?? '', /^\d+ passed, [1-9]\d* failed$/);
  });
}

ci('tries again what comes over the network', ({ folder }) => {
  const once = `#!/bin/sh
case "$*" in
  ci*) [ -e "${folder}/tried" ] || { touch "${folder}/tried"; exit 1; } ;;
  *) echo; echo '2 passed, 0 failed' ;;
esac
`;
  writeFileSync(join(folder, 'bin/npm'), once);
  const { lastLine } = run(folder, 'nothing');
  assert.is(lastLine, '9 passed, 2 failed', 'no more fail than otherwise');
});

ci('adds up what its suites say', ({ folder }) => {
  // The suites of other Nodes run programs that `npm install` would have brought, which it here does not.
  const { status, lastLine } = run(folder, 'nothing');
  assert.is.not(status, 0);
  assert.is(lastLine, '9 passed, 2 failed');
});

ci.run();
