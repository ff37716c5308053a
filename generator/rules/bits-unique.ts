import type { Rule } from './rule.js';
import { featuresFiles, layoutsFiles } from './walk.js';

export const bitsUnique: Rule = {
  code: 'bits-unique',
  summary: 'Each bit of a word and each member of an enum has a number of its own.',
  check({ model }, report) {
    for (const file of featuresFiles(model)) {
      const seen = new Map<number, string>();
      for (const entry of [...file.bits, ...file.reserved]) {
        const other = seen.get(entry.bit);
        if (other !== undefined) report(entry, 'bit', `bit ${entry.bit} is already ${other}`);
        else seen.set(entry.bit, 'name' in entry ? `'${entry.name}'` : 'reserved');
      }
    }
    for (const enumeration of layoutsFiles(model).flatMap((file) => file.enums)) {
      const seen = new Map<number, string>();
      const key = enumeration.form === 'bits' ? 'bit' : 'value';
      for (const member of enumeration.members) {
        const other = seen.get(member.value);
        if (other !== undefined) report(member, key, `${key} ${member.value} is already '${other}'`);
        else seen.set(member.value, member.name);
      }
    }
  },
};
