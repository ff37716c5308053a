import { StructureKind } from 'ts-morph';
import type { Enumeration } from '../../model/types.js';
import { camelCase, pascalCase } from '../../names.js';
import { isWide } from '../lookup.js';
import { describe } from './documentation.js';
import { constObject, hexadecimal } from './literal.js';
import type { ModuleBuilder } from './module.js';

/**
 * A plain object of numbers; with `form: values` also the union of them, with `form: bits` the members are masks. A set
 * of values that is closed gets a type guard, which decoders use.
 */
export function emitEnumeration(module: ModuleBuilder, enumeration: Enumeration): void {
  const name = pascalCase(enumeration.name);
  module.add(
    constObject({
      name,
      doc: describe(
        enumeration,
        enumeration.form === 'bits' ? 'Members are masks.' : null,
        enumeration.open ? 'Open: other numbers may come and are to be expected.' : null,
      ),
      suffix: ' as const',
      entries: enumeration.members.map((member) => ({
        key: camelCase(member.name),
        value: memberLiteral(enumeration, member.value),
        doc: describe(member),
      })),
    }),
  );
  if (enumeration.form === 'bits') return;
  module.add({
    kind: StructureKind.TypeAlias,
    isExported: true,
    name,
    type: `(typeof ${name})[keyof typeof ${name}]`,
  });
  if (!enumeration.open) module.add(guard(enumeration));
}

/** Name of the type guard of a closed set of values. */
export function guardName(enumeration: Enumeration): string {
  return `is${pascalCase(enumeration.name)}`;
}

/** True for a field type whose values are all listed, so that a union can be its type. */
export function isClosedValues(enumeration: Enumeration): boolean {
  return enumeration.form === 'values' && !enumeration.open;
}

/** The mask of every bit that a closed set of bits has, as a literal. */
export function maskLiteral(enumeration: Enumeration): string {
  const mask = enumeration.members.reduce((sum, member) => sum | (1n << BigInt(member.value)), 0n);
  return hexadecimal(mask, isWide(enumeration.type));
}

function memberLiteral(enumeration: Enumeration, value: number): string {
  const wide = isWide(enumeration.type);
  if (enumeration.form === 'bits') return hexadecimal(1n << BigInt(value), wide);
  return wide ? `${value}n` : String(value);
}

function guard(enumeration: Enumeration) {
  const name = pascalCase(enumeration.name);
  const wide = isWide(enumeration.type);
  const tests = enumeration.members.map((member) => `value === ${memberLiteral(enumeration, member.value)}`);
  return {
    kind: StructureKind.Function as const,
    isExported: true,
    name: guardName(enumeration),
    docs: ['True for the numbers that are listed.'],
    parameters: [{ name: 'value', type: wide ? 'bigint' : 'number' }],
    returnType: `value is ${name}`,
    statements: [`return ${tests.join(' || ')};`],
  };
}
