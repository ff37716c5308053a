import type { Field, Struct } from '../../model/types.js';
import { camelCase, propertyAccess, pascalCase } from '../../names.js';
import { elementSize, type Lookup } from '../lookup.js';
import type { RecordContext } from './record-context.js';

/** Bytes of everything in the struct that does not vary. */
function fixedPart(lookup: Lookup, struct: Struct): number {
  return struct.fields.reduce(
    (sum, field) => sum + (isFixed(lookup, field) ? fixedSize(lookup, field) : 0),
    0,
  );
}

/** True when the field takes the same number of bytes in every value. */
export function isFixed(lookup: Lookup, field: Field): boolean {
  return elementSize(lookup, field.type) !== null && (field.count === null || field.count.kind === 'value');
}

function fixedSize(lookup: Lookup, field: Field): number {
  const times = field.count?.kind === 'value' ? field.count.value : 1;
  return elementSize(lookup, field.type)! * times;
}

/** An expression over `value` and the struct's parameters: the bytes that one value takes. */
export function sizeExpression({ module, lookup, struct }: RecordContext): string {
  const terms: string[] = [];
  const fixed = fixedPart(lookup, struct);
  if (fixed > 0) terms.push(String(fixed));
  for (const field of struct.fields) {
    if (isFixed(lookup, field)) continue;
    const value = `value${propertyAccess(field.name)}`;
    const element = elementSize(lookup, field.type);
    if (element === null) {
      if (field.type.kind !== 'struct')
        throw new Error(`${struct.name}.${field.name}: only a struct may vary in size`);
      const codec = module.schema(field.type.file, pascalCase(field.type.name));
      terms.push(
        field.count === null
          ? `${codec}.size(${value})`
          : `${value}.reduce((sum, each) => sum + ${codec}.size(each), 0)`,
      );
    } else {
      const count = field.count?.kind === 'param' ? camelCase(field.count.param) : `${value}.length`;
      terms.push(element === 1 ? count : `${element} * ${count}`);
    }
  }
  return terms.length === 0 ? '0' : terms.join(' + ');
}

export function minSize({ struct }: RecordContext): string {
  return struct.sizeOf === null ? String(struct.minSize) : linear(struct.sizeOf);
}

export function maxSize({ struct }: RecordContext): string {
  if (struct.sizeOf !== null) return linear(struct.sizeOf);
  if (struct.maxSize === null) throw new Error(`${struct.name}: nothing bounds its size`);
  return String(struct.maxSize);
}

/** `6 + 2 * queueSize`. */
export function linear({ base, step, param }: NonNullable<Struct['sizeOf']>): string {
  const term = step === 1 ? camelCase(param) : `${step} * ${camelCase(param)}`;
  return base === 0 ? term : `${base} + ${term}`;
}
