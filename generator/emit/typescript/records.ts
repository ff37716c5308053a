import { StructureKind, type WriterFunction } from 'ts-morph';
import type { Field, Struct } from '../../model/types.js';
import { camelCase, pascalCase } from '../../names.js';
import { isWide } from '../lookup.js';
import { comment, describe, docComment } from './documentation.js';
import { isClosedValues } from './enumerations.js';
import { members } from './literal.js';
import { offsetsEntries, offsetsNote } from './offsets.js';
import { type RecordContext, valueFields } from './record-context.js';
import { decodeBody } from './record-decode.js';
import { encodeBody } from './record-encode.js';
import { maxSize, minSize, sizeExpression } from './record-size.js';

/**
 * The interface of a record and its codec, both by the struct's name. Counting fields, padding and constants are not part
 * of the value. A struct with parameters gives a function from the parameters to the codec.
 */
export function emitRecord(context: RecordContext): void {
  const { module, struct } = context;
  const name = pascalCase(struct.name);
  module.add({
    kind: StructureKind.Interface,
    isExported: true,
    name,
    docs: [describe(struct, sizeText(struct))],
    properties: valueFields(struct).map((field) => ({
      name: camelCase(field.name),
      type: fieldType(context, field),
      docs: [describe(field, requirement(field))],
    })),
  });
  module.add(struct.params.length > 0 ? codecFunction(context) : codecObject(context));
}

function codecObject(context: RecordContext): WriterFunction {
  const { module, struct, lookup } = context;
  const name = pascalCase(struct.name);
  const codec = `${module.wireType('Codec')}<${name}>`;
  const both = struct.form === 'both';
  return (writer) => {
    if (both)
      writer.writeLine(
        docComment(
          comment(['Codec of the record, with accessors for hot code.', offsetsNote(struct, lookup)]),
        ),
      );
    writer.write(`export const ${name}${both ? '' : `: ${codec}`} = `).inlineBlock(() => {
      codecMembers(context)(writer);
      if (both) members(offsetsEntries(struct, lookup))(writer);
    });
    writer.write(both ? ` as const satisfies ${codec} & Record<string, unknown>;` : ';');
  };
}

/** The codec of a struct that needs to be told something that is not on the wire. */
function codecFunction(context: RecordContext): WriterFunction {
  const { module, struct } = context;
  const name = pascalCase(struct.name);
  const parameters = struct.params.map((parameter) => `${camelCase(parameter.name)}: number`);
  return (writer) => {
    writer.write(`export function ${name}(${parameters.join(', ')}): ${module.wireType('Codec')}<${name}> `);
    writer.inlineBlock(() => {
      writer
        .write('return ')
        .inlineBlock(() => codecMembers(context)(writer))
        .write(';')
        .newLine();
    });
  };
}

function codecMembers(context: RecordContext): WriterFunction {
  const { module, struct } = context;
  const name = pascalCase(struct.name);
  return (writer) => {
    const size = sizeExpression(context);
    writer.writeLine(`layout: '${struct.name}',`);
    writer.writeLine(`minSize: ${minSize(context)},`);
    writer.writeLine(`maxSize: ${maxSize(context)},`);
    writer.writeLine(`size: (${/\bvalue\b/.test(size) ? `value: ${name}` : ''}) => ${size},`);
    writer.write(`decode(reader: ${module.wireType('WireReader')}): ${name} `);
    writer
      .inlineBlock(() => decodeBody(context, writer))
      .write(',')
      .newLine();
    // Nothing of the value is written when every field is padding or a constant.
    const value = valueFields(struct).length === 0 ? '_value' : 'value';
    writer.write(`encode(writer: ${module.wireType('WireWriter')}, ${value}: ${name}): void `);
    writer
      .inlineBlock(() => encodeBody(context, writer))
      .write(',')
      .newLine();
  };
}

function fieldType(context: RecordContext, field: Field): string {
  if (field.type.kind === 'bytes') return 'Uint8Array';
  const single = singleType(context, field);
  if (field.count === null) return single;
  return single.includes(' ') ? `(${single})[]` : `${single}[]`;
}

function singleType({ module, lookup }: RecordContext, field: Field): string {
  if (field.type.kind === 'struct') return module.schemaType(field.type.file, pascalCase(field.type.name));
  if (field.enumeration !== null && isClosedValues(lookup.enumeration(field.enumeration))) {
    return module.schemaType(field.enumeration.file, pascalCase(field.enumeration.name));
  }
  return field.type.kind === 'scalar' && isWide(field.type.type) ? 'bigint' : 'number';
}

function requirement(field: Field): string | null {
  const list = (refs: Field['requires']) => refs.map((ref) => `${'`'}${camelCase(ref.name)}${'`'}`);
  const parts: string[] = [];
  if (field.enumeration !== null) parts.push(`${'`'}${pascalCase(field.enumeration.name)}${'`'}.`);
  if (field.requires.length > 0) parts.push(`With ${list(field.requires).join(' and ')} only.`);
  if (field.requiresAny.length > 0) parts.push(`With ${list(field.requiresAny).join(' or ')} only.`);
  for (const part of field.parts) {
    const high = part.lowBit + part.width - 1;
    parts.push(
      `${part.width === 1 ? `Bit ${high}` : `Bits ${part.lowBit}-${high}`}, ${camelCase(part.name)}: ${part.doc}`,
    );
  }
  return parts.length === 0 ? null : parts.join(' ');
}

function sizeText(struct: Struct): string {
  return struct.size === null ? 'Its size varies.' : `${struct.size} bytes.`;
}
