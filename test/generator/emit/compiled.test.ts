import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { lookupOf } from '../../../generator/emit/lookup.js';
import type { LayoutsFile } from '../../../generator/model/types.js';
import { pascalCase } from '../../../generator/names.js';
import { type Accessors, checkAccessors } from '../../support/accessor-checks.js';
import { type CodecCase, codecChecks } from '../../support/codec-checks.js';
import { CompiledToy } from '../../support/compiled-toy.js';
import { toyModel } from '../../support/toy-schema.js';

/** What the goldens say, at work: the toy schema's modules are compiled under the project's strict options and used. */
const compiled = suite('generated code of the toy schema');
const model = toyModel();
const lookup = lookupOf(model);
const toy = new CompiledToy(model);
const complaints = toy.compile();
const generated = await toy.load();
const layouts = model.files.find((file): file is LayoutsFile => file.kind === 'layouts')!;

compiled.after(() => toy.remove());

compiled('type-checks under strict options', () => {
  assert.is(complaints, '');
});

for (const struct of layouts.structs.filter((each) => each.form !== 'offsets')) {
  const parameters = { 'num-cups': 3 };
  const made = generated[pascalCase(struct.name)];
  const codec = (
    typeof made === 'function' ? made(...struct.params.map(() => 3)) : made
  ) as CodecCase['codec'];
  for (const [claim, check] of Object.entries(codecChecks)) {
    compiled(`${struct.name}: ${claim}`, () => check({ codec, struct, lookup, parameters }));
  }
}

for (const struct of layouts.structs.filter((each) => each.form !== 'record')) {
  compiled(`${struct.name}: every accessor reads and writes the bytes that the schema states`, () => {
    checkAccessors(generated[pascalCase(struct.name)] as Accessors, struct, lookup);
  });
}

compiled('a list of the wrong length for a parameter or a fixed number is refused on encoding', () => {
  const Tray = generated['ToyTray'] as (cups: number) => CodecCase['codec'];
  assert.throws(
    () => Tray(3).encode(null!, { id: 1, cups: [1, 2] }),
    /toy-tray\.cups: has 2 elements, must have 3/,
  );
  const Box = generated['ToyBox'] as CodecCase['codec'];
  const box = { default: 0, marks: 0n, corners: [1, 2, 3], parts: [] };
  assert.throws(() => Box.encode(null!, box), /toy-box\.corners: has 3 elements, must have 4/);
});

compiled('a type guard knows the listed numbers only', () => {
  const isToyColour = generated['isToyColour'] as (value: number) => boolean;
  assert.equal([0, 1, 2, 3, 4, 5].filter(isToyColour), [1, 4]);
});

const HANDLERS = `
  import type { ToyRequestHandlers } from './generated/index.js';
  export const handlers: ToyRequestHandlers<string, number[]> = {
    getOptions: (context, payload, fds) => BigInt(context.length + fds.length) + (payload === undefined ? 1n : 0n),
    makeBox: async (_, box) => ({ id: new Uint8Array(8), text: Uint8Array.from(box.corners) }),
    setKey: (_, key) => void key.toString(16),
    loseKey() {},
  };`;

compiled('a full handler map compiles, with payloads and replies typed', () => {
  assert.is(toy.compile(HANDLERS), '');
});

compiled('a handler map that lacks a request does not compile', () => {
  assert.match(toy.compile(HANDLERS.replace('loseKey() {},', '')), /Property 'loseKey' is missing/);
});

compiled('a handler that replies with the wrong payload does not compile', () => {
  assert.match(toy.compile(HANDLERS.replace('? 1n : 0n', '? 1 : 0')), /error TS/);
});

compiled('a number outside a closed set does not compile, one outside an open set does', () => {
  const part = (shape: number, colour: number) =>
    `import type { ToyPart } from './generated/index.js';
     export const part: ToyPart = { shape: ${shape}, flags: 0, colour: ${colour} };`;
  assert.is(toy.compile(part(77, 4)), '');
  assert.match(toy.compile(part(77, 3)), /Type '3' is not assignable to type 'ToyColour'/);
});

compiled(
  'small signed numbers, and records of nothing but constants and padding, have codecs that compile',
  () => {
    const more = `kind: layouts
name: more
source: { id: example, title: An example, revision: v1.0 }
byte-order: little
doc: What a comment may hold, as /* and */ and // here.
structs:
  - name: signed-numbers
    form: record
    size: 3
    align: 1
    ref: Example
    written-by: both
    doc: Small signed numbers, of any place/* in a comment */.
    fields:
      - { name: left, type: i8, offset: 0, doc: Left. }
      - { name: right, type: i16, offset: 1, doc: Right. }
  - name: nothing-but-constants
    form: record
    size: 2
    align: 1
    ref: Example
    written-by: both
    doc: No value at all.
    fields:
      - { name: version, type: u8, offset: 0, must-be: 2, doc: Version. }
      - { name: padding, type: u8, offset: 1, ignored: true }
`;
    const other = new CompiledToy(toyModel((texts) => texts.set('toy/more.yaml', more)));
    const use = `
    import { decodeExactly, encodeToBytes, NothingButConstants, SignedNumbers } from './generated/index.js';
    const bytes = encodeToBytes(SignedNumbers, { left: -3, right: -300 });
    const { left, right } = decodeExactly(SignedNumbers, bytes);
    export const all = [...bytes, left, right, ...encodeToBytes(NothingButConstants, {})];`;
    try {
      assert.is(other.compile(use), '');
      const header = join(other.folder, 'generated/c/vhost_user_schema.h');
      execFileSync('g++', ['-x', 'c++', '-Wall', '-Wextra', '-Werror', '-fsyntax-only', header], {
        stdio: 'pipe',
      });
    } finally {
      other.remove();
    }
  },
);

compiled.run();
