import type { Rule } from './rule.js';
import { findStruct, structsOf } from './walk.js';

export const codecPossible: Rule = {
  code: 'codec-possible',
  summary:
    'What a record holds has a codec, its padding has a fixed size, and what counts is no padding or constant.',
  check({ model }, report) {
    for (const struct of structsOf(model)) {
      if (struct.form === 'offsets') continue;
      for (const field of struct.fields) {
        if (field.type.kind === 'struct' && findStruct(model, field.type)?.form === 'offsets')
          report(field, 'type', `'${field.type.name}' has accessors only, so '${field.name}' has no codec`);
        if (field.ignored && field.count !== null && field.count.kind !== 'value')
          report(
            field,
            field.type.kind === 'bytes' ? 'length' : 'count',
            `'${field.name}' is padding of no fixed size`,
          );
        if (field.counts !== null && (field.ignored || field.mustBe !== null))
          report(field, field.ignored ? 'ignored' : 'must-be', `'${field.name}' counts '${field.counts}'`);
      }
    }
  },
};
