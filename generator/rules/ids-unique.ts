import type { Rule } from './rule.js';
import { messagesFiles } from './walk.js';

export const idsUnique: Rule = {
  code: 'ids-unique',
  summary: 'Each id of a direction stands for one request or is reserved once.',
  check({ model }, report) {
    for (const file of messagesFiles(model)) {
      const seen = new Map<number, string>();
      for (const entry of [...file.requests, ...file.reserved]) {
        const name = 'name' in entry ? `'${entry.name}'` : 'reserved';
        const other = seen.get(entry.id);
        if (other !== undefined) report(entry, 'id', `id ${entry.id} is already ${other}`);
        else seen.set(entry.id, name);
      }
    }
  },
};
