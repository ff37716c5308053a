import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadModel } from '../../generator/load/load-model.js';
import { WIRE_EXPORTS } from '../../generator/names.js';
import { repositoryRoot } from '../support/repository.js';
import { toyTexts } from '../support/toy-schema.js';

/** What no emitter could make sense of is refused before one sees it, at the place where it is written. */
const refused = suite('schemas that are refused');

const SOURCE = "name: extra\nsource: { id: example, title: An example, revision: '1.0' }\n";
const LAYOUTS = `kind: layouts\n${SOURCE}byte-order: little\ndoc: An example.\n`;

/** The diagnostics of one more file beside the toy schema, as `line:column code`. */
function diagnosticsOf(text: string, path = 'toy/extra.yaml'): string[] {
  const { model, diagnostics } = loadModel(toyTexts().set(path, text));
  assert.is(model === null, diagnostics.length > 0);
  return diagnostics.map(({ line, column, code }) => `${line}:${column} ${code}`);
}

interface Shape {
  readonly name?: string;
  readonly form?: string;
  readonly size: number | string;
  readonly align?: number;
}

/** A struct whose fields begin in line 15. */
function struct(
  { name = 'extra-struct', form = 'record', size, align = 1 }: Shape,
  ...fields: string[]
): string {
  const head = `form: ${form}\n    size: ${size}\n    align: ${align}\n    ref: Example`;
  const list = fields.map((field) => `      - { ${field} }\n`).join('');
  return `${LAYOUTS}structs:\n  - name: ${name}\n    ${head}\n    written-by: both\n    doc: A struct.\n    fields:\n${list}`;
}

const request = (id: number) =>
  `kind: messages\n${SOURCE}direction: front-end-to-back-end\nprefix: EXTRA_\ndoc: An example.\nrequests:\n` +
  `  - { name: extra, id: ${id}, ref: Example, reply: ack, doc: A request. }\n`;

for (const name of ['size', 'align', 'offset', 'decode', 'min-size']) {
  refused(`a field that is called ${name}, as a member of the object with its accessor is`, () => {
    const text = struct(
      { form: 'offsets', size: 4, align: 4 },
      `name: ${name}, type: u32, offset: 0, doc: A field.`,
    );
    assert.equal(diagnosticsOf(text), ['15:17 names-unique']);
  });
}

refused('a field whose getter is called as the setter of another', () => {
  const text = struct(
    { form: 'offsets', size: 8, align: 4 },
    'name: addr, type: u32, offset: 0, doc: A field.',
    'name: set-addr, type: u32, offset: 4, doc: A field.',
  );
  assert.equal(diagnosticsOf(text), ['16:17 names-unique']);
});

for (const name of ['codec', 'feature-table', 'wire-reader', 'request-row']) {
  refused(`a struct that is called ${name}, as something of the wire layer is`, () => {
    const text = struct({ name, size: 1 }, 'name: left, type: u8, offset: 0, doc: A field.');
    assert.equal(diagnosticsOf(text), ['7:11 names-unique']);
  });
}

refused('names of the wire layer are known to the generator, all of them', () => {
  const index = readFileSync(join(repositoryRoot(), 'runtime/wire/index.ts'), 'utf8');
  const exported = [...index.matchAll(/export (?:type )?\{([^}]*)\}/g)].flatMap(([, list]) =>
    list!.split(',').map((each) => each.replace(/\btype\b/, '').trim()),
  );
  assert.equal([...WIRE_EXPORTS].sort(), exported.filter(Boolean).sort());
});

refused('an i64 that needs an accessor', () => {
  const text = struct(
    { form: 'offsets', size: 8, align: 8 },
    'name: left, type: i64, offset: 0, doc: A field.',
  );
  assert.equal(diagnosticsOf(text), ['15:29 accessors-possible']);
});

refused('a list or a u64 that is to be read in order', () => {
  for (const field of [
    'type: u64, offset: 0, access: acquire',
    'type: u32, offset: 0, access: acquire, count: 2',
  ]) {
    const text = struct({ form: 'offsets', size: 8, align: 8 }, `name: left, ${field}, doc: A field.`);
    assert.equal(diagnosticsOf(text), ['15:53 accessors-possible']);
  }
});

refused('padding without a fixed size, and padding that counts', () => {
  const padding = struct(
    { size: '1 + left' },
    'name: left, type: u8, offset: 0, doc: A field.',
    'name: rest, type: bytes, offset: 1, ignored: true, length: { field: left, max: 4 }',
  );
  assert.equal(diagnosticsOf(padding), ['16:70 codec-possible']);
  const counter = struct(
    { size: '1 + left' },
    'name: left, type: u8, offset: 0, ignored: true',
    'name: rest, type: bytes, offset: 1, length: { field: left, max: 4 }, doc: A field.',
  );
  assert.equal(diagnosticsOf(counter), ['15:53 codec-possible']);
});

refused('a limit above what the counting field can say', () => {
  const text = struct(
    { size: '1 + left' },
    'name: left, type: u8, offset: 0, doc: A field.',
    'name: rest, type: bytes, offset: 1, length: { field: left, max: 256 }, doc: A field.',
  );
  assert.equal(diagnosticsOf(text), ['16:55 count-has-max']);
});

refused('two spellings that are one macro in C, with two numbers', () => {
  const constant = (name: string, spelling: string, value: number) =>
    `  - { name: ${name}, spec-name: ${spelling}, value: ${value}, ref: Example, doc: A number. }\n`;
  const text = `${LAYOUTS}constants:\n${constant('extra-one', 'ONE-A', 1)}${constant('extra-two', 'ONE_A', 2)}`;
  assert.equal(diagnosticsOf(text), ['8:5 spec-names-agree']);
});

refused('a number that would be rounded', () => {
  const constant =
    '{ name: extra-one, spec-name: ONE, value: 9007199254740993, ref: Example, doc: A number. }';
  assert.equal(diagnosticsOf(`${LAYOUTS}constants:\n  - ${constant}\n`), ['7:47 wrong-value']);
});

refused('an id that the header cannot hold', () => {
  assert.equal(diagnosticsOf(request(2 ** 32)), ['8:24 wrong-value']);
});

refused('an id far above its neighbours, at once and in one line', () => {
  const { diagnostics } = loadModel(toyTexts().set('toy/extra.yaml', request(2 ** 32 - 1)));
  assert.equal(
    diagnostics.map(({ code, message }) => `${code}: ${message}`),
    ['ids-dense-or-reserved: before id 4294967295, 0 to 4294967294 is nothing'],
  );
});

for (const path of [
  'index.yaml',
  'Toy/extra.yaml',
  'toy/a b.yaml',
  'toy/ä.yaml',
  'toy/extra.yml',
  'toy/.yaml',
]) {
  refused(`a file called ${path}`, () => {
    assert.equal(diagnosticsOf(LAYOUTS, path), ['1:1 file-name']);
  });
}

refused('big-endian layouts, which no codec can read', () => {
  assert.equal(diagnosticsOf(LAYOUTS.replace('little', 'big')), ['4:13 wrong-value']);
});

refused('a file of requests without file descriptors is right', () => {
  assert.equal(diagnosticsOf(request(0)), []);
});

refused.run();
