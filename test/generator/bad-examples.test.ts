import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { formatDiagnostic } from '../../generator/load/diagnostic.js';
import { loadErrors } from '../../generator/load/load-errors.js';
import { loadModel } from '../../generator/load/load-model.js';
import { readSchema } from '../../generator/load/read-schema.js';
import { rules } from '../../generator/rules/registry.js';
import { repositoryRoot } from '../support/repository.js';

/**
 * Each file of test/generator/bad is wrong in one way and says in its first comment at which `line:column` and with
 * which code it must fail. `# as PATH` in the second line puts it in the place of another file. The files of
 * bad/support are right and stand beside every one.
 */
const bad = suite('bad examples');
const folder = join(repositoryRoot(), 'test/generator/bad');
const metas = [...readSchema(join(repositoryRoot(), 'schema'))].filter(([path]) => path.startsWith('meta/'));
const support = [...readSchema(join(folder, 'support'))];
const names = readdirSync(folder)
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => name.slice(0, -'.yaml'.length))
  .sort();

bad('the files beside the bad examples are right', () => {
  assert.equal(loadModel(new Map([...metas, ...support])).diagnostics, []);
});

bad('every rule and every load error has a bad example, and nothing else has', () => {
  const codes = [...rules.map((rule) => rule.code), ...Object.keys(loadErrors)];
  assert.equal(names, codes.sort());
});

for (const name of names) {
  bad(`${name} fails where and how its file says`, () => {
    const text = readFileSync(join(folder, `${name}.yaml`), 'utf8');
    const expected = /^# expect (\d+:\d+) ([a-z-]+): /.exec(text);
    assert.ok(expected, 'the first line says what is expected');
    const path = `${/^# as (\S+)$/m.exec(text)?.[1] ?? name}.yaml`;
    const { model, diagnostics } = loadModel(new Map([...metas, ...support, [path, text]]), 'bad');
    assert.is(model, null);
    assert.is(diagnostics.length, 1, diagnostics.map(formatDiagnostic).join('\n'));
    const [line] = diagnostics.map(formatDiagnostic);
    assert.ok(line!.startsWith(`bad/${path}:${expected[1]} ${expected[2]} `), line);
    assert.is(expected[2], name);
  });
}

bad.run();
