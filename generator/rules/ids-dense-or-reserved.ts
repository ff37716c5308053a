import type { Rule } from './rule.js';
import { messagesFiles } from './walk.js';

export const idsDenseOrReserved: Rule = {
  code: 'ids-dense-or-reserved',
  summary:
    'Every number below the highest id is a request or reserved, so that a forgotten request is noticed.',
  check({ model }, report) {
    for (const file of messagesFiles(model)) {
      const known = new Set([...file.requests, ...file.reserved].map((entry) => entry.id));
      let next = 0;
      for (const request of [...file.requests].sort((left, right) => left.id - right.id)) {
        const missing: number[] = [];
        for (; next < request.id; next++) if (!known.has(next)) missing.push(next);
        next = request.id + 1;
        if (missing.length > 0)
          report(request, 'id', `before id ${request.id}, ${missing.join(', ')} is nothing`);
      }
    }
  },
};
