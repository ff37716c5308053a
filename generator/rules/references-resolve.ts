import type { Rule } from './rule.js';

export const referencesResolve: Rule = {
  code: 'references-resolve',
  summary: 'Every name of a struct, an enum or a feature stands for one.',
  check({ unresolved }, report) {
    for (const { item, key, message } of unresolved) report(item, key, message);
  },
};
