import type { Rule } from './rule.js';
import { findStruct, layoutsFiles } from './walk.js';

export const nestedStructFixed: Rule = {
  code: 'nested-struct-fixed',
  summary: 'A struct inside another has a fixed size and is written before it, which also rules cycles out.',
  check({ model }, report) {
    for (const file of layoutsFiles(model)) {
      for (const [index, struct] of file.structs.entries()) {
        for (const field of struct.fields) {
          if (field.type.kind !== 'struct') continue;
          const inner = findStruct(model, field.type)!;
          if (inner.size === null) report(field, 'type', `'${inner.name}' has no fixed size`);
          else if (field.type.file === file.path && file.structs.indexOf(inner) >= index) {
            report(field, 'type', `'${inner.name}' must stand before '${struct.name}'`);
          }
        }
      }
    }
  },
};
