import type { CodeBlockWriter } from 'ts-morph';
import type { Field, FieldCount } from '../../model/types.js';
import { camelCase, pascalCase } from '../../names.js';
import { isWide } from '../lookup.js';
import { fail, ignoredSize } from './record-decode.js';
import { fieldPath, type RecordContext } from './record-context.js';

/** The statements of `encode(writer, value)`: the mirror of decode; counts and constants are filled in. */
export function encodeBody(context: RecordContext, writer: CodeBlockWriter): void {
  // Lengths are checked before the first byte is written, since counts come before what they count.
  for (const field of context.struct.fields) checkLength(context, writer, field);
  for (const field of context.struct.fields) encodeField(context, writer, field);
}

function checkLength(context: RecordContext, writer: CodeBlockWriter, field: Field): void {
  if (field.ignored || field.mustBe !== null || field.count === null) return;
  const length = `value.${camelCase(field.name)}.length`;
  const { count } = field;
  if (count.kind === 'value' || count.kind === 'param') {
    const expected = count.kind === 'value' ? String(count.value) : camelCase(count.param);
    const shown = count.kind === 'value' ? expected : `\${${expected}}`;
    const message = `${fieldPath(context, field)}: has \${${length}} elements, must have ${shown}`;
    fail(context, writer, `${length} !== ${expected}`, 'ERR_WIRE_VALUE', message);
  } else {
    const message = `${fieldPath(context, field)}: \${${length}} is above the limit of ${count.max}`;
    fail(context, writer, `${length} > ${count.max}`, 'ERR_WIRE_LIMIT', message);
  }
}

function encodeField(context: RecordContext, writer: CodeBlockWriter, field: Field): void {
  const path = `'${fieldPath(context, field)}'`;
  if (field.ignored) {
    writer.writeLine(`writer.zeros(${ignoredSize(context, field)}, ${path});`);
    return;
  }
  const value = `value.${camelCase(field.name)}`;
  if (field.type.kind === 'bytes') {
    writer.writeLine(`writer.bytes(${value}, ${path});`);
  } else if (field.counts !== null) {
    const length = `value.${camelCase(field.counts)}.length`;
    writer.writeLine(writeOne(context, field, isWideScalar(field) ? `BigInt(${length})` : length));
  } else if (field.mustBe !== null) {
    const literal = `${field.mustBe}${isWideScalar(field) ? 'n' : ''}`;
    repeat(writer, field.count, literal, (each) => writeOne(context, field, each));
  } else if (field.count !== null) {
    writer.writeLine(`for (const each of ${value}) ${writeOne(context, field, 'each')}`);
  } else {
    writer.writeLine(writeOne(context, field, value));
  }
}

function writeOne({ module, ...context }: RecordContext, field: Field, value: string): string {
  if (field.type.kind === 'struct') {
    return `${module.schema(field.type.file, pascalCase(field.type.name))}.encode(writer, ${value});`;
  }
  if (field.type.kind === 'bytes') throw new Error(`${field.name}: bytes are not written one by one`);
  return `writer.${field.type.type}(${value}, '${fieldPath({ module, ...context }, field)}');`;
}

/** A constant list is written as often as it is counted. */
function repeat(
  writer: CodeBlockWriter,
  count: FieldCount | null,
  literal: string,
  statement: (each: string) => string,
): void {
  if (count === null) {
    writer.writeLine(statement(literal));
    return;
  }
  if (count.kind !== 'value') throw new Error('a constant list must have a fixed number of elements');
  writer.writeLine(`for (let index = 0; index < ${count.value}; index++) ${statement(literal)}`);
}

function isWideScalar(field: Field): boolean {
  return field.type.kind === 'scalar' && isWide(field.type.type);
}
