import type { Rule } from './rule.js';
import { compareRevisions, itemsOf } from './walk.js';

export const sinceNotAfterRevision: Rule = {
  code: 'since-not-after-revision',
  summary: 'Nothing is newer than the revision that was read.',
  check({ model }, report) {
    for (const file of model.files) {
      const late = (revision: string): boolean => compareRevisions(revision, file.source.revision) > 0;
      for (const item of itemsOf(file)) {
        if (item.since !== null && late(item.since)) {
          report(item, 'since', `${item.since} is later than the source's revision ${file.source.revision}`);
        }
        for (const { from, in: revision } of item.renamed) {
          if (!late(revision)) continue;
          report(
            item,
            'renamed',
            `${from} was renamed later than the source's revision ${file.source.revision}`,
          );
        }
      }
    }
  },
};
