import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFeatures, featureNames, type FeatureTable } from '../../runtime/wire/index.js';

/** c needs b, b needs a; d and e need one another; f needs two. */
const table: FeatureTable = {
  name: 'sample',
  bits: [
    { name: 'c', specName: 'F_C', bit: 0, requires: ['b'] },
    { name: 'b', specName: 'F_B', bit: 1, requires: ['a'] },
    { name: 'a', specName: 'F_A', bit: 63, requires: [] },
    { name: 'd', specName: 'F_D', bit: 4, requires: ['e'] },
    { name: 'e', specName: 'F_E', bit: 5, requires: ['d'] },
    { name: 'f', specName: 'F_F', bit: 6, requires: ['a', 'd'] },
  ],
};
const [c, b, a, d, e, f] = table.bits.map(({ bit }) => 1n << BigInt(bit)) as [
  bigint,
  bigint,
  bigint,
  bigint,
  bigint,
  bigint,
];

test('a bit goes when what it needs is missing, and those that need it go with it', () => {
  assert.is(closeFeatures(table, c | b), 0n);
  assert.is(closeFeatures(table, c | a), a);
  assert.is(closeFeatures(table, b | a), b | a);
  assert.is(closeFeatures(table, c | b | a), c | b | a);
});

test('bits that need one another stay or go together', () => {
  assert.is(closeFeatures(table, d | e), d | e);
  assert.is(closeFeatures(table, d), 0n);
  assert.is(closeFeatures(table, e), 0n);
});

test('a bit with two needs keeps neither half of them in', () => {
  assert.is(closeFeatures(table, f | a), a);
  assert.is(closeFeatures(table, f | d | e), d | e);
  assert.is(closeFeatures(table, f | a | d | e), f | a | d | e);
});

test('unknown bits are left alone', () => {
  assert.is(closeFeatures(table, (1n << 40n) | c), 1n << 40n);
});

test('for every word: the result is a part of it, is closed, and nothing closed was lost', () => {
  const all = [a, b, c, d, e, f];
  const closed = (word: bigint): boolean =>
    table.bits.every(
      ({ bit, requires }) =>
        (word & (1n << BigInt(bit))) === 0n ||
        requires.every(
          (need) => (word & (1n << BigInt(table.bits.find(({ name }) => name === need)!.bit))) !== 0n,
        ),
    );
  const words = Array.from({ length: 64 }, (_, n) =>
    all.reduce((word, bit, i) => ((n >> i) & 1 ? word | bit : word), 0n),
  );
  for (const word of words) {
    const result = closeFeatures(table, word);
    assert.is(result & ~word, 0n);
    assert.ok(closed(result));
    for (const part of words) if ((part & ~word) === 0n && closed(part)) assert.is(part & ~result, 0n);
  }
});

test('names follow the bit order, unknown bits by their number', () => {
  assert.equal(featureNames(table, a | c | (1n << 40n)), ['F_C', 'bit 40', 'F_A']);
  assert.equal(featureNames(table, 0n), []);
});

test.run();
