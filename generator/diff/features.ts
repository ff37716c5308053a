import type { FeatureBit, FeaturesFile } from '../model/types.js';
import { type Changes, newIn, pair } from './change.js';

/** Bits are known on the wire by their number; a bit that moved is one removed and one added. */
export function diffFeatures(before: FeaturesFile, after: FeaturesFile, changes: Changes): void {
  changes.value('width', 'width', before.width, after.width, after.width < before.width);
  changes.value('word', 'the word', before.word, after.word);
  const { both, removed, added } = pair(before.bits, after.bits, (bit) => bit.bit);
  for (const [old, now] of both) diffBit(old, now, changes);
  for (const bit of removed) {
    const moved = after.bits.find((each) => each.name === bit.name);
    const text = moved === undefined ? 'was removed' : `moved to bit ${moved.bit}`;
    changes.breaking(bit.name, `bit ${bit.bit} ${text}`);
  }
  for (const bit of added) {
    if (!before.bits.some((each) => each.name === bit.name))
      changes.compatible(bit.name, `bit ${bit.bit} is new`);
  }
}

function diffBit(old: FeatureBit, now: FeatureBit, changes: Changes): void {
  changes.value(now.name, 'the specification name', old.specName, now.specName, false);
  changes.value(now.name, 'the name', old.name, now.name, false);
  const needs = (bit: FeatureBit) => [
    ...bit.requires,
    ...bit.requiresOther.map((ref) => `${ref.file} ${ref.bit}`),
  ];
  for (const need of newIn(needs(old), needs(now))) changes.breaking(now.name, `now needs ${need}`);
  for (const need of newIn(needs(now), needs(old))) changes.compatible(now.name, `no longer needs ${need}`);
  changes.value(now.name, 'negotiable', old.negotiable, now.negotiable, old.negotiable);
}
