/** The judge of the crash test must be able to say no. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SectorModel, SECTOR, stamp } from './sector-model.js';

const test = suite('what a sector may hold');

const WORDS = SECTOR / 4;

/** A disk of four sectors, with what each write leaves there. */
function disk() {
  const model = new SectorModel(4);
  const words = new Uint32Array(4 * WORDS);
  const put = (sector: number, count: number, generation: number): void =>
    stamp(words, sector * WORDS, sector, count, generation);
  return { model, words, put };
}

test('a fresh disk is zeroes and nothing else', () => {
  const { model, words } = disk();
  assert.is(model.damage(words), null);
  words[3 * WORDS + 7] = 1;
  assert.match(model.damage(words)!, /sector 3, on disk: zeroes, but not in word 7/);
});

test('a write under way may be there or not, sector by sector', () => {
  const { model, words, put } = disk();
  const write = model.issue(1, 2);
  assert.is(model.damage(words), null);
  put(2, 1, write);
  assert.is(model.damage(words), null);
});

test('an acknowledged write must be there', () => {
  const { model, words, put } = disk();
  const write = model.issue(0, 1);
  model.acknowledge(0, 1, write);
  assert.match(model.damage(words)!, /sector 0, on disk: zeroes, expected 1/);
  put(0, 1, write);
  assert.is(model.damage(words), null);
});

test('an earlier write that comes back is damage; one at the same time is not', () => {
  const { model, words, put } = disk();
  const first = model.issue(0, 1);
  const second = model.issue(0, 1);
  model.acknowledge(0, 1, second);
  model.acknowledge(0, 1, first);
  put(0, 1, first);
  assert.is(model.damage(words), null);
  put(0, 1, second);
  assert.is(model.damage(words), null);
  const third = model.issue(0, 1);
  put(0, 1, third);
  model.acknowledge(0, 1, third);
  assert.is(model.damage(words), null);
  put(0, 1, second);
  assert.match(model.damage(words)!, /write 2, expected/);
});

test('a sector of another place, or of two writes, is damage', () => {
  const { model, words, put } = disk();
  const write = model.issue(0, 4);
  put(0, 4, write);
  words.copyWithin(0, WORDS, 2 * WORDS);
  assert.match(model.damage(words)!, /stamped as sector 1/);
  put(0, 4, write);
  words[5] = 0;
  assert.match(model.damage(words)!, /write 1, but not in word 5/);
});

test('zeroes are a write like another', () => {
  const { model, words, put } = disk();
  const write = model.issue(0, 1);
  put(0, 1, write);
  model.acknowledge(0, 1, write);
  const zeroes = model.issue(0, 1, true);
  assert.is(model.damage(words), null);
  model.acknowledge(0, 1, zeroes);
  assert.match(model.damage(words)!, /write 1, expected \d+ \(zeroes\)/);
  words.fill(0);
  assert.is(model.damage(words), null);
});

test('a read finds what was there when it was issued, or what came since', () => {
  const { model, words, put } = disk();
  const old = model.issue(0, 1);
  put(0, 1, old);
  model.acknowledge(0, 1, old);
  const now = model.issue(0, 1);
  model.acknowledge(0, 1, now);
  const read = model.expect(0, 1);
  assert.match(model.misread(read, words)!, /write 1, expected/);
  put(0, 1, now);
  assert.is(model.misread(read, words), null);
  const later = model.issue(0, 1);
  model.acknowledge(0, 1, later);
  put(0, 1, later);
  assert.is(model.misread(read, words), null);
  put(0, 1, later + 1000);
  assert.match(model.misread(read, words)!, /expected/);
});

test('a read beside a zeroing may find a sector half zeroed; one before or behind it may not, nor may the disk', () => {
  const { model, words, put } = disk();
  const old = model.issue(0, 1);
  put(0, 1, old);
  model.acknowledge(0, 1, old);
  const before = model.expect(0, 1);
  words.fill(0, 24, WORDS);
  assert.match(model.misread(before, words)!, /write 1, but not in word 24/);

  const zeroes = model.issue(0, 1, true);
  const beside = model.expect(0, 1);
  for (const read of [before, beside])
    assert.is(model.misread(read, words), null, 'it began to zero at its end');
  put(0, 1, old);
  words.fill(0, 0, 24);
  for (const read of [before, beside]) assert.is(model.misread(read, words), null, 'it began at its start');
  assert.match(model.damage(words)!, /zeroes, but not in word 24/);
  words[30] = 7;
  for (const read of [before, beside])
    assert.match(model.misread(read, words)!, /zeroes, but not in word 24/);

  const over = model.issue(0, 1);
  put(0, 1, over);
  words.fill(0, 0, 24);
  assert.is(model.misread(beside, words), null, 'a later write, half zeroed');
  model.acknowledge(0, 1, zeroes);
  const behind = model.expect(0, 1);
  assert.is(model.misread(beside, words), null);
  assert.match(model.misread(behind, words)!, /zeroes, but not in word 24/);
});

test('what a driver left behind may be there until something is written over it', () => {
  const { model, words, put } = disk();
  const left = model.issue(0, 1);
  model.abandon();
  assert.is(model.damage(words), null);
  put(0, 1, left);
  assert.is(model.damage(words), null);
  const over = model.issue(0, 1);
  model.acknowledge(0, 1, over);
  assert.match(model.damage(words)!, /write 1, expected/);
});

test('a write is acknowledged once', () => {
  const { model } = disk();
  const write = model.issue(0, 1);
  model.acknowledge(0, 1, write);
  assert.throws(() => model.acknowledge(0, 1, write), /acknowledged twice/);
});

test.run();
