import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { formatChange } from '../../generator/diff/change.js';
import { diffModels } from '../../generator/diff/index.js';
import { replaceOnce, toyModel } from '../support/toy-schema.js';

const diff = suite('what changed on the wire');
const LAYOUTS = 'toy/layouts.yaml';
const REQUESTS = 'toy/requests.yaml';
const OPTIONS = 'toy/options.yaml';

/** A change of the toy schema and what is said of it, in both directions of time. */
interface Case {
  readonly claim: string;
  readonly edit: (texts: Map<string, string>) => void;
  readonly forward: readonly string[];
  readonly back: readonly string[];
}

const replace =
  (path: string, ...pairs: readonly (readonly [string, string])[]) =>
  (texts: Map<string, string>): void => {
    for (const [from, to] of pairs) replaceOnce(texts, path, from, to);
  };

const cases: readonly Case[] = [
  {
    claim: 'texts and provenance are not on the wire',
    edit: replace(
      LAYOUTS,
      ['doc: What is written on a box.', 'doc: Writing.'],
      ['since: v1.0', 'since: v1.1'],
    ),
    forward: [],
    back: [],
  },
  {
    claim: 'a new request is compatible, a removed one is breaking',
    edit: replace(REQUESTS, [
      'reserved:',
      '  - { name: sing, id: 6, ref: Requests, reply: ack, doc: Sings. }\nreserved:',
    ]),
    forward: ['compatible toy/requests sing: request 6 is new'],
    back: ['breaking   toy/requests sing: request 6 was removed'],
  },
  {
    claim: 'a request that changes its id is breaking',
    edit: replace(
      REQUESTS,
      ['name: lose-key\n    id: 5', 'name: lose-key\n    id: 6'],
      ['reserved:', 'reserved:\n  - { id: 5, why: Was lose-key. }'],
    ),
    forward: ['breaking   toy/requests lose-key: request 5 has id 6 now'],
    back: ['breaking   toy/requests lose-key: request 6 has id 5 now'],
  },
  {
    claim: 'a request that is called otherwise is compatible',
    edit: replace(REQUESTS, ['name: lose-key', 'name: drop-key']),
    forward: [
      'compatible toy/requests drop-key: the specification name was TOY_LOSE_KEY, is TOY_DROP_KEY',
      'compatible toy/requests drop-key: the name was lose-key, is drop-key',
    ],
    back: [
      'compatible toy/requests lose-key: the specification name was TOY_DROP_KEY, is TOY_LOSE_KEY',
      'compatible toy/requests lose-key: the name was drop-key, is lose-key',
    ],
  },
  {
    claim: 'a further need is breaking, one less is compatible',
    edit: replace(REQUESTS, ['protocol: [paint, gloss], excludes', 'protocol: [paint], excludes']),
    forward: ['compatible toy/requests make-box: no longer needs bit 3 of toy/options'],
    back: ['breaking   toy/requests make-box: now needs bit 3 of toy/options'],
  },
  {
    claim: 'another payload is breaking',
    edit: replace(REQUESTS, ['request: u64', 'request: toy-note'], [', absent-if-bit: 8', '']),
    forward: [
      'breaking   toy/requests set-key: the payload was u64, is toy-note, laid out otherwise',
      'breaking   toy/requests set-key: the bit for no fd was 8, is null',
    ],
    back: [
      'breaking   toy/requests set-key: the payload was toy-note, is u64, laid out otherwise',
      'breaking   toy/requests set-key: the bit for no fd was null, is 8',
    ],
  },
  {
    claim: 'another reply is breaking',
    edit: replace(REQUESTS, ['reply: { payload: none }', 'reply: { payload: none, empty: success }']),
    forward: ['breaking   toy/requests lose-key: the reply rule changed'],
    back: ['breaking   toy/requests lose-key: the reply rule changed'],
  },
  {
    claim: 'a new feature bit is compatible, a removed one is breaking',
    edit: replace(OPTIONS, [
      '  - { name: paint, bit: 0',
      '  - { name: glue, bit: 2, ref: Options, doc: Sticks. }\n  - { name: paint, bit: 0',
    ]),
    forward: ['compatible toy/options glue: bit 2 is new'],
    back: ['breaking   toy/options glue: bit 2 was removed'],
  },
  {
    claim: 'a feature bit that moves is breaking',
    edit: replace(OPTIONS, ['bit: 40', 'bit: 41']),
    forward: [
      'breaking   toy/requests make-box: is now forbidden by bit 41 of toy/options',
      'compatible toy/requests make-box: is no longer forbidden by bit 40 of toy/options',
      'breaking   toy/options depth: bit 40 moved to bit 41',
    ],
    back: [
      'breaking   toy/requests make-box: is now forbidden by bit 40 of toy/options',
      'compatible toy/requests make-box: is no longer forbidden by bit 41 of toy/options',
      'breaking   toy/options depth: bit 41 moved to bit 40',
    ],
  },
  {
    claim: 'a dependency of a feature is breaking when it comes, compatible when it goes',
    edit: replace(OPTIONS, ['{ protocol: [paint], virtio: [fast] }', '{ protocol: [paint] }']),
    forward: ['compatible toy/options gloss: no longer needs toy/speed 63'],
    back: ['breaking   toy/options gloss: now needs toy/speed 63'],
  },
  {
    claim: 'a constant with another value is breaking',
    edit: replace(LAYOUTS, ['value: 4, ref: Parts', 'value: 5, ref: Parts']),
    forward: ['breaking   toy/layouts max-parts: the value was 4, is 5'],
    back: ['breaking   toy/layouts max-parts: the value was 5, is 4'],
  },
  {
    claim: 'a member more is compatible in an open set, either way breaking in a closed one',
    edit: replace(
      LAYOUTS,
      ['- { name: ball, value: 0', '- { name: ball, value: 0, doc: Round. }\n      - { name: cube, value: 1'],
      [
        '- { name: blue, value: 4',
        '- { name: green, value: 3, doc: Green. }\n      - { name: blue, value: 4',
      ],
    ),
    forward: [
      'breaking   toy/layouts toy-colour.green: 3 is new, and who knows the closed set of before refuses it',
      'compatible toy/layouts toy-shape.cube: 1 is new',
    ],
    back: [
      'breaking   toy/layouts toy-colour.green: 3 was removed',
      'breaking   toy/layouts toy-shape.cube: 1 was removed',
    ],
  },
  {
    claim: 'a set that opens is compatible, one that closes is breaking',
    edit: replace(LAYOUTS, ['type: u16\n    open: false', 'type: u16\n    open: true']),
    forward: ['compatible toy/layouts toy-flag: open was false, is true'],
    back: ['breaking   toy/layouts toy-flag: open was true, is false'],
  },
  {
    claim: 'a higher limit is compatible, a lower one is breaking',
    edit: replace(LAYOUTS, ['{ field: len-text, max: 16 }', '{ field: len-text, max: 20 }']),
    forward: ['compatible toy/layouts toy-note.text: the limit was 16, is 20'],
    back: ['breaking   toy/layouts toy-note.text: the limit was 20, is 16'],
  },
  {
    claim: 'a field with another name at its place is compatible',
    edit: replace(LAYOUTS, ['{ name: corners,', '{ name: edges,']),
    forward: ['compatible toy/layouts toy-box.edges: the name was corners, is edges'],
    back: ['compatible toy/layouts toy-box.corners: the name was edges, is corners'],
  },
  {
    claim: 'ranges of bits that move in a field are breaking, though its bytes are the same',
    edit: replace(LAYOUTS, [
      'offset: 4, doc: A word that the language has taken. }',
      'offset: 4, doc: A word that the language has taken., parts: [{ name: low, low-bit: 0, width: 4, doc: Low. }] }',
    ]),
    forward: ['breaking   toy/layouts toy-box.default: its parts was none, is low 0+4'],
    back: ['breaking   toy/layouts toy-box.default: its parts was low 0+4, is none'],
  },
  {
    claim: 'a closed enumeration for a field is breaking when it comes, compatible when it goes',
    edit: replace(LAYOUTS, ['offset: 10, enum: toy-colour, doc: Which.', 'offset: 10, doc: Which.']),
    forward: ['compatible toy/layouts toy-slot.colour: its enumeration was toy-colour, is none'],
    back: ['breaking   toy/layouts toy-slot.colour: its enumeration was none, is toy-colour'],
  },
  {
    claim: 'a structure with another name and the same bytes is compatible',
    edit: replace(LAYOUTS, ['name: toy-note', 'name: toy-remark']),
    forward: [
      'compatible toy/layouts toy-note: the structure is called toy-remark now',
      'compatible toy/layouts toy-remark: the structure is new',
    ],
    back: [
      'compatible toy/layouts toy-remark: the structure is called toy-note now',
      'compatible toy/layouts toy-note: the structure is new',
    ],
  },
  {
    claim: 'a field of another type is breaking',
    edit: replace(LAYOUTS, ['{ name: default, type: i32', '{ name: default, type: u32']),
    forward: ['breaking   toy/layouts toy-box.default: the type was i32 of 4 bytes, is u32 of 4 bytes'],
    back: ['breaking   toy/layouts toy-box.default: the type was u32 of 4 bytes, is i32 of 4 bytes'],
  },
  {
    claim: 'a queue more is compatible, one that moved is breaking',
    edit: replace(LAYOUTS, [
      'spec-name: toyq, index: 1, repeats: true',
      'spec-name: toyq, index: 2, repeats: true',
    ]),
    forward: ['breaking   toy/layouts toys: the queue index was 1, is 2'],
    back: ['breaking   toy/layouts toys: the queue index was 2, is 1'],
  },
];

