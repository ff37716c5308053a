import type { CodeBlockWriter } from 'ts-morph';
import type { Field, FieldCount } from '../../model/types.js';
import { camelCase, pascalCase, variableName } from '../../names.js';
import { elementSize, isWide } from '../lookup.js';
import { guardName, maskLiteral } from './enumerations.js';
import { fieldPath, type RecordContext, valueFields } from './record-context.js';

/** Longest statement on one line. */
const WIDTH = 100;

/** The statements of `decode(reader)`: every field in the order of the wire, checked where the layout says something. */
export function decodeBody(context: RecordContext, writer: CodeBlockWriter): void {
  for (const field of context.struct.fields) decodeField(context, writer, field);
  const members = valueFields(context.struct).map((field) => {
    const key = camelCase(field.name);
    const variable = variableName(field.name);
    return key === variable ? key : `${key}: ${variable}`;
  });
  writer.writeLine(members.length === 0 ? 'return {};' : `return { ${members.join(', ')} };`);
}

function decodeField(context: RecordContext, writer: CodeBlockWriter, field: Field): void {
  const variable = variableName(field.name);
  const path = `'${fieldPath(context, field)}'`;
  if (field.ignored) {
    writer.writeLine(`reader.skip(${ignoredSize(context, field)}, ${path});`);
    return;
  }
  if (field.type.kind === 'bytes') {
    writer.writeLine(`const ${variable} = reader.bytes(${bytesLength(context, writer, field)}, ${path});`);
    return;
  }
  if (field.count !== null) {
    decodeList(context, writer, field, field.count);
    return;
  }
  const counted =
    field.counts === null ? null : context.struct.fields.find((each) => each.name === field.counts);
  if (counted !== undefined && counted !== null) {
    decodeCount(context, writer, field, counted);
    return;
  }
  writer.writeLine(`const ${variable} = ${readOne(context, field)};`);
  check(context, writer, field, variable);
}

/** A count is compared with its bound before anything is allocated for it. */
function decodeCount(context: RecordContext, writer: CodeBlockWriter, field: Field, counted: Field): void {
  if (field.type.kind !== 'scalar' || counted.count?.kind !== 'field') {
    throw new Error(`${fieldPath(context, field)}: only a scalar counts another field`);
  }
  const variable = variableName(field.name);
  const read = readOne(context, field);
  // A 64-bit count is only rounded when it is far above any bound.
  writer.writeLine(`const ${variable} = ${isWide(field.type.type) ? `Number(${read})` : read};`);
  limit(context, writer, field, variable, counted.count.max);
}

function decodeList(context: RecordContext, writer: CodeBlockWriter, field: Field, count: FieldCount): void {
  const variable = variableName(field.name);
  const type = listType(context, field);
  writer.writeLine(`const ${variable}: ${type}[] = [];`);
  if (count.kind === 'rest') throw new Error(`${fieldPath(context, field)}: only bytes may take the rest`);
  writer.write(`while (${variable}.length < ${countExpression(count)}) `).inlineBlock(() => {
    if (needsCheck(context, field)) {
      writer.writeLine(`const each = ${readOne(context, field)};`);
      check(context, writer, field, 'each');
      writer.writeLine(`${variable}.push(each);`);
    } else {
      writer.writeLine(`${variable}.push(${readOne(context, field)});`);
    }
  });
  writer.newLine();
}

/** An expression for the bytes to take; the count was checked when it was read, the rest is checked here. */
function bytesLength(context: RecordContext, writer: CodeBlockWriter, field: Field): string {
  if (field.count === null) throw new Error(`${fieldPath(context, field)}: bytes without a length`);
  if (field.count.kind !== 'rest') return countExpression(field.count);
  limit(context, writer, field, 'reader.remaining', field.count.max);
  return 'reader.remaining';
}

function countExpression(count: Exclude<FieldCount, { kind: 'rest' }>): string {
  if (count.kind === 'value') return String(count.value);
  return count.kind === 'field' ? variableName(count.field) : camelCase(count.param);
}

