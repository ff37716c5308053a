import type { Field, Struct } from '../../model/types.js';
import type { Lookup } from '../lookup.js';
import type { ModuleBuilder } from './module.js';

/** What the parts of a record's codec need to know. */
export interface RecordContext {
  readonly module: ModuleBuilder;
  readonly lookup: Lookup;
  readonly struct: Struct;
}

/** Fields that users see: no padding, no constants, no counts. */
export function valueFields(struct: Struct): readonly Field[] {
  return struct.fields.filter((field) => !field.ignored && field.mustBe === null && field.counts === null);
}

/** How the struct's own field is called in error messages: `memory-table.regions`, as the schema has it. */
export function fieldPath({ struct }: RecordContext, field: Field): string {
  return `${struct.name}.${field.name}`;
}
