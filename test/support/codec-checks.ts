import * as assert from 'uvu/assert';
import { isWide, type Lookup } from '../../generator/emit/lookup.js';
import type { Field, Struct } from '../../generator/model/types.js';
import { camelCase } from '../../generator/names.js';
import {
  type Codec,
  decodeExactly,
  encodeToBytes,
  type WireError,
  WireReader,
  WireWriter,
} from '../../runtime/wire/index.js';
import {
  bytesByOffsets,
  limitOf,
  listOf,
  type Parameters,
  randomRecord,
  type RecordValue,
  scalarBytes,
} from './model-values.js';
import { Random } from './random.js';

type AnyCodec = Codec<RecordValue>;

/** One codec, the struct it was generated from, and the parameters that it was given. */
export interface CodecCase {
  readonly codec: AnyCodec;
  readonly struct: Struct;
  readonly lookup: Lookup;
  readonly parameters: Parameters;
}

const ROUNDS = 60;
const SEED = 0x5eed;

/** Values come back equal, and their bytes lie where the model says. */
export function checkRoundTrips({ codec, struct, lookup, parameters }: CodecCase): void {
  const random = new Random(SEED);
  for (let round = 0; round < ROUNDS; round++) {
    const value = randomRecord(lookup, struct, parameters, random);
    const bytes = encodeToBytes(codec, value);
    assert.ok(bytes.length >= codec.minSize && bytes.length <= codec.maxSize, `${bytes.length} bytes`);
    assert.equal(bytes, bytesByOffsets(lookup, struct, value));
    assert.equal(decodeExactly(codec, bytes), value);
  }
}

/** Padding on the wire may hold anything; it does not show in the value. */
export function checkIgnoredBytes({ codec, struct, lookup, parameters }: CodecCase): void {
  const random = new Random(SEED);
  const value = randomRecord(lookup, struct, parameters, random);
  const bytes = encodeToBytes(codec, value);
  for (const field of struct.fields.filter((each) => each.ignored)) {
    const [start, end] = [field.offset!, field.offset! + field.size!];
    assert.equal(bytes.subarray(start, end), new Uint8Array(field.size!), `${field.name} is written as zero`);
    bytes.fill(0xff, start, end);
  }
  assert.equal(decodeExactly(codec, bytes), value);
}

/** Every prefix is refused, or is itself a legal value that the layout can have. */
export function checkTruncation({ codec, struct, lookup, parameters }: CodecCase): void {
  const random = new Random(SEED);
  const takesRest = struct.fields.at(-1)?.count?.kind === 'rest';
  for (let round = 0; round < 8; round++) {
    const bytes = encodeToBytes(codec, randomRecord(lookup, struct, parameters, random));
    for (let length = 0; length < bytes.length; length += bytes.length > 512 ? 1 + random.below(32) : 1) {
      if (takesRest && length >= codec.minSize) break;
      const error = wireError(() => codec.decode(new WireReader(bytes.subarray(0, length))));
      assert.is(error.code, 'ERR_WIRE_TRUNCATED');
      assert.match(error.message, /^[a-z0-9-]+\.[a-z0-9-]+: /);
    }
  }
}

/** What follows the last field is refused, with the layout's name. */
export function checkTrailing({ codec, struct, lookup, parameters }: CodecCase): void {
  if (struct.fields.at(-1)?.count?.kind === 'rest') return;
  const bytes = encodeToBytes(codec, randomRecord(lookup, struct, parameters, new Random(SEED)));
  const longer = new Uint8Array(bytes.length + 1);
  longer.set(bytes);
  const error = wireError(() => decodeExactly(codec, longer));
  assert.is(error.code, 'ERR_WIRE_TRAILING');
  assert.ok(error.message.startsWith(`${codec.layout}: `), error.message);
}

/** A list at its limit passes; one more is refused both ways, with the field's name and before anything is read for it. */
export function checkLimits({ codec, struct, lookup, parameters }: CodecCase): void {
  const random = new Random(SEED);
  for (const field of struct.fields) {
    const limit = limitOf(field);
    if (limit === null) continue;
    const value = randomRecord(lookup, struct, parameters, random);
    value[camelCase(field.name)] = listOf(lookup, field, limit, parameters, random);
    const bytes = encodeToBytes(codec, value);
    assert.is(bytes.length, codec.maxSize);
    assert.equal(decodeExactly(codec, bytes), value);

    value[camelCase(field.name)] = listOf(lookup, field, limit + 1, parameters, random);
    const writing = wireError(() => encodeToBytes(codec, value));
    assert.is(writing.code, 'ERR_WIRE_LIMIT');
    assert.ok(writing.message.startsWith(`${struct.name}.${field.name}: `), writing.message);
    checkCountAboveLimit(codec, struct, field, bytes);
  }
}

