import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  choiceOption,
  describeOptions,
  integerOption,
  type OptionTable,
  parseOptions,
  sizeOption,
} from '../../runtime/bin/option-table.js';
import type { OptionError } from '../../runtime/errors.js';

const table = {
  path: { value: 'PATH', help: 'a path' },
  quiet: { help: 'say nothing' },
} as const satisfies OptionTable;

const test = suite('options');

const throwsWith = (run: () => unknown, code: OptionError['code'], message: RegExp): void => {
  assert.throws(run, (error: OptionError) => {
    assert.is(error.code, code);
    assert.match(error.message, message);
    assert.not.match(error.message, /\n/);
    return true;
  });
};

test('take their value after an equals sign or as the next argument', () => {
  assert.is(parseOptions(table, ['--path=a=b']).path, 'a=b');
  assert.is(parseOptions(table, ['--path', 'a']).path, 'a');
  assert.is(parseOptions(table, ['--path=']).path, '');
  assert.is(parseOptions(table, ['--path=--quiet']).path, '--quiet');
});

test('are absent, or a switch is true; the last of several counts', () => {
  assert.is(parseOptions(table, []).quiet, undefined);
  assert.is(parseOptions(table, ['--quiet']).quiet, true);
  assert.is(parseOptions(table, ['--path=a', '--path=b']).path, 'b');
});

test('that are wrong fail with one line', () => {
  throwsWith(() => parseOptions(table, ['--bogus']), 'ERR_OPTION_UNKNOWN', /'--bogus'/);
  throwsWith(() => parseOptions(table, ['-q']), 'ERR_OPTION_UNKNOWN', /'-q'/);
  throwsWith(() => parseOptions(table, ['word']), 'ERR_OPTION_UNKNOWN', /'word'/);
  for (const args of [['--path'], ['--path', '--quiet']]) {
    throwsWith(() => parseOptions(table, args), 'ERR_OPTION_MISSING', /^--path needs a value: --path=PATH$/);
  }
  throwsWith(() => parseOptions(table, ['--quiet=1']), 'ERR_OPTION_VALUE', /--quiet/);
});

test('are described one a line', () => {
  assert.is(describeOptions(table), '  --path=PATH  a path\n  --quiet      say nothing\n');
});

test('hold whole numbers within limits', () => {
  assert.is(integerOption('n', undefined, [1, 9], 4), 4);
  assert.is(integerOption('n', '9', [1, 9], 4), 9);
  for (const text of ['0', '10', '', ' 1', '1.5', '-1', '0x1', '1e0', '99999999999999999999']) {
    throwsWith(() => integerOption('n', text, [1, 9], 4), 'ERR_OPTION_VALUE', /^--n: .* from 1 to 9$/);
  }
});

test('hold sizes with units of 1024', () => {
  const sizes: [string, bigint][] = [
    ['512', 512n],
    ['1k', 1024n],
    ['512K', 524288n],
    ['64M', 67108864n],
    ['2G', 2147483648n],
    ['3T', 3298534883328n],
  ];
  for (const [text, size] of sizes) assert.is(sizeOption('memory', text), size);
  for (const text of ['', 'K', '0', '0G', '1X', '1KB', '-1', '1.5G', ' 1', '1e3']) {
    throwsWith(() => sizeOption('memory', text), 'ERR_OPTION_VALUE', /^--memory: /);
  }
});

test('hold one of a few words', () => {
  assert.is(choiceOption('c', undefined, ['a', 'b'], 'b'), 'b');
  assert.is(choiceOption('c', 'a', ['a', 'b'], 'b'), 'a');
  throwsWith(() => choiceOption('c', 'd', ['a', 'b'], 'b'), 'ERR_OPTION_VALUE', /"d" is none of a, b/);
});

test.run();
