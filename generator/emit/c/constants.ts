import type { Model } from '../../model/types.js';
import { macroName } from '../../names.js';

/** What stands before every name of the header, so that it can be included beside the specification's own headers. */
export const PREFIX = 'VU_';

/** One macro of the C header. */
export interface CConstant {
  /** Path of the schema file. */
  readonly file: string;
  /** With the prefix. */
  readonly macro: string;
  readonly value: bigint;
  /** True for masks, which are written in hexadecimal. */
  readonly mask: boolean;
  /** The specification's names, the present one and former ones, that a kernel header may define. */
  readonly specNames: readonly string[];
  /** Kernel headers that must agree where they define one of these. */
  readonly headers: readonly string[];
}

/**
 * Every number of the model that has a specification name. Feature bits are bit numbers, as in the kernel's headers;
 * members of a bits enumeration are masks. A name that two files share with one value is written once.
 */
export function constantsOf(model: Model): CConstant[] {
  const found: CConstant[] = [];
  for (const file of model.files) {
    const add = (
      item: { specName: string; renamed: readonly { from: string }[] },
      value: bigint,
      mask = false,
    ) => {
      const specNames = [item.specName, ...item.renamed.map((renamed) => renamed.from)];
      found.push({
        file: file.path,
        macro: PREFIX + macroName(item.specName),
        value,
        mask,
        specNames: specNames.map(macroName),
        headers: file.headers,
      });
    };
    switch (file.kind) {
      case 'messages':
        for (const request of file.requests) add(request, BigInt(request.id));
        break;
      case 'features':
        for (const bit of file.bits) add(bit, BigInt(bit.bit));
        break;
      case 'layouts':
        for (const constant of file.constants) add(constant, BigInt(constant.value));
        for (const enumeration of file.enums) {
          const isMask = enumeration.form === 'bits';
          for (const member of enumeration.members) {
            add(member, isMask ? 1n << BigInt(member.value) : BigInt(member.value), isMask);
          }
        }
        break;
    }
  }
  return unique(found);
}

/** A literal that keeps its width in C. */
export function literal({ value, mask }: CConstant): string {
  const digits = mask ? `0x${value.toString(16)}` : value.toString();
  if (value > 0xffff_ffffn) return `${digits}ULL`;
  return value > 0x7fff_ffffn ? `${digits}U` : digits;
}

function unique(constants: readonly CConstant[]): CConstant[] {
  const byMacro = new Map<string, CConstant>();
  for (const constant of constants) {
    const other = byMacro.get(constant.macro);
    if (other === undefined) byMacro.set(constant.macro, constant);
    else if (other.value !== constant.value) {
      throw new Error(
        `${constant.macro} is ${other.value} in ${other.file} and ${constant.value} in ${constant.file}`,
      );
    }
  }
  return [...byMacro.values()];
}
