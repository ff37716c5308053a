import type { FeatureBit, FeaturesFile } from '../model/types.js';
import type { Rule } from './rule.js';
import { featuresFiles } from './walk.js';

export const requiresAcyclic: Rule = {
  code: 'requires-acyclic',
  summary: 'No feature depends on itself, by whatever way.',
  check({ model }, report) {
    for (const file of featuresFiles(model)) {
      for (const bit of file.bits) {
        const way = wayBack(file, bit, bit, []);
        if (way !== null)
          report(bit, 'requires', `'${bit.name}' requires itself: ${[bit.name, ...way].join(' -> ')}`);
      }
    }
  },
};

/** Names from `bit` to `goal` along `requires`; null if there is no way. */
function wayBack(file: FeaturesFile, bit: FeatureBit, goal: FeatureBit, seen: string[]): string[] | null {
  for (const name of bit.requires) {
    if (name === goal.name) return [name];
    const next = file.bits.find((candidate) => candidate.name === name);
    if (next === undefined || seen.includes(name)) continue;
    seen.push(name);
    const way = wayBack(file, next, goal, seen);
    if (way !== null) return [name, ...way];
  }
  return null;
}
