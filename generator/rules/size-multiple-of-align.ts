import type { Rule } from './rule.js';
import { structsOf } from './walk.js';

export const sizeMultipleOfAlign: Rule = {
  code: 'size-multiple-of-align',
  summary: 'A struct of fixed size fills whole units of its alignment, as an array of it must.',
  check({ model }, report) {
    for (const struct of structsOf(model)) {
      if (struct.size !== null && struct.size % struct.align !== 0) {
        report(struct, 'align', `${struct.size} bytes are no multiple of the alignment ${struct.align}`);
      }
    }
  },
};
