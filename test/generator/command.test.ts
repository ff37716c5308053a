import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { run } from '../../generator/command.js';
import { compareFolder, filesBelow, writeFolder } from '../../generator/write.js';
import { repositoryRoot } from '../support/repository.js';

const command = suite<{ root: string }>('the generator command');
const LAYOUTS = 'schema/toy/layouts.yaml';

command.before.each((context) => {
  context.root = mkdtempSync(join(tmpdir(), 'generator-'));
  cpSync(join(repositoryRoot(), 'test/generator/golden/schema'), join(context.root, 'schema'), {
    recursive: true,
  });
  cpSync(join(repositoryRoot(), 'schema/meta'), join(context.root, 'schema/meta'), { recursive: true });
});

command.after.each((context) => rmSync(context.root, { recursive: true, force: true }));

/** Runs the command in this process. */
function call(root: string, ...args: string[]): { status: number; out: string[]; errors: string[] } {
  const out: string[] = [];
  const errors: string[] = [];
  const status = run(args, root, { out: (line) => out.push(line), error: (line) => errors.push(line) });
  return { status, out, errors };
}

function edit(root: string, path: string, from: string, to: string): void {
  const text = readFileSync(join(root, path), 'utf8');
  assert.is(text.split(from).length, 2, `${path} has ${JSON.stringify(from)} once`);
  writeFileSync(
    join(root, path),
    text.replace(from, () => to),
  );
}

command('writes everything once, and nothing the second time', ({ root }) => {
  const first = call(root);
  assert.is(first.status, 0);
  assert.ok(first.out.includes('new     generated/toy/layouts.ts'));
  const files = filesBelow(join(root, 'generated'));
  assert.is(first.out.length, files.length);

  for (const file of files) utimesSync(join(root, 'generated', file), 1000, 1000);
  assert.equal(call(root), { status: 0, out: ['generated/ is current'], errors: [] });
  for (const file of files)
    assert.is(statSync(join(root, 'generated', file)).mtimeMs, 1_000_000, `${file} is untouched`);
});

command('--check passes on what was generated, and writes nothing when there is nothing', ({ root }) => {
  const missing = call(root, '--check');
  assert.is(missing.status, 1);
  assert.ok(missing.errors.includes('missing  generated/model.json'));
  assert.not.ok(existsSync(join(root, 'generated')));

  call(root);
  assert.equal(call(root, '--check'), { status: 0, out: [], errors: [] });
});

command('--check names what is stale, missing and orphaned, and the command to run', ({ root }) => {
  call(root);
  writeFileSync(join(root, 'generated/toy/speed.ts'), '// edited by hand\n');
  rmSync(join(root, 'generated/model.json'));
  mkdirSync(join(root, 'generated/toy/old'));
  writeFileSync(join(root, 'generated/toy/old/gone.ts'), '');
  const before = filesBelow(join(root, 'generated'));

  assert.equal(call(root, '--check'), {
    status: 1,
    out: [],
    errors: [
      'stale    generated/toy/speed.ts',
      'missing  generated/model.json',
      'orphaned generated/toy/old/gone.ts',
      'generated/ is not what schema/ gives; run: npm run generate',
    ],
  });
  assert.equal(filesBelow(join(root, 'generated')), before);

  assert.equal(call(root).out, [
    'changed generated/toy/speed.ts',
    'new     generated/model.json',
    'removed generated/toy/old/gone.ts',
  ]);
  assert.not.ok(existsSync(join(root, 'generated/toy/old')), 'the folder that became empty is gone');
  assert.is(call(root, '--check').status, 0);
});

command('a change of the schema makes generated/ stale until it is generated again', ({ root }) => {
  call(root);
  edit(root, LAYOUTS, 'value: 4, ref: Parts', 'value: 5, ref: Parts');
  const { status, errors } = call(root, '--check');
  assert.is(status, 1);
  assert.ok(errors.includes('stale    generated/toy/layouts.ts'));
  assert.ok(errors.includes('stale    generated/model.json'));
  call(root);
  assert.is(call(root, '--check').status, 0);
});

command('a schema file that is removed takes its outputs with it', ({ root }) => {
  call(root);
  rmSync(join(root, 'schema/toy/requests.yaml'));
  const { status, out } = call(root);
  assert.is(status, 0);
  assert.ok(out.includes('removed generated/toy/requests.ts'));
  assert.ok(out.includes('removed generated/docs/toy/requests.md'));
});

command('a bad schema is reported as file:line:column code message, and nothing is written', ({ root }) => {
  call(root);
  const before = readFileSync(join(root, 'generated/model.json'), 'utf8');
  edit(root, LAYOUTS, 'size: 16\n    align: 8', 'size: 17\n    align: 8');
  for (const args of [[], ['--check'], ['--diff', join(root, 'generated/model.json')]]) {
    const { status, out, errors } = call(root, ...args);
    assert.is(status, 1);
    assert.equal(out, []);
    assert.ok(errors.length > 0);
    for (const line of errors) assert.match(line, /^schema\/toy\/layouts\.yaml:\d+:\d+ [a-z-]+ \S/);
  }
  assert.is(readFileSync(join(root, 'generated/model.json'), 'utf8'), before);
});

