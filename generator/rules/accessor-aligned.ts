import type { Rule } from './rule.js';
import { elementSize, structsOf } from './walk.js';

/** u64 is read as two halves, so four bytes are the most that an access needs. */
const WIDEST_ACCESS = 4;

export const accessorAligned: Rule = {
  code: 'accessor-aligned',
  summary: 'In a struct with accessors each number can be reached through a typed array of its size.',
  check({ model, stated }, report) {
    for (const struct of structsOf(model)) {
      if (struct.form === 'record') continue;
      for (const field of struct.fields) {
        const size = field.type.kind === 'scalar' ? elementSize(model, field.type)! : 1;
        const unit = Math.min(size, WIDEST_ACCESS);
        const { base, step } = stated.get(field)!;
        if (base % unit !== 0 || step % unit !== 0)
          report(field, 'offset', `'${field.name}' is not at a multiple of ${unit}`);
        else if (struct.align % unit !== 0) {
          report(struct, 'align', `'${field.name}' needs an alignment of ${unit}`);
        }
      }
    }
  },
};
