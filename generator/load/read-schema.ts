import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { compareText } from './diagnostic.js';

/** Every YAML file below `folder`: path with `/` below the folder -> text, sorted by path. */
export function readSchema(folder: string): Map<string, string> {
  const paths = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory() && /\.ya?ml$/i.test(entry.name))
    .map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name)).replaceAll('\\', '/'))
    .sort(compareText);
  return new Map(paths.map((path) => [path, readFileSync(join(folder, path), 'utf8')]));
}
