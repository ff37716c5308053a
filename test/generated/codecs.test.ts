import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { lookupOf } from '../../generator/emit/lookup.js';
import { pascalCase } from '../../generator/names.js';
import * as generated from '../../generated/index.js';
import { type CodecCase, codecChecks } from '../support/codec-checks.js';
import { projectModel } from '../support/toy-schema.js';

const codecs = suite('generated codecs');
const model = projectModel();
const lookup = lookupOf(model);
const exported = generated as unknown as Record<string, CodecCase['codec']>;

const records = model.files
  .flatMap((file) => (file.kind === 'layouts' ? file.structs : []))
  .filter((struct) => struct.form !== 'offsets');

codecs('there is one for every record of the schema', () => {
  assert.ok(records.length >= 30, `${records.length} records`);
  for (const struct of records) assert.is(exported[pascalCase(struct.name)]?.layout, struct.name);
});

for (const struct of records) {
  const codec = exported[pascalCase(struct.name)]!;
  for (const [claim, check] of Object.entries(codecChecks)) {
    codecs(`${struct.name}: ${claim}`, () => check({ codec, struct, lookup, parameters: {} }));
  }
}

codecs.run();
