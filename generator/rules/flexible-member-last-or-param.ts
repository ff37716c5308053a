import type { Rule } from './rule.js';
import { structsOf } from './walk.js';

export const flexibleMemberLastOrParam: Rule = {
  code: 'flexible-member-last-or-param',
  summary:
    'Only a list counted by a parameter has fields behind it; one whose length is on the wire comes last.',
  check({ model }, report) {
    for (const struct of structsOf(model)) {
      for (const field of struct.fields.slice(0, -1)) {
        const kind = field.count?.kind;
        if (kind === 'field' || kind === 'rest') {
          report(field, null, `fields follow '${field.name}', whose length is known on the wire only`);
        }
      }
    }
  },
};
