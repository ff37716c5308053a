import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatChange } from './diff/change.js';
import { diffModels } from './diff/index.js';
import { MODEL_FORMAT } from './emit/json.js';
import { generate } from './generate.js';
import { formatDiagnostic } from './load/diagnostic.js';
import { loadModel } from './load/load-model.js';
import { readSchema } from './load/read-schema.js';
import type { Model } from './model/types.js';
import { compareFolder, type Difference, isEqual, writeFolder } from './write.js';

const HELP = `Generates code, headers and reference pages from schema/ into generated/.

  npm run generate                  write what changed, remove what is no longer generated
  npm run generate -- --check       write nothing; fail if generated/ is not what schema/ gives
  npm run generate -- --diff OLD    write nothing; report what changed on the wire since OLD, a model.json or a
                                    schema folder, and fail on a breaking change
  --root DIR                        folder that holds schema/ and generated/; that of this package by default
  --help                            this text

Exit status: 0 done, 1 schema not valid, generated/ not current or a breaking change, 2 wrong arguments, or a file that
cannot be read or written.
`;

/** Where the command's output goes. */
export interface Console {
  out(line: string): void;
  error(line: string): void;
}

/** Runs the command and returns the exit status. `defaultRoot`: the package's own folder. */
export function run(args: readonly string[], defaultRoot: string, console: Console): 0 | 1 | 2 {
  try {
    return perform(args, defaultRoot, console);
  } catch (error) {
    // What the file system refuses says what and where by itself; anything else is a mistake of this program.
    if (!(error instanceof Error && 'syscall' in error)) throw error;
    console.error(error.message);
    return 2;
  }
}

function perform(args: readonly string[], defaultRoot: string, console: Console): 0 | 1 | 2 {
  const options = parse(args);
  if ('problem' in options) {
    console.error(`${options.problem}; see --help`);
    return 2;
  }
  if (options.help) {
    console.out(HELP.trimEnd());
    return 0;
  }
  const root = options.root ?? defaultRoot;
  const model = load(join(root, 'schema'), 'schema', console);
  if (typeof model === 'number') return model;
  if (options.diff !== undefined) return diff(options.diff, model, console);
  const folder = join(root, 'generated');
  const outputs = generate(model);
  return options.check
    ? check(compareFolder(folder, outputs), console)
    : report(writeFolder(folder, outputs), console);
}

interface Options {
  readonly check?: boolean;
  readonly diff?: string;
  readonly root?: string;
  readonly help?: boolean;
}

function parse(args: readonly string[]): Options | { readonly problem: string } {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        check: { type: 'boolean' },
        diff: { type: 'string' },
        root: { type: 'string' },
        help: { type: 'boolean' },
      },
    });
    if (values.check && values.diff !== undefined)
      return { problem: '--check and --diff exclude one another' };
    return values;
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
}

/** The model of a schema folder, or the exit status once its diagnostics are printed. */
function load(folder: string, shownAs: string, console: Console): Model | 1 | 2 {
  if (!existsSync(folder)) {
    console.error(`${folder}: there is no such folder`);
    return 2;
  }
  const { model, diagnostics } = loadModel(readSchema(folder), shownAs);
  for (const diagnostic of diagnostics) console.error(formatDiagnostic(diagnostic));
  return model ?? 1;
}

function check(difference: Difference, console: Console): 0 | 1 {
  if (isEqual(difference)) return 0;
  for (const path of difference.stale) console.error(`stale    generated/${path}`);
  for (const path of difference.missing) console.error(`missing  generated/${path}`);
  for (const path of difference.orphaned) console.error(`orphaned generated/${path}`);
  console.error('generated/ is not what schema/ gives; run: npm run generate');
  return 1;
}

function report(difference: Difference, console: Console): 0 {
  for (const path of difference.stale) console.out(`changed generated/${path}`);
  for (const path of difference.missing) console.out(`new     generated/${path}`);
  for (const path of difference.orphaned) console.out(`removed generated/${path}`);
  if (isEqual(difference)) console.out('generated/ is current');
  return 0;
}

function diff(old: string, model: Model, console: Console): 0 | 1 | 2 {
  const before = previous(old, console);
  if (typeof before === 'number') return before;
  const changes = diffModels(before, model);
  for (const change of changes) console.out(formatChange(change));
  if (changes.length === 0) console.out('nothing changed on the wire');
  return changes.some((change) => change.breaking) ? 1 : 0;
}

function previous(path: string, console: Console): Model | 1 | 2 {
  if (!existsSync(path)) {
    console.error(`${path}: there is no such file or folder`);
    return 2;
  }
  if (statSync(path).isDirectory()) return load(path, path, console);
  try {
    const document: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (isModel(document)) return document;
    console.error(`${path}: is not a model of format ${MODEL_FORMAT}`);
  } catch (error) {
    console.error(`${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  return 2;
}

function isModel(document: unknown): document is Model & { readonly format: number } {
  return (
    typeof document === 'object' &&
    document !== null &&
    'format' in document &&
    document.format === MODEL_FORMAT &&
    'files' in document &&
    Array.isArray(document.files) &&
    document.files.every(isModelFile)
  );
}

/** The lists that each kind of file has in a model. */
const LISTS: Readonly<Record<string, readonly string[]>> = {
  messages: ['requests'],
  features: ['bits'],
  layouts: ['constants', 'enums', 'queues', 'structs'],
};

function isModelFile(file: unknown): boolean {
  if (typeof file !== 'object' || file === null) return false;
  const { path, kind, ...rest } = file as Record<string, unknown>;
  const lists = typeof kind === 'string' ? LISTS[kind] : undefined;
  return typeof path === 'string' && lists !== undefined && lists.every((list) => Array.isArray(rest[list]));
}
