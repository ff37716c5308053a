import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { elementSize, type Lookup, lookupOf, scalarSize } from '../../../generator/emit/lookup.js';
import type { Field, Model, Struct } from '../../../generator/model/types.js';
import { camelCase } from '../../../generator/names.js';
import { repositoryRoot } from '../../support/repository.js';

/** A number in a payload. Offset and size in bytes. */
export interface PayloadField {
  readonly offset: number;
  readonly size: number;
}

/** Elements of a list that are told apart; the others are like them. */
const LIST_ELEMENTS = 3;

export interface PayloadFields {
  readonly lookup: Lookup;
  /** The payload's struct by request name in camelCase; absent for requests without one. */
  readonly structs: ReadonlyMap<string, Struct>;
  /** Where the numbers of each request's payload lie, by request name in camelCase. */
  readonly fields: ReadonlyMap<string, readonly PayloadField[]>;
}

/** What the neutral model knows of the payloads of a file of requests, e.g. `vhost-user/frontend-requests`. */
export function payloadFields(path: string): PayloadFields {
  const text = readFileSync(join(repositoryRoot(), 'generated/model.json'), 'utf8');
  const model = JSON.parse(text) as Model;
  const lookup = lookupOf(model);
  const file = model.files.find((each) => each.path === path);
  if (file?.kind !== 'messages') throw new Error(`generated/model.json has no requests ${path}`);
  const structs = new Map<string, Struct>();
  const fields = new Map<string, readonly PayloadField[]>();
  for (const { name, payload } of file.requests) {
    if (payload === null) continue;
    if (payload.kind === 'struct') {
      const struct = lookup.struct(payload);
      structs.set(camelCase(name), struct);
      fields.set(camelCase(name), flattened(lookup, struct, 0));
    } else if (payload.kind === 'scalar') {
      fields.set(camelCase(name), [{ offset: 0, size: scalarSize(payload.type) }]);
    }
  }
  return { lookup, structs, fields };
}

function flattened(lookup: Lookup, struct: Struct, base: number): PayloadField[] {
  return struct.fields.flatMap((field) => elementsOf(lookup, field, base));
}

function elementsOf(lookup: Lookup, field: Field, base: number): PayloadField[] {
  if (field.offset === null) return [];
  const size = elementSize(lookup, field.type);
  if (size === null) return [];
  const times = field.count === null ? 1 : LIST_ELEMENTS;
  return Array.from({ length: times }, (_, i) => base + field.offset! + i * size).flatMap((offset) =>
    field.type.kind === 'struct' ? flattened(lookup, lookup.struct(field.type), offset) : [{ offset, size }],
  );
}
