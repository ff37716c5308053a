import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const test = suite('the commands of tests and benches');

const refused: [command: string, args: string[], message: RegExp][] = [
  ['run', ['--bogus'], /'--bogus'/],
  ['run', ['--jobs=x'], /--jobs: expected a whole number from 1 on, got x/],
  ['fuzz/run', ['extra'], /'extra'/],
  ['fuzz/run', ['--kind=split,bogus'], /--kind: expected some of .*split.*, got bogus/],
  ['fuzz/run', ['--seconds=0'], /--seconds/],
  ['crash/run', ['--kills=x'], /--kills/],
  ['crash/run', ['--mode=lost'], /--mode: expected some of tracked, reissued, got lost/],
  ['crash/run', ['--only=nothing'], /--only/],
  ['matrix/run', ['--rounds=0'], /--rounds/],
  ['bench/run', ['bogus'], /usage: .*blk\|net/],
  ['bench/run', ['ring', '--slow'], /'--slow'/],
  ['bench/run', ['blk', '--medium=tape'], /--medium: expected some of null, tmpfs, page cache, got tape/],
  ['bench/run', ['net', '--direction=up'], /--direction/],
  ['bench/run', ['safety', '--memory'], /'--memory'/],
  ['bench/run', ['start', '--poll'], /'--poll'/],
];
for (const [command, args, message] of refused) {
  test(`${command} ${args.join(' ')}: status 2 and one line, instead of a run of something else`, () => {
    const path = fileURLToPath(new URL(`../${command}.js`, import.meta.url));
    const { status, stdout, stderr } = spawnSync(process.execPath, [path, ...args], { encoding: 'utf8' });
    assert.equal([status, stdout], [2, ''], stderr);
    assert.match(stderr, message);
    assert.match(stderr, /^[^\n]+\n$/);
  });
}

test.run();
