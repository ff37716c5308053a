import { elementSize, isWide, type Lookup } from '../../generator/emit/lookup.js';
import type { Enumeration, Field, ScalarType, Struct } from '../../generator/model/types.js';
import { camelCase } from '../../generator/names.js';
import type { Random } from './random.js';

/** A record value as the generated codecs have it. */
export type RecordValue = Record<string, unknown>;

/** What is known at run time and not on the wire, by kebab-case name. */
export type Parameters = Readonly<Record<string, number>>;

/** A value that the struct allows, drawn from the model alone. */
export function randomRecord(
  lookup: Lookup,
  struct: Struct,
  parameters: Parameters,
  random: Random,
): RecordValue {
  const value: RecordValue = {};
  for (const field of struct.fields.filter(isVisible)) {
    value[camelCase(field.name)] = randomField(lookup, field, parameters, random);
  }
  return value;
}

/** Fields that are part of the value. */
export function isVisible(field: Field): boolean {
  return !field.ignored && field.mustBe === null && field.counts === null;
}

/**
 * Writes the value where the model says that each field lies: a second encoder, by stated offsets, to hold the generated
 * one against, which goes field by field.
 */
export function bytesByOffsets(lookup: Lookup, struct: Struct, value: RecordValue): Uint8Array {
  const chunks: { at: number; bytes: Uint8Array }[] = [];
  for (const field of struct.fields) {
    if (field.offset === null) throw new Error(`${struct.name}.${field.name} has no fixed offset`);
    for (const [index, bytes] of fieldBytes(lookup, field, value).entries()) {
      chunks.push({ at: field.offset + index * bytes.length, bytes });
    }
  }
  const all = new Uint8Array(Math.max(struct.minSize, ...chunks.map(({ at, bytes }) => at + bytes.length)));
  for (const { at, bytes } of chunks) all.set(bytes, at);
  return all;
}

function fieldBytes(lookup: Lookup, field: Field, value: RecordValue): Uint8Array[] {
  const { type } = field;
  if (field.ignored) return [];
  if (field.counts !== null && type.kind === 'scalar') {
    return [scalarBytes(type.type, BigInt((value[camelCase(field.counts)] as ArrayLike<unknown>).length))];
  }
  const own = value[camelCase(field.name)];
  if (type.kind === 'bytes') return [own as Uint8Array];
  const elements = field.mustBe !== null ? [field.mustBe] : field.count === null ? [own] : (own as unknown[]);
  return elements.map((element) =>
    type.kind === 'struct'
      ? bytesByOffsets(lookup, lookup.struct(type), element as RecordValue)
      : scalarBytes(type.type, BigInt(element as number | bigint)),
  );
}

/** Little-endian bytes of a scalar. */
export function scalarBytes(type: ScalarType, value: bigint): Uint8Array {
  const size = Number(type.slice(1)) / 8;
  const word = BigInt.asUintN(8 * size, value);
  return Uint8Array.from({ length: size }, (_, index) => Number((word >> BigInt(8 * index)) & 0xffn));
}

function randomField(lookup: Lookup, field: Field, parameters: Parameters, random: Random): unknown {
  const times = howMany(field, parameters, random);
  if (field.type.kind === 'bytes') return random.bytes(times!);
  const one = () => randomElement(lookup, field, parameters, random);
  return times === null ? one() : Array.from({ length: times }, one);
}

function howMany({ count }: Field, parameters: Parameters, random: Random): number | null {
  switch (count?.kind) {
    case undefined:
      return null;
    case 'value':
      return (count as { value: number }).value;
    case 'param':
      return parameters[(count as { param: string }).param]!;
    default: {
      // Both ends often, and never more than a test can look at.
      const most = Math.min((count as { max: number }).max, 4096);
      return random.pick([0, 1, Math.min(most, 64), random.below(Math.min(most, 64) + 1)]);
    }
  }
}

function randomElement(lookup: Lookup, field: Field, parameters: Parameters, random: Random): unknown {
  if (field.type.kind === 'struct')
    return randomRecord(lookup, lookup.struct(field.type), parameters, random);
  if (field.type.kind === 'bytes') throw new Error('bytes have no elements');
  const { type } = field.type;
  const enumeration = field.enumeration === null ? null : lookup.enumeration(field.enumeration);
  const word = enumeration !== null && !enumeration.open ? member(enumeration, random) : edge(type, random);
  return isWide(type) ? word : Number(word);
}

function member(enumeration: Enumeration, random: Random): bigint {
  if (enumeration.form === 'values') return BigInt(random.pick(enumeration.members).value);
  return enumeration.members
    .filter(() => random.chance(2))
    .reduce((sum, each) => sum | (1n << BigInt(each.value)), 0n);
}

/** Often the smallest or the largest number of the type. */
function edge(type: ScalarType, random: Random): bigint {
  const bits = Number(type.slice(1));
  const drawn = random.bytes(8).reduce((word, byte) => (word << 8n) | BigInt(byte), 0n);
  const word = BigInt.asUintN(
    bits,
    random.pick([0n, 1n, (1n << BigInt(bits)) - 1n, 1n << BigInt(bits - 1), drawn]),
  );
  return type.startsWith('i') ? BigInt.asIntN(bits, word) : word;
}

/** The largest number of elements that fits a test, for lists that have a limit. */
export function limitOf(field: Field): number | null {
  return field.count !== null && 'max' in field.count ? field.count.max : null;
}

/** A list or bytes of a given length, for a field that has a limit. */
export function listOf(
  lookup: Lookup,
  field: Field,
  length: number,
  parameters: Parameters,
  random: Random,
): unknown {
  if (field.type.kind === 'bytes') return new Uint8Array(length);
  if (elementSize(lookup, field.type) === null) throw new Error(`${field.name}: elements differ in size`);
  const one = randomElement(lookup, field, parameters, random);
  return Array.from({ length }, () => one);
}
