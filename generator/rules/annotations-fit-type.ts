import { scalarSizes } from '../model/references.js';
import type { Rule } from './rule.js';
import { fieldWidth, layoutsFiles, structsOf } from './walk.js';

export const annotationsFitType: Rule = {
  code: 'annotations-fit-type',
  summary:
    'An enum is as wide as its field, guest-address is for u64, parts and must-be are for single numbers.',
  check({ model }, report) {
    for (const field of structsOf(model).flatMap((struct) => struct.fields)) {
      const width = fieldWidth(field);
      if (field.enumeration !== null) {
        const { file: path, name } = field.enumeration;
        const file = layoutsFiles(model).find((candidate) => candidate.path === path);
        const enumeration = file!.enums.find((candidate) => candidate.name === name)!;
        if (scalarSizes[enumeration.type] * 8 !== width) {
          report(field, 'enum', `'${name}' names a ${enumeration.type}, '${field.name}' is something else`);
        }
      }
      if (field.as !== null && width !== 64) report(field, 'as', `'${field.name}' is no u64`);
      if (field.parts.length > 0 && (width === null || field.count !== null)) {
        report(field, 'parts', `'${field.name}' is no single number`);
      }
      if (field.mustBe !== null && (width === null || field.count !== null)) {
        report(field, 'must-be', `'${field.name}' is no single number`);
      }
    }
  },
};
