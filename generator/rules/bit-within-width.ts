import { scalarSizes } from '../model/references.js';
import type { Rule } from './rule.js';
import { featuresFiles, fieldWidth, layoutsFiles, structsOf } from './walk.js';

export const bitWithinWidth: Rule = {
  code: 'bit-within-width',
  summary: 'Bits, values and ranges of bits fit the integer they are in.',
  check({ model }, report) {
    for (const file of featuresFiles(model)) {
      for (const entry of [...file.bits, ...file.reserved]) {
        if (entry.bit >= file.width)
          report(entry, 'bit', `bit ${entry.bit} is outside the ${file.width} bits of the word`);
      }
    }
    for (const enumeration of layoutsFiles(model).flatMap((file) => file.enums)) {
      const width = scalarSizes[enumeration.type] * 8;
      for (const member of enumeration.members) {
        const [key, fits] =
          enumeration.form === 'bits' ? ['bit', member.value < width] : ['value', member.value < 2 ** width];
        if (!fits) report(member, key, `${key} ${member.value} does not fit ${enumeration.type}`);
      }
    }
    for (const field of structsOf(model).flatMap((struct) => struct.fields)) {
      const width = fieldWidth(field);
      if (width === null) continue;
      if (field.mustBe !== null && field.mustBe >= 2 ** width) {
        report(field, 'must-be', `${field.mustBe} does not fit ${width} bits`);
      }
      for (const part of field.parts) {
        if (part.lowBit + part.width > width)
          report(part, 'width', `'${part.name}' does not fit ${width} bits`);
      }
    }
  },
};
