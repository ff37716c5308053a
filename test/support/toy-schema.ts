import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { formatDiagnostic } from '../../generator/load/diagnostic.js';
import { loadModel } from '../../generator/load/load-model.js';
import { readSchema } from '../../generator/load/read-schema.js';
import type { Model } from '../../generator/model/types.js';
import { repositoryRoot } from './repository.js';

/** The texts of a small schema in which every word of the schema language that an emitter knows occurs. */
export function toyTexts(): Map<string, string> {
  const metas = [...readSchema(join(repositoryRoot(), 'schema'))].filter(([path]) =>
    path.startsWith('meta/'),
  );
  return new Map([...metas, ...readSchema(join(repositoryRoot(), 'test/generator/golden/schema'))]);
}

/** The toy schema's model, after `edit` has changed its texts. */
export function toyModel(edit: (texts: Map<string, string>) => void = () => {}): Model {
  const texts = toyTexts();
  edit(texts);
  return modelOf(texts);
}

/** The model of the project's own schema. */
export function projectModel(): Model {
  return modelOf(readSchema(join(repositoryRoot(), 'schema')));
}

/** Replaces the one occurrence of `from`; a text that does not have exactly one is a mistake of the test. */
export function replaceOnce(texts: Map<string, string>, path: string, from: string, to: string): void {
  const text = texts.get(path)!;
  assert.is(text.split(from).length, 2, `${path} has ${JSON.stringify(from)} once`);
  texts.set(
    path,
    text.replace(from, () => to),
  );
}

function modelOf(texts: ReadonlyMap<string, string>): Model {
  const { model, diagnostics } = loadModel(texts);
  assert.equal(diagnostics.map(formatDiagnostic), []);
  return model!;
}
