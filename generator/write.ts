import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import type { Output } from './emit/output.js';

/** How a folder on disk differs from what should be in it. Paths below the folder, sorted. */
export interface Difference {
  readonly stale: readonly string[];
  readonly missing: readonly string[];
  /** Files that nothing generates any more. */
  readonly orphaned: readonly string[];
}

/** Compares `folder` with `outputs`, byte for byte; writes nothing. */
export function compareFolder(folder: string, outputs: readonly Output[]): Difference {
  const wanted = new Map(outputs.map((output) => [output.path, output.text]));
  const present = filesBelow(folder);
  return {
    stale: present.filter(
      (path) => wanted.has(path) && readFileSync(join(folder, path), 'utf8') !== wanted.get(path),
    ),
    missing: [...wanted.keys()].filter((path) => !present.includes(path)).sort(),
    orphaned: present.filter((path) => !wanted.has(path)),
  };
}

/**
 * Makes `folder` hold exactly `outputs`: the one place of the generator that writes. Files whose bytes are right are not
 * touched. Returns what was changed.
 */
export function writeFolder(folder: string, outputs: readonly Output[]): Difference {
  const difference = compareFolder(folder, outputs);
  const wanted = new Map(outputs.map((output) => [output.path, output.text]));
  // Orphans first: a file may stand where a folder is to be.
  for (const path of difference.orphaned) {
    rmSync(join(folder, path));
    removeEmpty(folder, dirname(path));
  }
  for (const path of [...difference.stale, ...difference.missing]) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), wanted.get(path)!);
  }
  return difference;
}

export function isEqual(difference: Difference): boolean {
  return difference.stale.length + difference.missing.length + difference.orphaned.length === 0;
}

/** Every file below a folder, as sorted paths with `/`; nothing when there is no such folder. */
export function filesBelow(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) =>
      relative(folder, join(entry.parentPath ?? entry.path, entry.name))
        .split(sep)
        .join('/'),
    )
    .sort();
}

function removeEmpty(folder: string, path: string): void {
  if (path === '.' || readdirSync(join(folder, path)).length > 0) return;
  rmdirSync(join(folder, path));
  removeEmpty(folder, dirname(path));
}
