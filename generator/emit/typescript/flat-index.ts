import type { Model } from '../../model/types.js';
import { ALL_SCHEMAS, lineBanner } from '../banner.js';
import type { Output } from '../output.js';

/**
 * generated/index.ts: everything, flat, and the wire layer, without which nobody could use a codec. Names are unique over all
 * files, which a rule makes sure of.
 */
export function emitFlatIndex(model: Model): Output {
  const lines = model.files.map((file) => `export * from './${file.path}.js';\n`).sort();
  return {
    path: 'index.ts',
    text: `${lineBanner(ALL_SCHEMAS)}\n${lines.join('')}export * from '../runtime/wire/index.js';\n`,
  };
}
