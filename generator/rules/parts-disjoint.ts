import type { Rule } from './rule.js';
import { structsOf } from './walk.js';

export const partsDisjoint: Rule = {
  code: 'parts-disjoint',
  summary: 'The parts of a field stand by rising bits and share none.',
  check({ model }, report) {
    for (const field of structsOf(model).flatMap((struct) => struct.fields)) {
      let free = 0;
      for (const part of field.parts) {
        if (part.lowBit < free)
          report(part, 'low-bit', `bit ${part.lowBit} belongs to the part before '${part.name}'`);
        free = Math.max(free, part.lowBit + part.width);
      }
    }
  },
};