function readOne({ module, ...context }: RecordContext, field: Field): string {
  if (field.type.kind === 'struct') {
    return `${module.schema(field.type.file, pascalCase(field.type.name))}.decode(reader)`;
  }
  if (field.type.kind === 'bytes') throw new Error(`${field.name}: bytes are not read one by one`);
  return `reader.${field.type.type}('${fieldPath({ module, ...context }, field)}')`;
}

function listType({ module, lookup }: RecordContext, field: Field): string {
  if (field.type.kind === 'struct') return module.schemaType(field.type.file, pascalCase(field.type.name));
  if (field.enumeration !== null) {
    const enumeration = lookup.enumeration(field.enumeration);
    if (enumeration.form === 'values' && !enumeration.open) {
      return module.schemaType(field.enumeration.file, pascalCase(field.enumeration.name));
    }
  }
  return field.type.kind === 'scalar' && isWide(field.type.type) ? 'bigint' : 'number';
}

function needsCheck({ lookup }: RecordContext, field: Field): boolean {
  return field.mustBe !== null || (field.enumeration !== null && !lookup.enumeration(field.enumeration).open);
}

/** Rejects what the layout forbids: another number than the constant, a number that a closed set does not list. */
function check(context: RecordContext, writer: CodeBlockWriter, field: Field, variable: string): void {
  const { module, lookup } = context;
  const wide = field.type.kind === 'scalar' && isWide(field.type.type);
  if (field.mustBe !== null) {
    const expected = `${field.mustBe}${wide ? 'n' : ''}`;
    reject(
      context,
      writer,
      field,
      `${variable} !== ${expected}`,
      `is \${${variable}}, must be ${field.mustBe}`,
    );
  }
  if (field.enumeration === null || lookup.enumeration(field.enumeration).open) return;
  const enumeration = lookup.enumeration(field.enumeration);
  if (enumeration.form === 'values') {
    const guard = module.schema(field.enumeration.file, guardName(enumeration));
    const known = enumeration.members.map((member) => member.value).join(', ');
    reject(
      context,
      writer,
      field,
      `!${guard}(${variable})`,
      `is \${String(${variable})}, must be one of ${known}`,
    );
  } else {
    const mask = maskLiteral(enumeration);
    const unknown = wide ? `(${variable} & ~${mask}) !== 0n` : `(${variable} & ~${mask}) !== 0`;
    reject(
      context,
      writer,
      field,
      unknown,
      `is 0x\${${variable}.toString(16)}, only the bits ${mask.replace('n', '')} may be set`,
    );
  }
}

function reject(
  context: RecordContext,
  writer: CodeBlockWriter,
  field: Field,
  condition: string,
  message: string,
): void {
  fail(context, writer, condition, 'ERR_WIRE_VALUE', `${fieldPath(context, field)}: ${message}`);
}

function limit(
  context: RecordContext,
  writer: CodeBlockWriter,
  field: Field,
  amount: string,
  max: number,
): void {
  const message = `${fieldPath(context, field)}: \${${amount}} is above the limit of ${max}`;
  fail(context, writer, `${amount} > ${max}`, 'ERR_WIRE_LIMIT', message);
}

/** `if (condition) { throw new WireError(…); }` */
export function fail(
  { module }: RecordContext,
  writer: CodeBlockWriter,
  condition: string,
  code: 'ERR_WIRE_VALUE' | 'ERR_WIRE_LIMIT',
  message: string,
): void {
  const error = module.wire('WireError');
  const text = message.includes('${') ? `\`${message}\`` : `'${message}'`;
  writer.write(`if (${condition}) `).inlineBlock(() => {
    const single = `throw new ${error}('${code}', ${text});`;
    if (single.length <= WIDTH) writer.writeLine(single);
    else {
      writer.writeLine(`throw new ${error}(`);
      writer.indent(() => writer.writeLine(`'${code}',`).writeLine(`${text},`));
      writer.writeLine(');');
    }
  });
  writer.newLine();
}

/** Bytes of a padding or reserved field. */
export function ignoredSize({ lookup, struct }: RecordContext, field: Field): number {
  const element = elementSize(lookup, field.type);
  const times = field.count === null ? 1 : field.count.kind === 'value' ? field.count.value : null;
  if (element === null || times === null)
    throw new Error(`${struct.name}.${field.name}: padding must have a fixed size`);
  return element * times;
}
