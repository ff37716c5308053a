import type { Model } from '../../model/types.js';
import { schemaPath } from '../banner.js';
import { type Lookup, lookupOf } from '../lookup.js';
import type { Output } from '../output.js';
import { emitConstants, emitQueues } from './constants.js';
import { emitEnumeration } from './enumerations.js';
import { emitFeatures } from './features.js';
import { emitFlatIndex } from './flat-index.js';
import { ModuleBuilder } from './module.js';
import { emitOffsets } from './offsets.js';
import { emitRecord } from './records.js';
import { emitRequests } from './requests.js';

/** One module for each schema file, and one that re-exports them all. */
export function emitTypeScript(model: Model): Output[] {
  const lookup = lookupOf(model);
  return [...model.files.map((file) => emitModule(file, lookup)), emitFlatIndex(model)];
}

function emitModule(file: Model['files'][number], lookup: Lookup): Output {
  const module = new ModuleBuilder(file.path);
  switch (file.kind) {
    case 'features':
      emitFeatures(module, file);
      break;
    case 'messages':
      emitRequests(module, file, lookup);
      break;
    case 'layouts':
      emitConstants(module, file);
      for (const enumeration of file.enums) emitEnumeration(module, enumeration);
      emitQueues(module, file);
      for (const struct of file.structs) {
        if (struct.form === 'offsets') emitOffsets(module, struct, lookup);
        else emitRecord({ module, lookup, struct });
      }
      break;
  }
  return module.build(schemaPath(file.path));
}
