import type { Rule } from './rule.js';
import { structsOf } from './walk.js';

export const countHasMax: Rule = {
  code: 'count-has-max',
  summary: 'A length that comes from the peer has a bound: it is what a decoder may allocate.',
  check({ model }, report) {
    for (const field of structsOf(model).flatMap((struct) => struct.fields)) {
      const { count } = field;
      if ((count?.kind === 'field' || count?.kind === 'rest') && count.max === Infinity) {
        report(field, field.type.kind === 'bytes' ? 'length' : 'count', `'${field.name}' has no max`);
      }
    }
  },
};
