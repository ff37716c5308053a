import { resolveModel } from '../model/resolve.js';
import type { Model } from '../model/types.js';
import { rules } from '../rules/registry.js';
import { compareDiagnostics, compareText, type Diagnostic } from './diagnostic.js';
import { loadErrors } from './load-errors.js';
import { SchemaDocument } from './schema-document.js';
import { checkShape, compileShapes } from './shape.js';

export interface LoadResult {
  /** null if there is any diagnostic. */
  readonly model: Model | null;
  /** Sorted by place. */
  readonly diagnostics: readonly Diagnostic[];
}

/**
 * Loads a schema from texts: parses, checks shape, resolves, checks meaning. Pure, and independent of the order of
 * `files`.
 *
 * @param files path below the schema's folder -> text; files below `meta/` are the schemas of the schemas
 * @param folder what diagnostics put in front of a path
 */
export function loadModel(files: ReadonlyMap<string, string>, folder = 'schema'): LoadResult {
  const diagnostics: Diagnostic[] = [];
  const metas = new Map<string, SchemaDocument>();
  const documents = new Map<string, SchemaDocument>();
  for (const path of [...files.keys()].sort(compareText)) {
    if (!isFileName(path)) {
      const message = loadErrors['file-name'];
      diagnostics.push({ file: `${folder}/${path}`, line: 1, column: 1, code: 'file-name', message });
      continue;
    }
    const parsed = SchemaDocument.parse(`${folder}/${path}`, files.get(path)!);
    diagnostics.push(...parsed.diagnostics);
    if (parsed.document === null) continue;
    const name = path.replace(/\.yaml$/, '');
    if (name.startsWith('meta/')) metas.set(name.slice('meta/'.length), parsed.document);
    else documents.set(name, parsed.document);
  }
  if (diagnostics.length > 0) return failed(diagnostics);

  const { shapes, diagnostics: metaDiagnostics } = compileShapes(metas);
  if (shapes === null) return failed(metaDiagnostics);
  for (const document of documents.values()) diagnostics.push(...checkShape(document, shapes));
  // The shape is what the resolver stands on; the meaning of a file without it would be guesswork.
  if (diagnostics.length > 0) return failed(diagnostics);

  const subject = resolveModel(documents);
  for (const rule of rules) {
    rule.check(subject, (item, key, message) => {
      const origin = subject.origins.of(item);
      const position =
        key === null
          ? origin.document.valuePosition(origin.path)
          : origin.document.valuePosition([...origin.path, key]);
      diagnostics.push({ file: origin.document.file, ...position, code: rule.code, message });
    });
  }
  return diagnostics.length > 0 ? failed(diagnostics) : { model: subject.model, diagnostics };
}

function failed(diagnostics: Diagnostic[]): LoadResult {
  return { model: null, diagnostics: diagnostics.sort(compareDiagnostics) };
}

/** The path of a schema is that of what is generated from it, and part of names in it. */
function isFileName(path: string): boolean {
  const word = '[a-z][a-z0-9]*(-[a-z0-9]+)*';
  return new RegExp(`^(${word}/)*${word}\\.yaml$`).test(path) && path !== 'index.yaml';
}
