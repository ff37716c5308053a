import { formatLinear, sameLinear } from '../model/linear.js';
import { computeLayout } from './computed-layout.js';
import type { Rule } from './rule.js';
import { structsOf } from './walk.js';

export const offsetsMatch: Rule = {
  code: 'offsets-match',
  summary: 'Each field starts where the fields before it end; padding is a field.',
  check({ model, stated }, report) {
    for (const struct of structsOf(model)) {
      for (const [field, computed] of computeLayout(model, struct).offsets) {
        const offset = stated.get(field)!;
        if (sameLinear(offset, computed)) continue;
        const message = `'${field.name}' is said to be at ${formatLinear(offset)}, the fields before it end at ${formatLinear(computed)}`;
        report(field, 'offset', message);
      }
    }
  },
};
