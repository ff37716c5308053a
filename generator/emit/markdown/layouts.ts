import type { Enumeration, Field, Item, LayoutRef, LayoutsFile, Struct } from '../../model/types.js';
import { errata, introduction, meaning, provenance } from './provenance.js';
import { code, table } from './table.js';

/** The page of a layouts file: constants, enumerations, queues, then each structure with its fields. */
export function layoutsPage(file: LayoutsFile, link: (layout: LayoutRef) => string): string {
  const parts = [introduction(file)];
  if (file.queues.length > 0) {
    const rows = file.queues.map((queue) => [
      queue.repeats ? `${queue.index} and more` : String(queue.index),
      code(queue.specName),
      meaning(queue),
    ]);
    parts.push(`## Queues\n\n${table(['Index', 'Queue', 'Meaning'], rows)}`);
  }
  if (file.constants.length > 0) {
    const rows = file.constants.map((each) => [code(each.specName), String(each.value), meaning(each)]);
    parts.push(`## Constants\n\n${table(['Name', 'Value', 'Meaning'], rows)}`);
  }
  for (const enumeration of file.enums) parts.push(enumerationSection(enumeration));
  for (const struct of file.structs) parts.push(structSection(struct, link));
  const items: Item[] = [
    ...file.queues,
    ...file.constants,
    ...file.enums.flatMap((each) => [each, ...each.members]),
    ...file.structs.flatMap((each) => [each, ...each.fields]),
  ];
  return parts.join('\n').concat(errata(items));
}

function enumerationSection(enumeration: Enumeration): string {
  const isBits = enumeration.form === 'bits';
  const rows = enumeration.members.map((member) => [
    String(member.value),
    code(member.specName),
    meaning(member),
  ]);
  const kind = `${isBits ? 'Bits' : 'Values'} of a ${code(enumeration.type)}, ${enumeration.open ? 'open' : 'closed'}.`;
  return section(enumeration, kind, table([isBits ? 'Bit' : 'Value', 'Name', 'Meaning'], rows));
}

function structSection(struct: Struct, link: (layout: LayoutRef) => string): string {
  const size = struct.size === null ? sizeRange(struct) : `${struct.size} bytes`;
  const proof =
    struct.proof === null
      ? ''
      : ` Proven by ${code(`struct ${struct.proof.struct}`)} of ${code(struct.proof.header)}.`;
  const rows = struct.fields.map((field) => [
    place(field),
    code(field.name),
    type(field, link),
    fieldMeaning(field),
  ]);
  const kind = `${size}, aligned to ${struct.align}, ${struct.byteOrder}-endian, written by ${writers(struct)}.${proof}`;
  return section(
    struct,
    kind.replace('native-endian', 'in the byte order of the host'),
    table(['Offset', 'Field', 'Type', 'Meaning'], rows),
  );
}

function section(item: Item, kind: string, content: string): string {
  const from = provenance(item);
  return `## ${item.name}\n\n${item.doc} ${kind}${from === '' ? '' : ` ${from}`}\n\n${content}`;
}

function sizeRange(struct: Struct): string {
  if (struct.sizeOf !== null)
    return `${struct.sizeOf.base} + ${struct.sizeOf.step} × ${struct.sizeOf.param} bytes`;
  return struct.maxSize === null
    ? `${struct.minSize} bytes and more`
    : `${struct.minSize} to ${struct.maxSize} bytes`;
}

function writers(struct: Struct): string {
  return struct.writtenBy === 'both' ? 'both sides' : `the ${struct.writtenBy}`;
}

function place(field: Field): string {
  if (field.offset !== null) return String(field.offset);
  return field.offsetOf === null
    ? ''
    : `${field.offsetOf.base} + ${field.offsetOf.step} × ${field.offsetOf.param}`;
}

function type(field: Field, link: (layout: LayoutRef) => string): string {
  const base = field.type.kind === 'bytes' ? 'bytes' : link(field.type);
  const { count } = field;
  if (count === null) return base;
  switch (count.kind) {
    case 'value':
      return `${base} × ${count.value}`;
    case 'field':
      return `${base} × ${code(count.field)}, at most ${count.max}`;
    case 'param':
      return `${base} × ${count.param}`;
    case 'rest':
      return `${base}, the rest, at most ${count.max}`;
  }
}

function fieldMeaning(field: Field): string {
  const parts = [meaning(field)];
  if (field.ignored) parts.push('Padding or reserved: written as zero, not looked at.');
  if (field.mustBe !== null) parts.push(`Must be ${field.mustBe}.`);
  if (field.counts !== null) parts.push(`Counts ${code(field.counts)}.`);
  if (field.enumeration !== null) parts.push(`One of ${code(field.enumeration.name)}.`);
  for (const part of field.parts)
    parts.push(`Bits ${part.lowBit}-${part.lowBit + part.width - 1} ${code(part.name)}: ${part.doc}`);
  if (field.requires.length > 0)
    parts.push(`With ${field.requires.map((ref) => code(ref.name)).join(' and ')}.`);
  if (field.requiresAny.length > 0)
    parts.push(`With ${field.requiresAny.map((ref) => code(ref.name)).join(' or ')}.`);
  return parts.filter((part) => part !== '').join(' ');
}
