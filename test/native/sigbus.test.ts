import { spawnSync } from 'node:child_process';
import { ftruncateSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockOperation, type Mapping } from '../../runtime/platform/platform.js';
import { mapped, once, platform } from './support.js';

const SIZE = 1 << 20;

/** A mapping whose file is truncated to a page behind its back. */
function truncated(): { mapping: Mapping; window: number; u8: Uint8Array; u32: Uint32Array } {
  const fd = platform.createSharedMemory('truncated', BigInt(SIZE));
  const mapping = platform.map(fd, 0n, BigInt(SIZE));
  const window = mapping.firstWindow;
  const [u8, u32] = [platform.windows.u8[window]!, platform.windows.u32[window]!];
  u8.fill(1);
  ftruncateSync(fd, 4096);
  platform.closeFd(fd);
  assert.not(mapping.damaged, 'not noticed before the first access');
  return { mapping, window, u8, u32 };
}

function sum(u32: Uint32Array): number {
  let total = 0;
  for (let i = 0; i < u32.length; i++) total = (total + u32[i]!) | 0;
  return total;
}

const accesses: Record<string, (u8: Uint8Array, u32: Uint32Array) => void> = {
  'a plain read': (u8) => assert.is(u8[8192], 0),
  'a plain write': (u8) => void (u8[8192] = 3),
  'an atomic read': (_, u32) => assert.is(Atomics.load(u32, 2048), 0),
  'a DataView': (u8) => new DataView(u8.buffer).setBigUint64(8192, 1n),
  fill: (u8) => u8.fill(9),
  copyWithin: (u8) => u8.copyWithin(0, 8192),
  set: (u8) => new Uint8Array(SIZE).set(u8),
  'a conversion to text': (u8) => void Buffer.from(u8.buffer).toString('hex', 0, SIZE),
};

for (const [name, access] of Object.entries(accesses)) {
  test(`memory truncated under ${name}: the process lives, the mapping is damaged`, () => {
    const whole = mapped(4096);
    const { mapping, u8, u32 } = truncated();
    access(u8, u32);
    assert.ok(mapping.damaged);
    assert.not(whole.mapping.damaged, 'others are not');
    mapping.unmap();
    assert.ok(mapping.damaged, 'it stays known after the end');
    whole.mapping.unmap();
  });
}

test('memory truncated under a compiled loop', () => {
  const warm = mapped(SIZE);
  for (let i = 0; i < 50; i++) sum(platform.windows.u32[warm.window]!);
  warm.mapping.unmap();
  const { mapping, u32 } = truncated();
  assert.is(sum(u32), (0x01010101 * 1024) | 0, 'what is left is read, what is gone is zero');
  assert.ok(mapping.damaged);
  mapping.unmap();
});

test('a large file truncated to nothing is walked through at once', () => {
  const size = 1n << 32n;
  const fd = platform.createSharedMemory('large', size);
  const mapping = platform.map(fd, 0n, size);
  ftruncateSync(fd, 0);
  platform.closeFd(fd);
  const u8 = platform.windows.u8[mapping.firstWindow + 2]!;
  for (let i = 0; i < u8.length; i += 4096) assert.is(u8[i], 0);
  assert.ok(mapping.damaged);
  mapping.unmap();
});

test('memory truncated under the copy table', () => {
  const target = mapped(SIZE);
  const { mapping, window } = truncated();
  target.u8.fill(5);
  platform.copies.entries.set([window, 0, target.window, 0, SIZE, 0]);
  platform.copies.run(1);
  assert.ok(mapping.damaged);
  assert.is(target.u8[0], 1);
  assert.is(target.u8[8192], 0);
  target.mapping.unmap();
  mapping.unmap();
});

test('memory truncated under file I/O: the operation fails with EFAULT', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sigbus-'));
  const path = join(folder, 'image');
  writeFileSync(path, Buffer.alloc(SIZE, 7));
  const file = platform.openFile(path, { readOnly: false });
  for (const operation of [BlockOperation.read, BlockOperation.write]) {
    const { mapping, window } = truncated();
    file.queue(operation, 1, 0, 0, Int32Array.of(window, 8192, 65536, 0), 0, 1);
    const count = file.submit() || (await once<number>((done) => file.onComplete(done)));
    assert.is(count, 1);
    assert.is(file.completions[1], -14);
    mapping.unmap();
  }
  await file.close();
  rmSync(folder, { recursive: true });
});

test('a mapping made after a damaged one is whole', () => {
  const { mapping, u8 } = truncated();
  u8[SIZE - 1] = 1;
  assert.ok(mapping.damaged);
  mapping.unmap();
  const next = mapped(SIZE);
  assert.not(next.mapping.damaged);
  next.u8[SIZE - 1] = 1;
  assert.not(next.mapping.damaged);
  next.mapping.unmap();
});

test('a SIGBUS that is not ours keeps its meaning: the process ends by it', () => {
  const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url), 'kill']);
  assert.is(child.signal, 'SIGBUS');
});

if (process.argv[2] === 'kill') {
  mapped(4096);
  process.kill(process.pid, 'SIGBUS');
  setTimeout(() => {}, 60_000);
} else {
  test.run();
}
