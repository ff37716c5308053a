import { type Lookup, lookupOf } from '../emit/lookup.js';
import type { Field, LayoutRef, Model, Struct } from '../model/types.js';

/** The bytes of a layout as a text: two layouts with one shape cannot be told apart on the wire. */
export function shapesOf(model: Model): (layout: LayoutRef) => string {
  const lookup = lookupOf(model);
  return (layout) => (layout.kind === 'scalar' ? layout.type : structShape(lookup, lookup.struct(layout)));
}

/** Shape of a structure: order of bytes and every field in turn, without names. */
export function structShape(lookup: Lookup, struct: Struct): string {
  return `${order(struct)}(${struct.fields.map((field) => fieldShape(lookup, struct, field)).join(',')})`;
}

/** Native order is little-endian on every host that is supported. */
export function order(struct: Struct): string {
  return struct.byteOrder === 'big' ? 'big' : 'little';
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
