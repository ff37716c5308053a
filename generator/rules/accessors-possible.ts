import { accessUnit } from '../model/access-unit.js';
import type { Field, Struct } from '../model/types.js';
import type { Report, Rule } from './rule.js';
import { elementSize, structsOf } from './walk.js';

export const accessorsPossible: Rule = {
  code: 'accessors-possible',
  summary:
    'In a struct with accessors nothing is an i64, elements are whole units of the typed array, and what is read in order stands alone.',
  check({ model, stated }, report) {
    for (const struct of structsOf(model)) {
      if (struct.form === 'record') continue;
      const unit = accessUnit(struct);
      for (const field of struct.fields.filter((each) => !each.ignored)) {
        const { base, step } = stated.get(field)!;
        const element = elementSize(model, field.type);
        if (field.type.kind === 'scalar' && field.type.type === 'i64')
          report(field, 'type', `'${field.name}': an i64 has no accessor`);
        if (field.type.kind === 'struct' && base % unit !== 0)
          report(field, 'offset', `'${field.name}' is not at a multiple of ${unit}, the struct's unit`);
        else if (step % unit !== 0)
          report(
            field,
            'offset',
            `'${field.name}' moves by ${step}, no multiple of ${unit}, the struct's unit`,
          );
        if (field.type.kind !== 'bytes' && field.count !== null && element !== null && element % unit !== 0)
          report(
            field,
            'count',
            `elements of ${element} bytes are no multiple of ${unit}, the struct's unit`,
          );
        if (field.access !== 'plain') checkOrdered(struct, field, report);
      }
    }
  },
};

function checkOrdered(struct: Struct, field: Field, report: Report): void {
  const isNarrow = field.type.kind === 'scalar' && !field.type.type.endsWith('64');
  if (!isNarrow) report(field, 'access', `'${field.name}' is no number of at most 32 bits`);
  else if (field.count !== null || field.offset === null)
    report(field, 'access', `'${field.name}' is not one number at a fixed offset of '${struct.name}'`);
}
