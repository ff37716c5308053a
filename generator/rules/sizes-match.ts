import { formatLinear, sameLinear } from '../model/linear.js';
import { computeLayout } from './computed-layout.js';
import type { Rule } from './rule.js';
import { structsOf } from './walk.js';

export const sizesMatch: Rule = {
  code: 'sizes-match',
  summary: 'The size of a struct is that of its fields.',
  check({ model, stated }, report) {
    for (const struct of structsOf(model)) {
      const { size } = computeLayout(model, struct);
      const said = stated.get(struct)!;
      if (size === null || sameLinear(said, size)) continue;
      const message = `'${struct.name}' is said to have ${formatLinear(said)} bytes, its fields have ${formatLinear(size)}`;
      report(struct, 'size', message);
    }
  },
};
