import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { repositoryRoot } from '../support/repository.js';

/**
 * Classes of defects that back-ends and front-ends of this protocol have had, by number. Each has a test with its number in
 * front of its name, or with other numbers before it: `C4: …`, `C1, C16: …`, `C8, packed 7: …`.
 */
const CLASSES: Record<string, string> = {
  C1: 'buffers, headers and tables over a border of regions, or past the last one',
  C2: 'fds left open, rings sized again and again',
  C3: 'an offset and a size that overflow',
  C4: 'an index narrowed before it is checked',
  C5: 'key lengths of crypto sessions',
  C6: 'a zero length whose bad address nobody checks',
  C7: 'in-flight memory asked for again and again',
  C8: 'descriptors read twice while another thread rewrites them',
  C9: 'in-flight memory for more queues than there are',
  C10: 'more fds than a message carries',
  C11: 'headers over many descriptors, chains no longer than a header',
  C12: 'offsets of an offload header beyond its packet',
  C13: 'a next out of range, loops',
  C14: 'a close in the middle of something',
  C15: 'requests that cannot be',
  C16: 'an indirect table over a border of regions',
  C17: 'GPU commands',
  C18: 'receive headers in odd memory',
  C19: 'chains kept on an error path',
  C20: 'more in flight than a ring holds',
  C21: 'descriptors of length zero',
  C22: 'a negative index',
  C23: 'more written than there is room for',
  C24: 'a dirty log and crafted descriptors',
  C25: 'a buffer over a border of regions',
  C26: 'less memory than was asked for',
  C27: 'special files',
  C28: 'SCSI passthrough',
};

const test = suite('classes of defects have their tests');

const folder = join(repositoryRoot(), 'test');
const names = readdirSync(folder, { withFileTypes: true, recursive: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith('.test.ts'))
  .map((entry) => readFileSync(join(entry.parentPath ?? entry.path, entry.name), 'utf8'))
  .flatMap((text) => [...text.matchAll(/^ *\w+\(\s*(['"`])((?:[A-Za-z]+ ?\d+, )*C\d+[:,].*?)\1/gm)])
  .map((match) => match[2]!);

for (const [number, what] of Object.entries(CLASSES)) {
  test(`${number}: ${what}`, () => {
    const pattern = new RegExp(`(^|, )${number}(, [^:]*)?:`);
    assert.ok(
      names.some((name) => pattern.test(name)),
      `no test is called "${number}: …"`,
    );
  });
}

test('no test names a class that there is none of', () => {
  for (const name of names) {
    const numbers = name.slice(0, name.indexOf(':')).match(/\bC\d+\b/g) ?? [];
    for (const number of numbers) assert.ok(number in CLASSES, name);
  }
});

test.run();
