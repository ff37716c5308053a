import type { Rule } from './rule.js';
import { messagesFiles } from './walk.js';

export const idsDenseOrReserved: Rule = {
  code: 'ids-dense-or-reserved',
  summary:
    'Every number below the highest id is a request or reserved, so that a forgotten request is noticed.',
  check({ model }, report) {
    for (const file of messagesFiles(model)) {
      const reserved = file.reserved.map((entry) => entry.id);
      let next = 0;
      for (const request of [...file.requests].sort((left, right) => left.id - right.id)) {
        const between = reserved.filter((id) => id >= next && id < request.id).sort((a, b) => a - b);
        // From one known id to the next, and never number by number: an id may be wrong by billions.
        const missing: string[] = [];
        for (const known of [...between, request.id]) {
          if (known > next) missing.push(known - next === 1 ? `${next}` : `${next} to ${known - 1}`);
          next = known + 1;
        }
        if (missing.length > 0)
          report(request, 'id', `before id ${request.id}, ${missing.join(', ')} is nothing`);
      }
    }
  },
};
