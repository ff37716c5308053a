import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
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

test('a schema is generated anew while the runtime does not compile, and taken back', () => {
  const root = repositoryRoot();
  const copy = mkdtempSync(join(tmpdir(), 'vhost-user-generate-'));
  try {
    for (const each of ['.ci', 'generator', 'schema', 'generated', 'package.json', 'tsconfig.json'])
      cpSync(join(root, each), join(copy, each), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
    mkdirSync(join(copy, 'runtime'));
    writeFileSync(join(copy, 'runtime/behind.ts'), 'export const served: string = 46;\n');
    const generate = (...args: string[]) =>
      spawnSync('npm', ['run', '-s', 'generate', '--', ...args], { cwd: copy, encoding: 'utf8' });

    assert.is(generate('--check').status, 0);
    const schema = join(copy, 'schema/virtio/status.yaml');
    const before = readFileSync(schema, 'utf8');
    writeFileSync(schema, before.replace('Progress of the driver', 'How far the driver is'));
    assert.match(generate().stdout, 'changed generated/virtio/status.ts\n');
    assert.is(generate('--check').status, 0);
    writeFileSync(schema, before);
    assert.is(generate().status, 0);
    const path = 'generated/virtio/status.ts';
    assert.is(readFileSync(join(copy, path), 'utf8'), readFileSync(join(root, path), 'utf8'));
  } finally {
    rmSync(copy, { recursive: true });
  }
});

test.run();
