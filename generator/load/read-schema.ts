import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { compareText } from './diagnostic.js';

/** Every YAML file below `folder`: path with `/` below the folder -> text, sorted by path. */
export function readSchema(folder: string): Map<string, string> {
  const paths = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.yaml'))
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
    .sort(compareText);
  return new Map(paths.map((path) => [path, readFileSync(join(folder, path), 'utf8')]));
}