function checkCountAboveLimit(codec: AnyCodec, struct: Struct, field: Field, bytes: Uint8Array): void {
  const counter = struct.fields.find((each) => each.counts === field.name);
  if (counter === undefined) {
    const longer = new Uint8Array(bytes.length + 1);
    longer.set(bytes);
    assert.is(wireError(() => decodeExactly(codec, longer)).code, 'ERR_WIRE_LIMIT');
    return;
  }
  if (counter.type.kind !== 'scalar') throw new Error('a counter is a scalar');
  const most = (1n << BigInt(8 * counter.size!)) - 1n;
  const limit = BigInt(limitOf(field)!);
  for (const count of [limit + 1n, most].filter((each) => each > limit && each <= most)) {
    // The count alone: a decoder that allocated by it, or read on, would say that bytes are missing.
    const head = bytes.slice(0, counter.offset! + counter.size!);
    head.set(scalarBytes(counter.type.type, count), counter.offset!);
    const error = wireError(() => codec.decode(new WireReader(head)));
    assert.is(error.code, 'ERR_WIRE_LIMIT');
    assert.ok(error.message.startsWith(`${struct.name}.${counter.name}: `), error.message);
  }
}

/** Constants and closed sets: any other number is refused, with the field's name. */
export function checkForbiddenValues({ codec, struct, lookup, parameters }: CodecCase): void {
  const bytes = encodeToBytes(codec, randomRecord(lookup, struct, parameters, new Random(SEED)));
  for (const field of struct.fields) {
    if (field.type.kind !== 'scalar' || field.offset === null || field.ignored) continue;
    const forbidden = forbiddenValue(lookup, field);
    if (forbidden === null) continue;
    const wrong = bytes.slice();
    wrong.set(scalarBytes(field.type.type, forbidden), field.offset);
    const error = wireError(() => decodeExactly(codec, wrong));
    assert.is(error.code, 'ERR_WIRE_VALUE');
    assert.ok(error.message.startsWith(`${struct.name}.${field.name}: `), error.message);
  }
}

/** A number that the field's type can hold and the layout forbids; null when all are legal. */
function forbiddenValue(lookup: Lookup, field: Field): bigint | null {
  if (field.mustBe !== null) return BigInt(field.mustBe) + 1n;
  if (field.enumeration === null) return null;
  const enumeration = lookup.enumeration(field.enumeration);
  if (enumeration.open) return null;
  const values = enumeration.members.map((member) => member.value);
  const free = Array.from({ length: values.length + 1 }, (_, number) => number).find(
    (each) => !values.includes(each),
  )!;
  return enumeration.form === 'values' ? BigInt(free) : 1n << BigInt(free);
}

/** Numbers that do not fit their field are refused on encoding, with the field's name. */
export function checkOverflow({ codec, struct, lookup, parameters }: CodecCase): void {
  for (const field of struct.fields) {
    const key = camelCase(field.name);
    const value = randomRecord(lookup, struct, parameters, new Random(SEED));
    if (!(key in value) || field.type.kind !== 'scalar' || field.count !== null) continue;
    const { type } = field.type;
    const over = 1n << BigInt(8 * field.size!);
    value[key] = isWide(type) ? over : Number(over);
    const error = wireError(() => codec.encode(new WireWriter(new Uint8Array(codec.maxSize)), value));
    assert.is(error.code, 'ERR_WIRE_VALUE');
    assert.ok(error.message.startsWith(`${struct.name}.${field.name}: `), error.message);
  }
}

/** Whatever bytes come: a value that encodes to as many bytes again, or a WireError; never anything else. */
export function checkNoise({ codec }: CodecCase): void {
  const random = new Random(SEED);
  for (let round = 0; round < 300; round++) {
    const bytes = random.bytes(random.below(Math.min(codec.maxSize, 300) + 9));
    // Small counts are rare in noise, so the first words are often made small.
    for (let at = 0; at < 8 && at < bytes.length; at++)
      if (random.chance(2)) bytes[at] = at % 4 === 0 ? random.below(5) : 0;
    let value: RecordValue;
    try {
      value = decodeExactly(codec, bytes);
    } catch (error) {
      assert.ok(isWireError(error), String(error));
      continue;
    }
    assert.is(encodeToBytes(codec, value).length, bytes.length);
  }
}

/** All of the above, by name. */
export const codecChecks = {
  'values come back equal and lie where the schema says': checkRoundTrips,
  'padding is written as zero and not looked at': checkIgnoredBytes,
  'a truncated value is refused with the field that is missing': checkTruncation,
  'trailing bytes are refused': checkTrailing,
  'a list above its limit is refused, before anything is allocated for it': checkLimits,
  'constants and closed sets refuse every other number': checkForbiddenValues,
  'numbers that do not fit are refused on encoding': checkOverflow,
  'noise gives a value or a WireError': checkNoise,
} as const;

function wireError(action: () => unknown): WireError {
  try {
    action();
  } catch (error) {
    assert.ok(isWireError(error), String(error));
    return error;
  }
  assert.unreachable('was not refused');
  throw new Error('not reached');
}

/** By name: codecs that a test has compiled itself stand on a copy of the class. */
function isWireError(error: unknown): error is WireError {
  return error instanceof Error && error.name === 'WireError';
}
