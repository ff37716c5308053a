import type { Item, SchemaFile } from '../../model/types.js';
import { code } from './table.js';

/** First lines of a page: what the file describes and where that stands. */
export function introduction(file: SchemaFile): string {
  const { source } = file;
  const where = source.file === null ? '' : `, ${code(source.file)}`;
  return `# ${file.path}\n\n${file.doc}\n\nSource: ${source.title}${where}, revision ${source.revision}.\n`;
}

/** Where an item comes from, in a few words. */
export function provenance(item: Item): string {
  return [
    item.ref === null ? null : `Section: ${item.ref}.`,
    item.since === null ? null : `Since ${item.since}.`,
    ...item.renamed.map((renamed) => `Called ${code(renamed.from)} until ${renamed.in}.`),
    item.deprecated === null
      ? null
      : `Deprecated since ${item.deprecated.since}; use ${code(item.deprecated.use)}.`,
  ]
    .filter((part) => part !== null)
    .join(' ');
}

/** The departures of a list of items from the text, each with its reason; empty when there is none. */
export function errata(items: readonly Item[]): string {
  const departures = items.filter((item) => item.erratum !== null);
  if (departures.length === 0) return '';
  const lines = departures.map((item) => `- ${code(item.specName)}: ${item.erratum}\n`);
  return `\n## Errata\n\n${lines.join('')}`;
}

/** A cell for an item's text: what it is and, in short, since when. */
export function meaning(item: Item): string {
  const former = item.renamed.map((renamed) => `Called ${code(renamed.from)} until ${renamed.in}.`);
  const deprecated = item.deprecated === null ? [] : [`Deprecated; use ${code(item.deprecated.use)}.`];
  return [item.doc, ...former, ...deprecated].join(' ').trim();
}
