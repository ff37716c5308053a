import type { Rule } from './rule.js';
import { structsOf } from './walk.js';

export const counterBeforeList: Rule = {
  code: 'counter-before-list',
  summary:
    'What counts a list is a parameter of the struct or an unsigned field before the list that counts nothing else.',
  check({ model }, report) {
    for (const struct of structsOf(model)) {
      const counted = new Set<string>();
      for (const [index, field] of struct.fields.entries()) {
        const { count } = field;
        const key = field.type.kind === 'bytes' ? 'length' : 'count';
        if (count?.kind === 'param' && !struct.params.some((param) => param.name === count.param)) {
          report(field, key, `'${count.param}' is no parameter of '${struct.name}'`);
        }
        if (count?.kind !== 'field') continue;
        const counter = struct.fields.slice(0, index).find((candidate) => candidate.name === count.field);
        if (counter === undefined)
          report(field, key, `there is no field '${count.field}' before '${field.name}'`);
        else if (
          counter.type.kind !== 'scalar' ||
          !counter.type.type.startsWith('u') ||
          counter.count !== null
        ) {
          report(field, key, `'${counter.name}' cannot count: it is no single unsigned number`);
        } else if (counted.has(counter.name))
          report(field, key, `'${counter.name}' counts another list already`);
        counted.add(count.field);
      }
    }
  },
};
