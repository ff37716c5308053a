import { accessUnit } from '../../model/access-unit.js';
import type { Field, Struct } from '../../model/types.js';
import { camelCase, pascalCase } from '../../names.js';
import { elementSize, type Lookup } from '../lookup.js';
import { accessorsOf } from './accessors.js';
import { comment, describe } from './documentation.js';
import { constObject, type Entry, objectLiteral } from './literal.js';
import type { ModuleBuilder } from './module.js';
import { linear } from './record-size.js';
import { type View, VIEWS } from './views.js';

/**
 * Static accessors of a struct for hot code. An accessor is one expression over a typed array and an index in the
 * array's units, small enough (27 bytes of bytecode) that V8 inlines it even in a big function. Nothing is checked: the
 * caller has made sure that the struct lies inside the array.
 */
export function emitOffsets(module: ModuleBuilder, struct: Struct, lookup: Lookup): void {
  const size =
    struct.sizeOf === null
      ? String(struct.size)
      : `(${camelCase(struct.sizeOf.param)}: number) => ${linear(struct.sizeOf)}`;
  const doc = struct.size === null ? 'Bytes, by the parameter.' : 'Bytes.';
  module.add(
    constObject({
      name: pascalCase(struct.name),
      doc: describe(struct, offsetsNote(struct, lookup)),
      suffix: ' as const',
      entries: [{ key: 'size', doc, value: size }, ...offsetsEntries(struct, lookup)],
    }),
  );
}

/** Alignment, offsets and accessors; a codec of the same struct (form `both`) carries them too. */
export function offsetsEntries(struct: Struct, lookup: Lookup): Entry[] {
  const view = VIEWS[accessUnit(struct)];
  return [
    { key: 'align', doc: 'Alignment in bytes.', value: String(struct.align) },
    { key: 'offset', doc: 'Offsets in bytes.', value: offsets(struct) },
    ...fields(struct).flatMap((field) => accessorsOf(lookup, struct, field, view)),
  ];
}

/** How the accessors are used, and the layout. */
export function offsetsNote(struct: Struct, lookup: Lookup): string {
  return `${usage(struct, VIEWS[accessUnit(struct)])}\n${picture(lookup, struct)}`;
}

function fields(struct: Struct): readonly Field[] {
  return struct.fields.filter((field) => !field.ignored);
}

function offsets(struct: Struct): Entry['value'] {
  return objectLiteral(
    fields(struct).map((field) => ({ key: camelCase(field.name), value: offset(struct, field) })),
  );
}

function offset(struct: Struct, field: Field): string {
  if (field.offset !== null) return String(field.offset);
  if (field.offsetOf === null) throw new Error(`${struct.name}.${field.name}: accessors need an offset`);
  return `(${camelCase(field.offsetOf.param)}: number) => ${linear(field.offsetOf)}`;
}

function usage(struct: Struct, view: View): string {
  const size = struct.size === null ? '' : ` One is ${struct.size / view.unit} of them.`;
  return `Accessors take a \`${view.type}\` and the struct's index in units of ${view.unit} byte${view.unit === 1 ? '' : 's'}.${size}`;
}

/** The layout, a field a sentence: `0 addr u64, 8 len u32, …`. */
function picture(lookup: Lookup, struct: Struct): string {
  const parts = struct.fields.map((field) => {
    const at = field.offset ?? (field.offsetOf === null ? '?' : linear(field.offsetOf));
    const type =
      field.type.kind === 'struct'
        ? pascalCase(field.type.name)
        : field.type.kind === 'bytes'
          ? 'bytes'
          : field.type.type;
    const size = elementSize(lookup, field.type);
    const times =
      field.count === null
        ? ''
        : field.count.kind === 'value'
          ? `[${field.count.value}]`
          : field.count.kind === 'param'
            ? `[${camelCase(field.count.param)}]`
            : '[]';
    return `${at} ${camelCase(field.name)} ${type}${size === null ? '' : times}`;
  });
  return comment([`Layout: ${parts.join(', ')}.`]);
}
