import type { NodePath } from '../load/schema-document.js';
import { parseLinear } from './linear.js';
import { isScalarType, scalarSizes } from './references.js';
import { prefixed, resolveFileBase, resolveItem, type ResolveContext } from './resolve-context.js';
import type { RawEnum, RawField, RawLayouts, RawStruct } from './raw.js';
import type { Enumeration, Field, FieldCount, FieldType, LayoutsFile, ScalarType, Struct } from './types.js';

export function resolveLayouts(raw: RawLayouts, context: ResolveContext): LayoutsFile {
  const structs: Struct[] = [];
  for (const [index, struct] of (raw.structs ?? []).entries()) {
    structs.push(resolveStruct(struct, raw, ['structs', index], context));
  }
  return context.mark(
    {
      ...resolveFileBase(raw, context.path),
      kind: 'layouts',
      byteOrder: raw['byte-order'],
      constants: (raw.constants ?? []).map((constant, index) =>
        context.mark({ ...resolveItem(constant, constant.name), value: constant.value }, [
          'constants',
          index,
        ]),
      ),
      enums: (raw.enums ?? []).map((enumeration, index) =>
        resolveEnum(enumeration, ['enums', index], context),
      ),
      queues: (raw.queues ?? []).map((queue, index) =>
        context.mark({ ...resolveItem(queue, queue.name), index: queue.index, repeats: queue.repeats }, [
          'queues',
          index,
        ]),
      ),
      structs,
    },
    [],
  );
}

function resolveEnum(raw: RawEnum, path: NodePath, context: ResolveContext): Enumeration {
  return context.mark(
    {
      ...resolveItem(raw, raw.name),
      form: raw.form,
      type: raw.type as ScalarType,
      open: raw.open,
      prefix: raw.prefix,
      members: raw.members.map((member, index) =>
        context.mark(
          { ...resolveItem(member, prefixed(raw.prefix, member.name)), value: (member.bit ?? member.value)! },
          [...path, 'members', index],
        ),
      ),
    },
    path,
  );
}

function resolveStruct(raw: RawStruct, file: RawLayouts, path: NodePath, context: ResolveContext): Struct {
  const size = parseLinear(raw.size);
  const params = (raw.params ?? []).map((param, index) =>
    context.mark({ name: param.name, type: param.type as ScalarType }, [...path, 'params', index]),
  );
  const isParam = params.some((param) => param.name === size.name);
  const fields = raw.fields.map((field, index) =>
    resolveField(field, raw, [...path, 'fields', index], context),
  );
  const last = fields.at(-1)?.count;
  const bound = last?.kind === 'field' || last?.kind === 'rest' ? last.max : null;
  const struct: Struct = context.mark(
    {
      ...resolveItem(raw, raw.name),
      form: raw.form,
      byteOrder: raw['byte-order'] ?? file['byte-order'],
      size: size.name === null ? size.base : null,
      minSize: size.base,
      maxSize: size.name === null ? size.base : bound === null ? null : size.base + size.step * bound,
      align: raw.align,
      params,
      sizeOf: isParam ? { base: size.base, step: size.step, param: size.name! } : null,
      writtenBy: raw['written-by'],
      fields,
      proof: raw.proof
        ? { header: raw.proof.header, struct: raw.proof.struct, size: raw.proof.size ?? size.base }
        : null,
    },
    path,
  );
  context.stated.set(struct, size);
  return struct;
}

function resolveField(raw: RawField, struct: RawStruct, path: NodePath, context: ResolveContext): Field {
  const offset = parseLinear(raw.offset);
  const type = resolveType(raw, path, context);
  const count = resolveCount(raw);
  const cName = raw['c-name'] ?? (raw['spec-name'] === undefined ? null : raw['spec-name']);
  const requires = [...path, 'requires'];
  const anyOf = raw.requires?.['any-of'];
  const field: Field = context.mark(
    {
      ...resolveItem(raw, raw.name.replaceAll('-', '_')),
      type,
      offset: offset.name === null ? offset.base : null,
      offsetOf: offset.name === null ? null : { base: offset.base, step: offset.step, param: offset.name },
      size: fixedSize(type, count, struct, context),
      count,
      mustBe: raw['must-be'] ?? null,
      ignored: raw.ignored ?? false,
      enumeration:
        raw.enum === undefined
          ? null
          : context.resolved(
              context.references.enumeration(raw.enum, context.path),
              [...path, 'enum'],
              `there is no enum '${raw.enum}'`,
            ),
      as: raw.as ?? null,
      access: raw.access ?? 'plain',
      counts: struct.fields.find((other) => countingField(other) === raw.name)?.name ?? null,
      requires: [
        ...context.features('virtio', raw.requires?.virtio, requires),
        ...context.features('device', raw.requires?.device, requires),
      ],
      requiresAny: [
        ...context.features('virtio', anyOf?.virtio, [...requires, 'any-of']),
        ...context.features('device', anyOf?.device, [...requires, 'any-of']),
      ],
      cName,
      proven: struct.proof !== undefined && raw.proven === undefined && (!raw.ignored || cName !== null),
      parts: (raw.parts ?? []).map((part, index) =>
        context.mark({ name: part.name, doc: part.doc, lowBit: part['low-bit'], width: part.width }, [
          ...path,
          'parts',
          index,
        ]),
      ),
    },
    path,
  );
  context.stated.set(field, offset);
  return field;
}

function resolveType(raw: RawField, path: NodePath, context: ResolveContext): FieldType {
  if (raw.type === 'bytes') return { kind: 'bytes' };
  if (isScalarType(raw.type)) return { kind: 'scalar', type: raw.type };
  const layout = context.references.layout(raw.type, context.path);
  const message = `'${raw.type}' is neither a scalar nor bytes nor a struct`;
  if (context.resolved(layout, [...path, 'type'], message)?.kind === 'struct') return layout as FieldType;
  return { kind: 'bytes' };
}

/** Infinity stands for a bound that is missing, which the rule count-has-max reports. */
function resolveCount(raw: RawField): FieldCount | null {
  const { count, length } = raw;
  if (typeof count === 'number') return { kind: 'value', value: count };
  if (typeof length === 'number') return { kind: 'value', value: length };
  const field = count?.field ?? length?.field;
  const max = count?.max ?? length?.max ?? Infinity;
  if (field !== undefined) return { kind: 'field', field, max };
  if (count?.param !== undefined) return { kind: 'param', param: count.param };
  return length?.rest ? { kind: 'rest', max } : null;
}

function countingField(raw: RawField): string | null {
  if (typeof raw.count === 'object') return raw.count.field ?? null;
  return typeof raw.length === 'object' ? (raw.length.field ?? null) : null;
}

function fixedSize(
  type: FieldType,
  count: FieldCount | null,
  struct: RawStruct,
  context: ResolveContext,
): number | null {
  if (count !== null && count.kind !== 'value') return null;
  const elements = count?.value ?? 1;
  if (type.kind === 'scalar') return scalarSizes[type.type] * elements;
  if (type.kind === 'bytes') return elements;
  const inner = context.references.struct(type);
  if (inner === null || inner === struct || typeof inner.size !== 'number') return null;
  return inner.size * elements;
}
