import type { Item } from '../../model/types.js';
import { snakeCase } from '../../names.js';
import { fold } from '../fold.js';

const WIDTH = 100;

/** An item's comment: what it is, where it stands, where we depart from the text. */
export function describe(item: Item, ...more: readonly (string | null)[]): string {
  const place = [
    item.specName === snakeCase(item.name) || item.specName === item.name ? null : `\`${item.specName}\``,
    item.ref === null ? null : `§ ${item.ref}`,
    item.since === null ? null : `since ${item.since}`,
    ...item.renamed.map((renamed) => `until ${renamed.in} \`${renamed.from}\``),
    item.deprecated === null ? null : `deprecated since ${item.deprecated.since}, see ${item.deprecated.use}`,
  ].filter((part) => part !== null);
  const parts = [
    item.doc,
    ...more,
    place.length === 0 ? null : `${place.join('; ')}.`,
    item.erratum === null ? null : `Erratum: ${item.erratum}`,
  ].filter((part) => part !== null && part !== '');
  const line = parts.join(' ');
  return line.length <= WIDTH && !line.includes('\n') ? comment([line]) : comment(parts);
}

/** Paragraphs folded to lines. */
export function comment(paragraphs: readonly (string | null)[]): string {
  return paragraphs
    .filter((paragraph) => paragraph !== null && paragraph !== '')
    .flatMap((paragraph) => paragraph!.split('\n'))
    .map((paragraph) => fold(paragraph, WIDTH))
    .join('\n');
}

/** Writes the comment where structures cannot: inside object literals and above statements written by hand. */
export function docComment(text: string): string {
  const lines = text.split('\n');
  if (lines.length === 1) return `/** ${text} */`;
  return ['/**', ...lines.map((line) => ` * ${line}`), ' */'].join('\n');
}
