import type { Field, Model, ScalarType, Struct } from '../../model/types.js';
import { memberName, snakeCase } from '../../names.js';
import { elementSize, type Lookup } from '../lookup.js';
import { fold } from '../fold.js';
import { PREFIX } from './constants.js';

const C_TYPE: Readonly<Record<ScalarType, string>> = {
  u8: 'uint8_t',
  u16: 'uint16_t',
  u32: 'uint32_t',
  u64: 'uint64_t',
  i8: 'int8_t',
  i16: 'int16_t',
  i32: 'int32_t',
  i64: 'int64_t',
};

/** `vu_virtq_desc`. */
export function mirrorName(struct: { readonly name: string }): string {
  return PREFIX.toLowerCase() + snakeCase(struct.name);
}

/** Structs of the model, every one after those that it holds. */
export function structsInOrder(model: Model, lookup: Lookup): Struct[] {
  const ordered = new Set<Struct>();
  const add = (struct: Struct): void => {
    for (const { type } of struct.fields) if (type.kind === 'struct') add(lookup.struct(type));
    ordered.add(struct);
  };
  for (const file of model.files) if (file.kind === 'layouts') file.structs.forEach(add);
  return [...ordered];
}

/**
 * A packed C struct with the same fields, and assertions that its size and offsets are what the schema states: the
 * stated numbers are thereby the sums of the field sizes, with all padding written out. It ends before the first field
 * whose size varies.
 */
export function mirror(struct: Struct, lookup: Lookup): string {
  const fixed = fixedFields(struct);
  const name = mirrorName(struct);
  const more = fixed.length < struct.fields.length ? ` What follows varies in size: ${rest(struct)}.` : '';
  const lines = [
    `/* ${fold(struct.doc + more, 108).replaceAll('\n', '\n * ')} */`,
    `struct ${name} {`,
    ...fixed.map((field) => `  ${declaration(field, lookup)};`),
    '} __attribute__((packed));',
    `static_assert(sizeof(struct ${name}) == ${fixedSize(struct)}, "size of ${struct.name}");`,
    ...fixed.map(
      (field) =>
        `static_assert(offsetof(struct ${name}, ${memberName(field.name)}) == ${field.offset}, "${struct.name}.${field.name}");`,
    ),
  ];
  return `${lines.join('\n')}\n`;
}

/** The leading fields that are the same in every instance. */
export function fixedFields(struct: Struct): readonly Field[] {
  const end = struct.fields.findIndex((field) => field.offset === null || field.size === null);
  return end === -1 ? struct.fields : struct.fields.slice(0, end);
}

/** Bytes of the struct when it is fixed, else of its leading fields. */
export function fixedSize(struct: Struct): number {
  if (struct.size !== null) return struct.size;
  const last = fixedFields(struct).at(-1);
  return last === undefined ? 0 : last.offset! + last.size!;
}

function declaration(field: Field, lookup: Lookup): string {
  const { type } = field;
  const cType =
    type.kind === 'struct'
      ? `struct ${mirrorName(type)}`
      : type.kind === 'bytes'
        ? C_TYPE.u8
        : C_TYPE[type.type];
  const times = field.size! / elementSize(lookup, type)!;
  return `${cType} ${memberName(field.name)}${field.count === null && type.kind !== 'bytes' ? '' : `[${times}]`}`;
}

function rest(struct: Struct): string {
  return struct.fields
    .slice(fixedFields(struct).length)
    .map((field) => memberName(field.name))
    .join(', ');
}
