import * as assert from 'uvu/assert';
import { elementSize, isWide, type Lookup, scalarSize } from '../../generator/emit/lookup.js';
import type { Field, ScalarType, Struct } from '../../generator/model/types.js';
import { camelCase, pascalCase } from '../../generator/names.js';
import { Random } from './random.js';

/** A generated object of static accessors. */
export type Accessors = Record<string, unknown>;
type Accessor = (...operands: unknown[]) => unknown;

/** Below it every whole number is exact, so 64-bit fields are tried up to here. */
const LARGEST_EXACT = 2 ** 53;

/** What one accessor call takes besides the array and the index. */
interface Place {
  /** Byte offset from the start of the struct. */
  readonly at: number;
  readonly operands: readonly number[];
}

/**
 * Every accessor of a struct against a DataView at the stated offset, at several places in a buffer of noise: it reads
 * that number, and a write changes those bytes and no other.
 */
export function checkAccessors(accessors: Accessors, struct: Struct, lookup: Lookup): void {
  const random = new Random(7);
  const bytes = random.bytes(4096);
  for (const field of struct.fields.filter((each) => !each.ignored && each.type.kind === 'scalar')) {
    for (const start of [0, 64, 1024]) {
      for (const place of placesOf(lookup, field)) {
        for (let round = 0; round < 8; round++) checkField(accessors, field, bytes, start, place, random);
      }
    }
  }
}

function checkField(
  accessors: Accessors,
  field: Field,
  bytes: Uint8Array,
  start: number,
  { at, operands }: Place,
  random: Random,
): void {
  const type = (field.type as { type: ScalarType }).type;
  const value = randomNumber(type, random);
  const expected = bytes.slice();
  store(expected, start + at, type, value);

  const name = pascalCase(field.name);
  call(accessors, `set${name}`, bytes, start, [...operands, value]);
  assert.equal(bytes, expected, `set${name} writes its bytes and no other`);
  assert.is(
    call(accessors, camelCase(field.name), bytes, start, operands),
    value,
    `${field.name} reads them`,
  );
  if (field.access === 'plain') return;

  const next = randomNumber(type, random);
  store(expected, start + at, type, next);
  call(accessors, `store${name}`, bytes, start, [next]);
  assert.equal(bytes, expected, `store${name} writes its bytes and no other`);
  assert.is(call(accessors, `load${name}`, bytes, start, []), next);
}

/** Calls an accessor with the array that its first parameter names. */
function call(
  accessors: Accessors,
  name: string,
  bytes: Uint8Array,
  start: number,
  operands: readonly number[],
): unknown {
  const accessor = accessors[name] as Accessor | undefined;
  assert.type(accessor, 'function', name);
  const width = /^\((u8|u16|u32)\b/.exec(String(accessor))?.[1];
  const [array, unit] =
    width === 'u32'
      ? [new Uint32Array(bytes.buffer), 4]
      : width === 'u16'
        ? [new Uint16Array(bytes.buffer), 2]
        : [bytes, 1];
  return accessor!(array, start / unit, ...operands);
}

/** A field that is counted or lies behind a list is tried at several places. */
function placesOf(lookup: Lookup, field: Field): Place[] {
  const parameters = field.offsetOf === null ? [null] : [1, 4, 7];
  const elements = field.count === null ? [null] : [0, 1, 5];
  return parameters.flatMap((parameter) =>
    elements.map((element) => ({
      at:
        (field.offset ?? field.offsetOf!.base + field.offsetOf!.step * parameter!) +
        (element ?? 0) * elementSize(lookup, field.type)!,
      operands: [parameter, element].filter((each) => each !== null),
    })),
  );
}

function randomNumber(type: ScalarType, random: Random): number {
  if (isWide(type)) {
    return random.pick([
      0,
      1,
      0xffff_ffff,
      0x1_0000_0000,
      LARGEST_EXACT - 1,
      random.below(2 ** 21) * 2 ** 32 + random.below(2 ** 31),
    ]);
  }
  const bits = 8 * scalarSize(type);
  const word = random.pick([0, 1, 2 ** (bits - 1), 2 ** bits - 1, random.below(2 ** 16) % 2 ** bits]);
  return type.startsWith('i') ? Number(BigInt.asIntN(bits, BigInt(word))) : word;
}

function store(bytes: Uint8Array, at: number, type: ScalarType, value: number): void {
  const size = scalarSize(type);
  const word = BigInt.asUintN(8 * size, BigInt(value));
  for (let index = 0; index < size; index++) bytes[at + index] = Number((word >> BigInt(8 * index)) & 0xffn);
}
