import type { Field, Model, Struct } from '../../model/types.js';
import { snakeCase } from '../../names.js';
import { ALL_SCHEMAS, blockBanner } from '../banner.js';
import type { Output } from '../output.js';
import { type CConstant, constantsOf } from './constants.js';
import { HEADER } from './header.js';
import { fixedSize, mirrorName } from './mirrors.js';

/** A struct of the model that a struct of the kernel's headers proves. */
type Proven = Struct & { readonly proof: NonNullable<Struct['proof']> };

/**
 * A C file that compiles only where the schema agrees with the kernel's headers (linux-libc-dev): the structs that
 * `proof` names, field by field, and every macro that they define for a name of ours.
 */
export function emitKernelProof(model: Model): Output {
  const constants = constantsOf(model).filter((constant) => constant.headers.length > 0);
  const structs = model.files.flatMap((file) =>
    file.kind === 'layouts' ? file.structs.filter(isProven) : [],
  );
  const headers = new Set([
    ...constants.flatMap((constant) => constant.headers),
    ...structs.map((struct) => struct.proof.header),
  ]);
  const includes = [...headers].sort().map((header) => `#include <${header}>\n`);
  const text = [
    blockBanner(ALL_SCHEMAS),
    `${includes.join('')}\n#include "${HEADER.slice('c/'.length)}"\n`,
    ...structs.map(structProof),
    '/* A macro that the headers at hand do not have yet proves nothing. */\n',
    ...constants.map(constantProof),
  ].join('\n');
  return { path: 'c/kernel_proof.c', text };
}

function isProven(struct: Struct): struct is Proven {
  return struct.proof !== null;
}

function structProof(struct: Proven): string {
  const kernel = `struct ${struct.proof.struct}`;
  const lines = [`static_assert(sizeof(${kernel}) == ${struct.proof.size}, "size of ${kernel}");`];
  if (struct.proof.size === fixedSize(struct)) {
    lines.push(
      `static_assert(sizeof(${kernel}) == sizeof(struct ${mirrorName(struct)}), "size of ${struct.name}");`,
    );
  }
  for (const field of struct.fields.filter((each) => each.proven))
    lines.push(...fieldProof(struct, field, kernel));
  return `${lines.join('\n')}\n`;
}

function fieldProof(struct: Struct, field: Field, kernel: string): string[] {
  const member = field.cName ?? snakeCase(field.name);
  const name = `${struct.name}.${field.name}`;
  const lines = [`static_assert(offsetof(${kernel}, ${member}) == ${field.offset}, "offset of ${name}");`];
  if (field.type.kind === 'scalar' && field.size !== null) {
    lines.push(`static_assert(sizeof(((${kernel} *)0)->${member}) == ${field.size}, "size of ${name}");`);
  }
  return lines;
}

/** What the kernel's headers write for the start of a specification name. */
const KERNEL_SPELLING: readonly (readonly [RegExp, string])[] = [
  [/^VIRTQ_/, 'VRING_'],
  [/^RING_EVENT_FLAGS_/, 'VRING_PACKED_EVENT_FLAG_'],
];

function constantProof(constant: CConstant): string {
  return constant.specNames
    .map((name) => KERNEL_SPELLING.reduce((text, [from, to]) => text.replace(from, to), name))
    .map((name) => {
      const equal = `(unsigned long long)(${name}) == (unsigned long long)(${constant.macro})`;
      return `#ifdef ${name}\nstatic_assert(${equal}, "${name}");\n#endif\n`;
    })
    .join('');
}
