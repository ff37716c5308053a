import type { Rule } from './rule.js';
import { itemsOf } from './walk.js';

export const erratumHasRef: Rule = {
  code: 'erratum-has-ref',
  summary: 'A departure from the text says from which section; a field departs from that of its struct.',
  check({ model }, report) {
    for (const file of model.files) {
      const fields = new Set<object>(
        file.kind === 'layouts' ? file.structs.flatMap((struct) => struct.fields) : [],
      );
      for (const item of itemsOf(file)) {
        if (item.erratum !== null && item.ref === null && !fields.has(item)) {
          report(item, 'erratum', `'${item.name}' has an erratum but no ref`);
        }
      }
    }
  },
};
