import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { repositoryRoot } from '../support/repository.js';

test('a machine without make is told so in one line', () => {
  const prepare = join(repositoryRoot(), '.ci/prepare.mjs');
  const { status, stderr } = spawnSync(process.execPath, [prepare], {
    encoding: 'utf8',
    env: { PATH: '/nonexistent' },
  });
  assert.is(status, 1);
  assert.is(stderr, '.ci/prepare.mjs: make -s -C native: is not installed\n');
});

test.run();
