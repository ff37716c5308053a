import { lookupOf } from '../emit/lookup.js';
import type { Model } from '../model/types.js';
import { type Change, Changes, pair } from './change.js';
import { diffFeatures } from './features.js';
import { diffLayouts } from './layouts.js';
import { diffMessages } from './messages.js';
import { layoutComparison } from './shape.js';

/** What changed on the wire from one model to another; texts and provenance do not count. */
export function diffModels(before: Model, after: Model): Change[] {
  const sameLayout = layoutComparison(before, after);
  const lookups = { before: lookupOf(before), after: lookupOf(after) };
  const files = pair(before.files, after.files, (file) => file.path);
  const list: Change[] = [];
  for (const file of files.removed) {
    list.push({ breaking: true, place: file.path, message: 'the file was removed' });
  }
  for (const file of files.added) {
    list.push({ breaking: false, place: file.path, message: 'the file is new' });
  }
  for (const [old, now] of files.both) {
    const changes = new Changes(now.path);
    if (old.kind === 'messages' && now.kind === 'messages') diffMessages(old, now, sameLayout, changes);
    else if (old.kind === 'features' && now.kind === 'features') diffFeatures(old, now, changes);
    else if (old.kind === 'layouts' && now.kind === 'layouts')
      diffLayouts(old, now, lookups, sameLayout, changes);
    else changes.breaking(null, `the kind was ${old.kind}, is ${now.kind}`);
    list.push(...changes.list);
  }
  return list;
}
