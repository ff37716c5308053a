import type { Linear } from '../model/linear.js';
import type { Field, Model, Struct } from '../model/types.js';
import { elementSize } from './walk.js';

export interface ComputedLayout {
  /** Where each field starts; a field behind one whose size cannot be told is missing. */
  readonly offsets: ReadonlyMap<Field, Linear>;
  /** null if it cannot be told. */
  readonly size: Linear | null;
}

/** Adds up the sizes of the fields, without looking at what the struct states. */
export function computeLayout(model: Model, struct: Struct): ComputedLayout {
  const offsets = new Map<Field, Linear>();
  let end: Linear = { base: 0, step: 0, name: null };
  for (const field of struct.fields) {
    offsets.set(field, end);
    const unit = elementSize(model, field.type);
    if (unit === null) return { offsets, size: null };
    const { count } = field;
    if (count === null || count.kind === 'value') {
      end = { ...end, base: end.base + unit * (count?.value ?? 1) };
    } else if (end.name !== null) {
      return { offsets, size: null };
    } else {
      const name = count.kind === 'field' ? count.field : count.kind === 'param' ? count.param : 'rest';
      end = { base: end.base, step: unit, name };
    }
  }
  return { offsets, size: end };
}
