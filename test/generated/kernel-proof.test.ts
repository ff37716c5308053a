import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { constantsOf } from '../../generator/emit/c/constants.js';
import { emitC } from '../../generator/emit/c/index.js';
import type { Model } from '../../generator/model/types.js';
import { writeFolder } from '../../generator/write.js';
import { repositoryRoot } from '../support/repository.js';
import { projectModel } from '../support/toy-schema.js';

/** The schema against the kernel's headers: what is compiled here proves layouts and numbers, without running anything. */
const proof = suite('proof by the kernel headers');
const generated = join(repositoryRoot(), 'generated/c');

proof('the generated proof compiles: sizes, offsets and constants are those of the kernel', () => {
  assert.is(compile(['-x', 'c', '-std=c11', join(generated, 'kernel_proof.c')]), '');
});

proof('the header compiles as C and as C++, twice in one file too', () => {
  const header = join(generated, 'vhost_user_schema.h');
  assert.is(compile(['-x', 'c', '-std=c11', '-include', header, header]), '');
  assert.is(compile(['-x', 'c++', '-std=c++17', '-include', header, header]), '');
});

proof('ring, vhost and block layouts are among what is proven', () => {
  const proven = projectModel()
    .files.flatMap((file) => (file.kind === 'layouts' ? file.structs : []))
    .filter((struct) => struct.proof !== null)
    .map((struct) => struct.name);
  for (const name of [
    ...['virtq-desc', 'virtq-avail', 'virtq-used-elem', 'virtq-used', 'packed-desc', 'packed-event-suppress'],
    ...['vring-state', 'vring-address', 'memory-region', 'iotlb-message'],
    ...['blk-config', 'blk-request-header', 'blk-discard-write-zeroes'],
  ]) {
    assert.ok(proven.includes(name), name);
  }
});

proof('the kernel headers define a good part of the constants, and those are compared', () => {
  const macros = execFileSync('g++', ['-x', 'c', '-E', '-dM', join(generated, 'kernel_proof.c')], { encoding: 'utf8' });
  const defined = new Set([...macros.matchAll(/^#define (\w+)/gm)].map(([, name]) => name));
  for (const name of [
    ...['VIRTIO_F_RING_PACKED', 'VIRTIO_RING_F_EVENT_IDX', 'VHOST_F_LOG_ALL', 'VRING_DESC_F_INDIRECT'],
    ...['VIRTIO_BLK_F_WRITE_ZEROES', 'VIRTIO_BLK_T_GET_ID', 'VIRTIO_BLK_S_UNSUPP', 'VIRTIO_ID_BLOCK'],
    ...['VIRTIO_CONFIG_S_FEATURES_OK', 'VRING_PACKED_EVENT_FLAG_DESC'],
  ]) {
    assert.match(readProof(), `#ifdef ${name}\n`);
    assert.ok(defined.has(name), name);
  }
  const compared = [...readProof().matchAll(/^#ifdef (\w+)$/gm)].filter(([, name]) => defined.has(name));
  assert.ok(compared.length >= 90, `${compared.length} of ${constantsOf(projectModel()).length}`);
});

for (const [claim, edit] of Object.entries({
  'a wrong offset': (text: string) => replaceFirst(text, /("name": "sector",[^]*?"offset": )8/, '$116'),
  'a wrong type': (text: string) => replaceFirst(text, /("name": "off-wrap",[^]*?"type": )"u16"/, '$1"u8"'),
  'a wrong feature bit': (text: string) => replaceFirst(text, /("specName": "VIRTIO_BLK_F_RO",[^]*?"bit": )5/, '$16'),
  'a wrong flag': (text: string) => replaceFirst(text, /("specName": "VIRTQ_DESC_F_INDIRECT",[^]*?"value": )2/g, '$13'),
})) {
  proof(`does not compile with ${claim} in the model`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'proof-'));
    try {
      const model = JSON.parse(edit(JSON.stringify(projectModel(), null, 1))) as Model;
      writeFolder(folder, emitC(model));
      assert.match(compile(['-x', 'c', '-std=c11', join(folder, 'c/kernel_proof.c')]), /static assertion failed/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

function readProof(): string {
  return emitC(projectModel()).find((output) => output.path.endsWith('.c'))!.text;
}

function replaceFirst(text: string, pattern: RegExp, replacement: string): string {
  const changed = text.replace(pattern, replacement);
  assert.is.not(changed, text);
  return changed;
}

/** The compiler's complaints; g++ compiles C too, and is what the addon needs anyway. */
function compile(args: readonly string[]): string {
  const { stderr, status } = spawnSync('g++', ['-Wall', '-Wextra', '-fsyntax-only', ...args], { encoding: 'utf8' });
  return status === 0 && stderr === '' ? '' : `${status} ${stderr}`;
}

proof.run();
