import type { Model } from '../model/types.js';
import { macroName } from '../names.js';
import type { Rule } from './rule.js';

export const specNamesAgree: Rule = {
  code: 'spec-names-agree',
  summary: 'One name of the specification has one number, wherever it is used.',
  check({ model }, report) {
    const seen = new Map<string, string>();
    for (const { item, specName, number } of numbered(model)) {
      // As C spells it, which is how the header has it.
      const macro = macroName(specName);
      const other = seen.get(macro);
      if (other !== undefined && other !== number)
        report(item, null, `${specName} is ${number} here and ${other} elsewhere`);
      seen.set(macro, other ?? number);
    }
  },
};

function* numbered(model: Model): Generator<{ item: object; specName: string; number: string }> {
  for (const file of model.files) {
    if (file.kind === 'messages') {
      for (const item of file.requests) yield { item, specName: item.specName, number: `id ${item.id}` };
    } else if (file.kind === 'features') {
      for (const item of file.bits) yield { item, specName: item.specName, number: `bit ${item.bit}` };
    } else {
      for (const item of file.constants)
        yield { item, specName: item.specName, number: `value ${item.value}` };
      for (const { form, members } of file.enums) {
        const word = form === 'bits' ? 'bit' : 'value';
        for (const item of members) yield { item, specName: item.specName, number: `${word} ${item.value}` };
      }
    }
  }
}
