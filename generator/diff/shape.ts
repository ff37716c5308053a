import { type Lookup, lookupOf } from '../emit/lookup.js';
import type { Field, LayoutRef, Model, Struct } from '../model/types.js';

/** Tells whether a layout of one model is on the wire what a layout of another is. */
export type SameLayout = (before: LayoutRef | null, after: LayoutRef | null) => boolean;

/** A structure of one name is taken as the same: what changed inside it is reported of itself, once. */
export function layoutComparison(before: Model, after: Model): SameLayout {
  const lookups = { before: lookupOf(before), after: lookupOf(after) };
  const shape = (lookup: Lookup, layout: LayoutRef) =>
    layout.kind === 'scalar' ? layout.type : structShape(lookup, lookup.struct(layout));
  return (old, now) => {
    if (old === null || now === null) return old === now;
    if (old.kind === 'struct' && now.kind === 'struct' && old.file === now.file && old.name === now.name)
      return true;
    return shape(lookups.before, old) === shape(lookups.after, now);
  };
}

/**
 * Shape of a structure: every field in turn, without names. The order of bytes is one, since native is little-endian on
 * every host that is supported.
 */
export function structShape(lookup: Lookup, struct: Struct): string {
  return `(${struct.fields.map((field) => fieldShape(lookup, struct, field)).join(',')})`;
}

function fieldShape(lookup: Lookup, struct: Struct, field: Field): string {
  const type =
    field.type.kind === 'struct'
      ? structShape(lookup, lookup.struct(field.type))
      : field.type.kind === 'bytes'
        ? 'bytes'
        : field.type.type;
  const constant = field.mustBe === null ? '' : `=${field.mustBe}`;
  return `${field.ignored ? 'ignored ' : ''}${type}${count(struct, field)}${constant}`;
}

/** A counting field is named by its place, since its name is not on the wire. */
function count(struct: Struct, field: Field): string {
  switch (field.count?.kind) {
    case undefined:
      return '';
    case 'value':
      return `[${(field.count as { value: number }).value}]`;
    case 'param':
      return '[param]';
    case 'rest':
      return '[rest]';
    case 'field': {
      const { field: counter } = field.count as { field: string };
      return `[field ${struct.fields.findIndex((each) => each.name === counter)}]`;
    }
  }
}
