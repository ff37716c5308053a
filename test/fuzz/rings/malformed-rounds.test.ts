import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Random } from '../../support/random.js';
import { packedRound, splitRound } from './malformed-rounds.js';

const test = suite('device side against the model, malformed rings');

const SEEDS = 1500;

for (const size of [1, 2, 8, 64]) {
  test(`split, size ${size}: same chains, same verdict`, () => {
    const outcomes = new Map<string, number>();
    for (let seed = 0; seed < SEEDS; seed++) {
      const { verdict: outcome } = splitRound(new Random(seed * 7919 + size), size, `seed ${seed}`);
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
    checkVariety(outcomes);
  });
}

for (const size of [1, 3, 8, 50]) {
  test(`packed, size ${size}: same chains, same verdict`, () => {
    const outcomes = new Map<string, number>();
    for (let seed = 0; seed < SEEDS; seed++) {
      const { verdict: outcome } = packedRound(new Random(seed * 104729 + size), size, `seed ${seed}`);
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
    checkVariety(outcomes);
  });
}

/** The draw is worth something: many rounds survive, and every kind of defect comes up. */
function checkVariety(outcomes: ReadonlyMap<string, number>): void {
  for (const kind of [
    'good',
    'ERR_VIRTQ_CHAIN',
    'ERR_VIRTQ_HEAD',
    'ERR_VIRTQ_ADDRESS',
    'ERR_VIRTQ_INDIRECT',
  ]) {
    assert.ok((outcomes.get(kind) ?? 0) >= 1, `${kind}: ${JSON.stringify([...outcomes])}`);
  }
}

test.run();
