import type { SchemaDocument } from '../load/schema-document.js';
import { compareText } from '../load/diagnostic.js';
import type { Linear } from './linear.js';
import { Origins } from './origins.js';
import type { RawFile } from './raw.js';
import { References } from './references.js';
import { ResolveContext } from './resolve-context.js';
import { resolveFeatures } from './resolve-features.js';
import { resolveLayouts } from './resolve-layouts.js';
import { resolveMessages } from './resolve-messages.js';
import type { Subject, Unresolved } from './subject.js';
import type { Field, SchemaFile, Struct } from './types.js';

/** Turns documents whose shape is right into the model, every default filled in. Never fails: rules do. */
export function resolveModel(documents: ReadonlyMap<string, SchemaDocument>): Subject {
  const origins = new Origins();
  const references = new References(documents);
  const unresolved: Unresolved[] = [];
  const stated = new Map<Struct | Field, Linear>();
  const files: SchemaFile[] = [];
  for (const path of [...documents.keys()].sort(compareText)) {
    const document = documents.get(path)!;
    const raw = document.data as RawFile;
    const context = new ResolveContext(path, document, references, origins, unresolved, stated);
    if (raw.kind === 'messages') files.push(resolveMessages(raw, context));
    else if (raw.kind === 'features') files.push(resolveFeatures(raw, context));
    else files.push(resolveLayouts(raw, context));
  }
  return { model: { files }, origins, unresolved, stated };
}
