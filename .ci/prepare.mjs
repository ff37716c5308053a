// Installs and builds whatever is missing or older than its sources, so that every npm script works straight after
// `git clone`. Plain Node on purpose: it runs before any dependency exists.
//
//   node .ci/prepare.mjs [generator]
//
// With `generator` it builds the generator alone. A schema that gained a request leaves a runtime that does not compile until
// it says what it does with it, and the schema must be open to further changes, and to being taken back, all the while.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
/** Runs a program with its output on stderr; one that fails has said why, and ends this one without a stack trace. */
const run = (file, ...args) => {
  const { status, signal, error } = spawnSync(file, args, { cwd: root, stdio: ['ignore', 2, 'inherit'] });
  if (status === 0) return;
  const missing =
    error?.code === 'ENOENT' ? 'is not installed' : (error?.message ?? `failed (${signal ?? status})`);
  console.error(
    `.ci/prepare.mjs: ${file === process.execPath ? args[0] : [file, ...args].join(' ')}: ${missing}`,
  );
  process.exit(1);
};
const time = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);

const installed = join(root, 'node_modules/.package-lock.json');
if (time(installed) < time(join(root, 'package-lock.json'))) {
  run('npm', 'ci', '--no-audit', '--no-fund');
}
const [part] = process.argv.slice(2);
// make decides by itself whether the addon is older than its sources.
if (part !== 'generator') run('make', '-s', '-C', 'native');

removeOrphans(join(root, 'build'));
run(process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, part ?? '.'));

/** Deletes compiled files whose source is gone: a removed test must not go on passing. */
function removeOrphans(folder) {
  if (!existsSync(folder)) return;
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const compiled = join(entry.parentPath ?? entry.path, entry.name);
    const stem = relative(join(root, 'build'), compiled)
      .split(sep)
      .join('/')
      .replace(/(\.d\.ts|\.js)$/, '');
    if (compiled.endsWith(stem)) continue;
    if (!existsSync(join(root, `${stem}.ts`))) rmSync(compiled);
  }
}