const old = toyModel();

for (const { claim, edit, forward, back } of cases) {
  diff(claim, () => {
    const now = toyModel(edit);
    assert.equal(diffModels(old, now).map(formatChange).sort(), [...forward].sort());
    assert.equal(diffModels(now, old).map(formatChange).sort(), [...back].sort());
  });
}

diff('a field where padding was is compatible, and breaking when it goes', () => {
  const now = toyModel(
    replace(LAYOUTS, [
      '{ name: padding, type: u8, offset: 7, ignored: true }',
      '{ name: weight, type: u8, offset: 7, doc: Weight. }',
    ]),
  );
  const said = diffModels(old, now).map(formatChange);
  assert.equal(said, ['compatible toy/layouts toy-part.weight: the field is new, where padding was']);
  assert.ok(
    diffModels(now, old)
      .map(formatChange)
      .includes('breaking   toy/layouts toy-part.weight: the field was removed'),
  );
});

diff('a file that comes is compatible, one that goes or changes its kind is breaking', () => {
  const now = { files: old.files.filter((file) => file.path !== 'toy/requests') };
  assert.equal(diffModels(old, now).map(formatChange), ['breaking   toy/requests: the file was removed']);
  assert.equal(diffModels(now, old).map(formatChange), ['compatible toy/requests: the file is new']);
  const speed = old.files.find((file) => file.path === 'toy/speed')!;
  const turned = {
    files: old.files.map((file) => (file.path === 'toy/requests' ? { ...speed, path: file.path } : file)),
  };
  assert.equal(diffModels(old, turned).map(formatChange), [
    'breaking   toy/requests: the kind was messages, is features',
  ]);
});

diff(
  'native byte order is little-endian everywhere, so that changing between the two changes nothing',
  () => {
    const now = toyModel(replace(LAYOUTS, ['byte-order: little', 'byte-order: native']));
    assert.equal(diffModels(old, now), []);
  },
);

diff.run();
