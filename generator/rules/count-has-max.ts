import type { Rule } from './rule.js';
import { fieldWidth, structsOf } from './walk.js';

export const countHasMax: Rule = {
  code: 'count-has-max',
  summary:
    'A length that comes from the peer has a bound, which the counting field can hold: it is what a decoder may allocate.',
  check({ model }, report) {
    for (const { fields } of structsOf(model)) {
      for (const field of fields) {
        const { count } = field;
        if (count?.kind !== 'field' && count?.kind !== 'rest') continue;
        const key = field.type.kind === 'bytes' ? 'length' : 'count';
        if (count.max === Infinity) {
          report(field, key, `'${field.name}' has no max`);
          continue;
        }
        const counter = count.kind === 'field' ? fields.find((each) => each.name === count.field) : undefined;
        const width = counter === undefined ? null : fieldWidth(counter);
        if (width !== null && count.max >= 2 ** width)
          report(field, key, `a max of ${count.max} is more than '${counter!.name}' can say`);
      }
    }
  },
};
