import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { repositoryRoot } from '../support/repository.js';

/**
 * The import table of ARCHITECTURE.md. A part is the longest prefix of a file's path that has a row. A row lists what it
 * may import besides itself; `node:` modules count as `node`, packages by their name. Type-only imports count too.
 */
const TABLE: Record<string, readonly string[]> = {
  'runtime/errors': [],
  'runtime/wire': ['runtime/errors'],
  generated: ['runtime/wire'],
  'runtime/platform/platform': ['runtime/errors'],
  'runtime/platform': ['runtime/platform/platform', 'runtime/errors', 'native', 'node'],
  'runtime/memory': ['runtime/errors', 'runtime/wire', 'runtime/platform/platform'],
  'runtime/virtqueue': [
    'runtime/memory',
    'runtime/platform/platform',
    'runtime/wire',
    'runtime/errors',
    'generated/vhost-user/inflight',
    'generated/virtio',
  ],
  'runtime/device': ['runtime/virtqueue', 'runtime/platform/platform', 'runtime/errors', 'generated/virtio'],
  'runtime/vhost-user': [
    'runtime/device',
    'runtime/virtqueue',
    'runtime/memory',
    'runtime/platform/platform',
    'runtime/wire',
    'runtime/errors',
    'generated/vhost-user',
    'generated/virtio',
    'node',
  ],
  'runtime/drivers': [
    'runtime/vhost-user',
    'runtime/virtqueue',
    'runtime/memory',
    'runtime/platform/platform',
    'runtime/wire',
    'runtime/errors',
    'generated/virtio',
  ],
  'runtime/devices/blk': [
    'runtime/device',
    'runtime/wire',
    'runtime/errors',
    'generated/virtio/devices/blk',
    'generated/virtio/device-ids',
  ],
  'runtime/devices/entropy': [
    'runtime/device',
    'runtime/errors',
    'generated/virtio/devices/entropy',
    'generated/virtio/device-ids',
    'node',
  ],
  'runtime/devices/net': [
    'runtime/device',
    'runtime/wire',
    'runtime/errors',
    'generated/virtio/devices/net',
    'generated/virtio/device-ids',
    'generated/virtio/features',
  ],
  'runtime/backings/ports': [
    'runtime/platform/platform',
    'runtime/errors',
    'runtime/devices/net/port',
    'runtime/devices/net/offloads',
    'node',
  ],
  'runtime/backings': ['runtime/platform/platform', 'runtime/errors', 'runtime/devices/blk/backing', 'node'],
  'runtime/testing': [
    'runtime/drivers',
    'runtime/memory',
    'runtime/virtqueue',
    'runtime/vhost-user',
    'runtime/device',
    'runtime/devices',
    'runtime/backings',
    'runtime/platform',
    'runtime/wire',
    'runtime/errors',
    'generated',
    'node',
  ],
  'runtime/bin': ['runtime', 'generated', 'node'],
  'runtime/index': ['runtime', 'generated'],
  native: ['node'],
  generator: ['node', 'yaml', 'ajv', 'ts-morph'],
};

const test = suite('imports follow the table of ARCHITECTURE.md');

const root = repositoryRoot();
const files = ['runtime', 'generated', 'generator', 'native'].flatMap(sources);

test('every source file belongs to a row', () => {
  for (const file of files) assert.ok(rowOf(file), `${file} has no row`);
});

for (const file of files) {
  test(file, () => {
    const row = rowOf(file)!;
    for (const specifier of importsOf(file)) {
      const target = resolve(file, specifier);
      const allowed = [row, ...TABLE[row]!];
      assert.ok(
        allowed.some((prefix) => target === prefix || target.startsWith(`${prefix}/`)),
        `${file} imports ${target}; ${row} may import ${allowed.join(', ')}`,
      );
    }
  });
}

test('nothing in bin or the package entry reaches runtime/testing', () => {
  for (const file of files.filter((each) => /^runtime\/(bin\/|index)/.test(each))) {
    for (const specifier of importsOf(file)) {
      assert.not(resolve(file, specifier).startsWith('runtime/testing'), `${file} imports ${specifier}`);
    }
  }
});

test('only runtime/platform loads the addon', () => {
  for (const file of files.filter(
    (each) => !each.startsWith('runtime/platform/') && !each.startsWith('native/'),
  )) {
    for (const specifier of importsOf(file)) {
      assert.not(resolve(file, specifier).startsWith('native'), `${file} imports ${specifier}`);
    }
  }
});

test.run();

function sources(folder: string): string[] {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

function rowOf(file: string): string | undefined {
  const stem = file.replace(/\.ts$/, '');
  return Object.keys(TABLE)
    .filter((row) => stem === row || stem.startsWith(`${row}/`))
    .sort((a, b) => b.length - a.length)[0];
}

function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8').replace(/^\s*(\*|\/\/).*$/gm, '');
  const pattern = /(?:^(?:import|export)\b[^'"`;]*?\bfrom|^import|\bimport\()\s*['"]([^'"]+)['"]/gm;
  return [...text.matchAll(pattern)].map((match) => match[1]!);
}

function resolve(file: string, specifier: string): string {
  if (specifier.startsWith('node:')) return 'node';
  if (!specifier.startsWith('.')) return specifier;
  return join(dirname(file), specifier).replace(/\.js$/, '');
}
