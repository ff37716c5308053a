import type { Rule } from './rule.js';
import { compareRevisions, itemsOf } from './walk.js';

export const deprecatedAfterSince: Rule = {
  code: 'deprecated-after-since',
  summary: 'What is deprecated was there before, and what is to be used instead is in the same file.',
  check({ model }, report) {
    for (const file of model.files) {
      const items = itemsOf(file);
      for (const item of items) {
        if (item.deprecated === null) continue;
        const { since, use } = item.deprecated;
        if (item.since === null || compareRevisions(since, item.since) <= 0) {
          report(
            item,
            'deprecated',
            `'${item.name}' is deprecated since ${since}, but is there since ${item.since ?? 'no known revision'}`,
          );
        }
        if (use === item.name || !items.some((other) => other.name === use)) {
          report(item, 'deprecated', `there is no '${use}' to use instead`);
        }
      }
    }
  },
};
