/**
 * Runs the compiled tests, each file in a process of its own: a crash in the addon or a leaked handle belongs to one
 * file, and counts of open fds mean something.
 *
 *   node build/test/run.js [--interop] [--jobs=N] [pattern …]
 *
 * Patterns are parts of file names, all of which a file has. The last line is `N passed, N failed`; a skipped test counts as failed, since a
 * test that may be left out proves nothing.
 */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import { readCommandLine, wholeNumber } from './support/command-line.js';

/** A hung file is a failure, not a hung suite. Guests without KVM take minutes, other tests seconds, on a busy machine minutes too. */
const FILE_LIMIT_MS = { unit: 10 * 60_000, interop: 15 * 60_000 };

interface FileResult {
  readonly file: string;
  readonly passed: number;
  readonly failed: number;
  readonly output: string;
}

const { values, positionals } = readCommandLine({
  options: { interop: { type: 'boolean', default: false }, jobs: { type: 'string' } },
  allowPositionals: true,
});
const folder = fileURLToPath(new URL('.', import.meta.url));
const files = testFiles(folder).filter((file) => {
  const isInterop = relative(folder, file).startsWith('interop/');
  return isInterop === values.interop && positionals.every((pattern) => file.includes(pattern));
});
const jobs =
  values.jobs !== undefined
    ? wholeNumber('jobs', values.jobs, 1)
    : values.interop
      ? 1
      : Math.min(4, availableParallelism());
const results = await runAll(files, jobs);

let passed = 0;
let failed = 0;
for (const result of results) {
  passed += result.passed;
  failed += result.failed;
}
const failures = results.filter((each) => each.failed > 0);
for (const { file, output } of failures) console.log(`\n--- ${file}\n${output}`);
console.log(`\n${files.length} files on Node ${process.versions.node}`);
// Once more and short, where whoever sees only the end of a log looks.
for (const { file, output } of failures) {
  for (const name of output.match(/^ *FAIL .*$/gm) ?? ['no test named'])
    console.log(`${file}: ${name.trim()}`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;

function testFiles(from: string): string[] {
  return readdirSync(from, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.test.js'))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

async function runAll(queue: readonly string[], width: number): Promise<FileResult[]> {
  const finished: FileResult[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < queue.length) {
      const result = await runFile(queue[next++]!);
      const verdict = result.failed > 0 ? 'FAIL' : 'ok  ';
      console.log(`${verdict} ${result.file}  ${result.passed} passed, ${result.failed} failed`);
      finished.push(result);
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, width) }, worker));
  return finished;
}

function runFile(path: string): Promise<FileResult> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--expose-gc', path], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: '0' },
      detached: true,
    });
    const limit = FILE_LIMIT_MS[values.interop ? 'interop' : 'unit'];
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const timer = setTimeout(() => {
      output += `\nstopped: not finished after ${limit / 1000} s\n`;
      // The whole process group: an interop test has QEMU below it.
      process.kill(-child.pid!, 'SIGKILL');
    }, limit);
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      resolve(judge(relative(folder, path), output, status, signal));
    });
  });
}

/** Reads uvu's closing lines; a file that ends without them, or not with status 0, has failed. */
function judge(file: string, raw: string, status: number | null, signal: string | null): FileResult {
  const output = stripVTControlCharacters(raw);
  const count = (label: string): number => Number(new RegExp(`${label}:\\s+(\\d+)`).exec(output)?.[1] ?? 0);
  const total = count('Total');
  const passedHere = count('Passed');
  let failedHere = total - passedHere;
  let text = output;
  if (failedHere === 0 && (status !== 0 || total === 0)) {
    failedHere = 1;
    text += `\nended with ${signal ?? `status ${status}`}, ${total} tests counted\n`;
  }
  return { file, passed: passedHere, failed: failedHere, output: text };
}