command('--diff finds nothing in a model that is the same, as JSON and as a folder', ({ root }) => {
  call(root);
  for (const old of ['generated/model.json', 'schema']) {
    const { status, out } = call(root, '--diff', join(root, old));
    assert.is(status, 0);
    assert.equal(out, ['nothing changed on the wire']);
  }
});

command('--diff reports a compatible change and succeeds, a breaking one and fails', ({ root }) => {
  call(root);
  cpSync(join(root, 'schema'), join(root, 'old'), { recursive: true });
  edit(root, 'schema/toy/requests.yaml', 'tolerated: 1', 'tolerated: 2');
  const compatible = call(root, '--diff', join(root, 'old'));
  assert.equal(compatible.out, ['compatible toy/requests lose-key: tolerated fds was 1, is 2']);
  assert.is(compatible.status, 0);

  edit(root, LAYOUTS, 'must-be: 2', 'must-be: 3');
  const breaking = call(root, '--diff', join(root, 'generated/model.json'));
  assert.is(breaking.status, 1);
  assert.ok(
    breaking.out.includes('breaking   toy/layouts toy-box.version: the constant was 2, is 3'),
    breaking.out.join('\n'),
  );
  assert.is(call(root, '--check').status, 1, 'nothing was written');
});

command('--diff refuses what is no model', ({ root }) => {
  writeFileSync(join(root, 'broken.json'), '{ "files": [');
  writeFileSync(join(root, 'other.json'), '{ "format": 0, "files": [] }');
  for (const [old, message] of [
    ['nowhere.json', /nowhere\.json: there is no such file or folder$/],
    ['broken.json', /broken\.json: .*JSON/],
    ['other.json', /other\.json: is not a model of format 1$/],
  ] as const) {
    const { status, errors } = call(root, '--diff', join(root, old));
    assert.is(status, 2);
    assert.is(errors.length, 1);
    assert.match(errors[0]!, message);
  }
});

command('--root names another folder; one without a schema is refused', ({ root }) => {
  assert.is(call('/nowhere', '--root', root).status, 0);
  const { status, errors } = call('/nowhere', '--root', join(root, 'nothing'));
  assert.is(status, 2);
  assert.match(errors[0]!, /nothing\/schema: there is no such folder$/);
});

command('--help tells every option and exits 0', ({ root }) => {
  const { status, out, errors } = call(root, '--help');
  assert.is(status, 0);
  assert.equal(errors, []);
  for (const option of ['--check', '--diff OLD', '--root DIR', '--help'])
    assert.match(out.join('\n'), option);
});

for (const args of [['--chekc'], ['extra'], ['--root'], ['--check=yes'], ['--check', '--diff', 'x']]) {
  command(`${args.join(' ')} is refused with exit status 2 before anything is read`, () => {
    const { status, out, errors } = call('/nowhere', ...args);
    assert.is(status, 2);
    assert.equal(out, []);
    assert.is(errors.length, 1);
    assert.match(errors[0]!, /see --help$/);
  });
}

command('the program passes its arguments on and sets the exit status', ({ root }) => {
  const program = join(dirname(fileURLToPath(import.meta.url)), '../../generator/cli.js');
  const ran = (...args: string[]) => spawnSync(process.execPath, [program, ...args], { encoding: 'utf8' });
  assert.is(ran('--root', root).status, 0);
  assert.is(ran('--check', '--root', root).status, 0);
  rmSync(join(root, 'generated/index.ts'));
  const failed = ran('--check', '--root', root);
  assert.is(failed.status, 1);
  assert.is(failed.stdout, '');
  assert.match(failed.stderr, /^missing {2}generated\/index\.ts\n.*npm run generate\n$/s);
  assert.is(ran('--unknown').status, 2);
});

command('a file that stands where a folder is to be is replaced', ({ root }) => {
  const folder = join(root, 'out');
  writeFolder(folder, [{ path: 'a', text: 'file' }]);
  writeFolder(folder, [{ path: 'a/b', text: 'below' }]);
  assert.equal(filesBelow(folder), ['a/b']);
  assert.equal(compareFolder(folder, [{ path: 'a/b', text: 'below' }]), {
    stale: [],
    missing: [],
    orphaned: [],
  });
});

command('says in one line what the file system refuses', ({ root }) => {
  writeFileSync(join(root, 'generated'), 'a file, not a folder');
  const { status, errors } = call(root);
  assert.is(status, 2);
  assert.is(errors.length, 1);
  assert.match(errors[0]!, /ENOTDIR.*generated/);
});

command('refuses a model to compare with that is not whole', ({ root }) => {
  const old = join(root, 'old.json');
  for (const file of [1, {}, { path: 'a', kind: 'layouts' }, { path: 'a', kind: 'other' }]) {
    writeFileSync(old, JSON.stringify({ format: 1, files: [file] }));
    assert.equal(call(root, '--diff', old), {
      status: 2,
      out: [],
      errors: [`${old}: is not a model of format 1`],
    });
  }
});

command('refuses a schema that is not UTF-8, where it is not', ({ root }) => {
  writeFileSync(join(root, LAYOUTS), Buffer.from('kind: layouts\ndoc: \xff.\n', 'latin1'));
  const { status, errors } = call(root);
  assert.is(status, 1);
  assert.is(errors[0], `${LAYOUTS}:2:6 yaml-syntax the file is not UTF-8`);
});

command.run();
