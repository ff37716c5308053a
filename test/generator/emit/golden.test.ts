import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { generate } from '../../../generator/generate.js';
import { compareFolder, filesBelow, writeFolder } from '../../../generator/write.js';
import { repositoryRoot } from '../../support/repository.js';
import { toyModel, toyTexts } from '../../support/toy-schema.js';

/** test/generator/golden/README.md says how the expected files are refreshed. */
const golden = suite('golden outputs');
const folder = join(repositoryRoot(), 'test/generator/golden/expected');
const outputs = generate(toyModel());

if (process.env['UPDATE_GOLDEN'] === '1') writeFolder(folder, outputs);

for (const output of outputs) {
  golden(`${output.path} is what the emitter gives`, () => {
    assert.fixture(output.text, readFileSync(join(folder, output.path), 'utf8'));
  });
}

golden('there is no expected file that no emitter gives', () => {
  assert.equal(compareFolder(folder, outputs).orphaned, []);
  assert.is(filesBelow(folder).length, outputs.length);
});

golden('two runs give equal bytes, whatever order the schema files come in', () => {
  const reversed = toyModel((texts) => {
    texts.clear();
    for (const [path, text] of [...toyTexts()].reverse()) texts.set(path, text);
  });
  assert.equal(generate(reversed), outputs);
});

golden('a model that has been JSON gives equal bytes, so that emitters need plain data only', () => {
  assert.equal(generate(JSON.parse(JSON.stringify(toyModel()))), outputs);
});

golden('no two outputs have one path, and all paths lie below the folder', () => {
  const paths = outputs.map((output) => output.path);
  assert.is(new Set(paths).size, paths.length);
  for (const path of paths) assert.not.match(path, /^\/|\.\.|\\/);
});

golden.run();
