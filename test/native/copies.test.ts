import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { COPY_STRIDE } from '../../runtime/platform/platform.js';
import { mapped, errno, platform } from './support.js';

const { copies } = platform;
/** An entry without a prefix. */
const plain = (...entry: number[]): number[] => [...entry, 0, 0, 0, 0];

test('copies run in order, within a mapping and between two', () => {
  const a = mapped(8192);
  const b = mapped(4096);
  a.u8.set([1, 2, 3, 4]);
  copies.entries.set([...plain(a.window, 0, b.window, 100, 4), ...plain(b.window, 101, a.window, 8188, 3)]);
  copies.run(2);
  assert.equal([...b.u8.subarray(100, 104)], [1, 2, 3, 4]);
  assert.equal([...a.u8.subarray(8188)], [2, 3, 4, 0]);
  copies.entries.set(plain(a.window, 0, a.window, 1, 3));
  copies.run(1);
  assert.equal([...a.u8.subarray(0, 4)], [1, 1, 2, 3], 'over one another');
  a.mapping.unmap();
  b.mapping.unmap();
});

test('an entry out of bounds: none is run, and the error names it', () => {
  const a = mapped(4096);
  const gone = mapped(4096);
  gone.mapping.unmap();
  a.u8[0] = 7;
  const good = [a.window, 0, a.window, 64, 1];
  const bad = [
    [a.window, 0, a.window, 4095, 2],
    [a.window, 4096, a.window, 0, 1],
    [a.window, -1, a.window, 0, 1],
    [a.window, 0, a.window, 0, -1],
    [a.window, 0x7fffffff, a.window, 0, 0x7fffffff],
    [a.window, 0, a.window, 0, 0x7fffffff],
    [-1, 0, a.window, 0, 1],
    [0x7fffffff, 0, a.window, 0, 1],
    [a.window, 0, gone.window, 0, 1],
  ];
  for (const entry of bad) {
    copies.entries.set([...plain(...good), ...plain(...entry)]);
    assert.is(
      errno(() => copies.run(2)),
      'ERR_PLATFORM_ARGUMENT',
      entry.join(),
    );
    assert.throws(() => copies.run(2), /entry 1 is out of bounds/);
    assert.is(a.u8[64], 0);
  }
  copies.run(1);
  assert.is(a.u8[64], 7);
  a.mapping.unmap();
});

test('a full table runs, one more entry does not', () => {
  const a = mapped(2 * copies.capacity);
  for (let i = 0; i < copies.capacity; i++) {
    a.u8[i] = i % 251;
    copies.entries.set(plain(a.window, i, a.window, copies.capacity + i, 1), i * COPY_STRIDE);
  }
  copies.run(copies.capacity);
  assert.equal(a.u8.slice(copies.capacity), a.u8.slice(0, copies.capacity));
  assert.is(
    errno(() => copies.run(copies.capacity + 1)),
    'ERR_PLATFORM_ARGUMENT',
  );
  assert.is(
    errno(() => copies.run(-1)),
    'ERR_PLATFORM_ARGUMENT',
  );
  copies.run(0);
  a.mapping.unmap();
});

test.run();
