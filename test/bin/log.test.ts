import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createLog, describeError, LOG_LEVELS, type LogLevel } from '../../runtime/bin/log.js';
import { DeviceError } from '../../runtime/errors.js';
import { systemError } from '../../runtime/platform/linux-errors.js';

const test = suite('the log');

const lines = (limit: LogLevel, use: (log: ReturnType<typeof createLog>) => void): string[] => {
  const written: string[] = [];
  use(createLog(limit, (line) => written.push(line.replace(/^time=\S+ /, ''))));
  return written;
};

for (const [i, limit] of LOG_LEVELS.entries()) {
  test(`at level ${limit} writes that and graver ones`, () => {
    const written = lines(limit, (log) => LOG_LEVELS.forEach((level) => log(level, 'x')));
    assert.equal(
      written,
      LOG_LEVELS.slice(0, i + 1).map((level) => `level=${level} message=x\n`),
    );
  });
}

test('starts each line with the time', () => {
  let line = '';
  createLog('info', (text) => (line = text))('info', 'x');
  assert.match(line, /^time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info message=x\n$/);
});

test('one event is one line, whatever its values contain', () => {
  const written = lines('debug', (log) => {
    log('warn', 'a "word"\nand a line', {
      number: -5,
      big: 2n ** 64n,
      text: 'a=b',
      escape: '\u001b[31m',
      nothing: undefined,
      list: [1, 2n],
      error: new Error('outer\nline', { cause: new Error('inner') }),
    });
  });
  assert.equal(written, [
    'level=warn message="a \\"word\\"\\nand a line" number=-5 big=18446744073709551616 text="a=b" ' +
      'escape="\\u001b[31m" nothing=undefined list="[1,\\"2\\"]" error="outer line: inner"\n',
  ]);
});

test('what the system refused is told once, in the words that fit the call', () => {
  const cause = new Error('Block device required');
  const meanings = { ENOTBLK: 'it is no disk' };
  const refused = systemError('open /dev/zero', 'open', 15, { cause, meanings });
  const text = 'cannot open /dev/zero: it is no disk (ENOTBLK from open)';
  assert.is(describeError(refused), text);
  assert.is(describeError(new Error('no image', { cause: refused })), `no image: ${text}`);
});

test('an error is told with its causes, each once', () => {
  const inner = new Error('No such file');
  const middle = new Error('open /image: no such file', { cause: inner });
  const outer = new DeviceError('ERR_DEVICE_FAILED', 'cannot serve', { cause: middle });
  assert.is(describeError(outer), 'cannot serve: open /image: no such file');
  assert.is(describeError('a word'), 'a word');
  const loop = new Error('round');
  loop.cause = loop;
  assert.is(describeError(loop), 'round');
});

test.run();
