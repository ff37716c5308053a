import { StructureKind } from 'ts-morph';
import type { FeatureRef, FeaturesFile } from '../../model/types.js';
import { camelCase, pascalCase, plural } from '../../names.js';
import { comment, describe } from './documentation.js';
import { constObject, hexadecimal, quote } from './literal.js';
import type { ModuleBuilder } from './module.js';

/** Masks, the union of their names, the table with dependencies, the closure function and the mask of what can be used. */
export function emitFeatures(module: ModuleBuilder, file: FeaturesFile): void {
  const name = pascalCase(file.name);
  const table = `${camelCase(file.name)}Table`;
  module.add(
    constObject({
      name,
      doc: comment([file.doc, 'Members are masks of the negotiated 64-bit word.']),
      suffix: ' as const',
      entries: file.bits.map((bit) => ({
        key: camelCase(bit.name),
        value: hexadecimal(1n << BigInt(bit.bit), true),
        doc: describe(
          bit,
          `Bit ${bit.bit}.`,
          needs(bit.requires, bit.requiresOther),
          bit.negotiable ? null : 'Cannot be negotiated over this transport.',
        ),
      })),
    }),
    { kind: StructureKind.TypeAlias, isExported: true, name: `${name}Name`, type: `keyof typeof ${name}` },
    (writer) => {
      writer.writeLine(
        '/** Every bit with its number, its specification name and the bits of this table that it needs. */',
      );
      writer.write(`export const ${table}: ${module.wireType('FeatureTable')}<${name}Name> = `);
      writer.inlineBlock(() => {
        writer.writeLine(`name: ${quote(file.name)},`);
        writer.writeLine('bits: [');
        writer.indent(() => {
          for (const bit of file.bits) {
            const requires = bit.requires.map((each) => quote(camelCase(each))).join(', ');
            writer.writeLine(
              `{ name: ${quote(camelCase(bit.name))}, specName: ${quote(bit.specName)}, bit: ${bit.bit}, requires: [${requires}] },`,
            );
          }
        });
        writer.writeLine('],');
      });
      writer.write(';');
    },
    {
      kind: StructureKind.Function,
      isExported: true,
      name: `close${plural(name)}`,
      docs: [
        'Drops every bit of `word` whose dependencies are not in it, until nothing changes. Unknown bits are kept.',
      ],
      parameters: [{ name: 'word', type: 'bigint' }],
      returnType: 'bigint',
      statements: [`return ${module.wire('closeFeatures')}(${table}, word);`],
    },
    (writer) => {
      const usable = file.bits.filter((bit) => bit.negotiable && bit.bit < 64);
      const mask = usable.reduce((sum, bit) => sum | (1n << BigInt(bit.bit)), 0n);
      writer.writeLine('/** Mask of the bits that this transport can negotiate. */');
      writer.write(`export const negotiable${plural(name)} = ${hexadecimal(mask, true)};`);
    },
  );
}

/** `ProtocolFeature.mq | ProtocolFeature.config`, or `0n`. */
export function featureMask(
  module: ModuleBuilder,
  refs: readonly FeatureRef[],
  fileName: (ref: FeatureRef) => string,
): string {
  if (refs.length === 0) return '0n';
  return refs
    .map((ref) => `${module.schema(ref.file, pascalCase(fileName(ref)))}.${camelCase(ref.name)}`)
    .join(' | ');
}

function needs(own: readonly string[], other: readonly FeatureRef[]): string | null {
  const names = [...own, ...other.map((ref) => ref.name)].map((name) => `${'`'}${camelCase(name)}${'`'}`);
  return names.length === 0 ? null : `Needs ${names.join(', ')}.`;
}
