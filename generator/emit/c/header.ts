import type { Model } from '../../model/types.js';
import { ALL_SCHEMAS, blockBanner, schemaPath } from '../banner.js';
import { lookupOf } from '../lookup.js';
import type { Output } from '../output.js';
import { constantsOf, literal } from './constants.js';
import { fixedFields, mirror, structsInOrder } from './mirrors.js';

export const HEADER = 'c/vhost_user_schema.h';

/** All constants and layouts for C and C++, with assertions that hold the layouts to what the schema states. */
export function emitHeader(model: Model): Output {
  const lookup = lookupOf(model);
  const constants = constantsOf(model);
  const sections = model.files
    .map((file) => ({ file, own: constants.filter((constant) => constant.file === file.path) }))
    .filter(({ own }) => own.length > 0)
    .map(({ file, own }) => {
      const width = Math.max(...own.map((constant) => constant.macro.length));
      const lines = own.map((constant) => `#define ${constant.macro.padEnd(width)} ${literal(constant)}`);
      return `/* ${schemaPath(file.path)} */\n${lines.join('\n')}\n`;
    });
  const structs = structsInOrder(model, lookup).filter((struct) => fixedFields(struct).length > 0);
  const text = [
    blockBanner(ALL_SCHEMAS),
    '/* Feature bits and request ids are numbers; members of flag words are masks. Values are little-endian. */\n',
    '#ifndef VHOST_USER_SCHEMA_H\n#define VHOST_USER_SCHEMA_H\n',
    '#include <assert.h>\n#include <stddef.h>\n#include <stdint.h>\n',
    ...sections,
    ...structs.map((struct) => mirror(struct, lookup)),
    '#endif\n',
  ].join('\n');
  return { path: HEADER, text };
}
