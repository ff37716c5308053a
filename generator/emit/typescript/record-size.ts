import type { Field, Struct } from '../../model/types.js';
import { camelCase } from '../../names.js';
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
function isFixed(lookup: Lookup, field: Field): boolean {
  return elementSize(lookup, field.type) !== null && (field.count === null || field.count.kind === 'value');
}

function fixedSize(lookup: Lookup, field: Field): number {
  const times = field.count?.kind === 'value' ? field.count.value : 1;
  return elementSize(lookup, field.type)! * times;
}

/** An expression over `value` and the struct's parameters: the bytes that one value takes. */
export function sizeExpression({ lookup, struct }: RecordContext): string {
  const terms: string[] = [];
  const fixed = fixedPart(lookup, struct);
  if (fixed > 0) terms.push(String(fixed));
  for (const field of struct.fields) {
    if (isFixed(lookup, field)) continue;
    const element = elementSize(lookup, field.type);
    if (element === null)
      throw new Error(`${struct.name}.${field.name}: what a struct holds has a fixed size`);
    const count =
      field.count?.kind === 'param' ? camelCase(field.count.param) : `value.${camelCase(field.name)}.length`;
    terms.push(element === 1 ? count : `${element} * ${count}`);
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
