import type { NodePath, SchemaDocument } from '../load/schema-document.js';
import type { Linear } from './linear.js';
import type { Origins } from './origins.js';
import type { RawFeatureSets, RawFile, RawItem } from './raw.js';
import type { References } from './references.js';
import type { Unresolved } from './subject.js';
import type { FeatureRef, Field, Item, SchemaFile, Struct } from './types.js';

/** What the resolvers of one file share. */
export class ResolveContext {
  readonly path: string;
  readonly references: References;
  readonly stated: Map<Struct | Field, Linear>;
  readonly #document: SchemaDocument;
  readonly #origins: Origins;
  readonly #unresolved: Unresolved[];

  constructor(
    path: string,
    document: SchemaDocument,
    references: References,
    origins: Origins,
    unresolved: Unresolved[],
    stated: Map<Struct | Field, Linear>,
  ) {
    this.path = path;
    this.references = references;
    this.stated = stated;
    this.#document = document;
    this.#origins = origins;
    this.#unresolved = unresolved;
  }

  /** Remembers where a part of the model stands. */
  mark<Part extends object>(part: Part, path: NodePath): Part {
    return this.#origins.mark(part, this.#document, path);
  }

  /** Reports `value` unless it stands for something. */
  resolved<Value>(value: Value | null, path: NodePath, message: string): Value | null {
    if (value === null)
      this.#unresolved.push({ item: this.mark({}, path.slice(0, -1)), key: String(path.at(-1)), message });
    return value;
  }

  /** Bits by name; those that do not exist are reported and left out. */
  features(word: keyof RawFeatureSets, names: readonly string[] | undefined, path: NodePath): FeatureRef[] {
    const refs: FeatureRef[] = [];
    for (const name of names ?? []) {
      const ref = this.references.feature(word, name, this.path);
      const message = `there is no ${word} feature '${name}'`;
      if (this.resolved(ref, [...path, word], message) !== null) refs.push(ref!);
    }
    return refs;
  }
}

/** The part that every described item has. */
export function resolveItem(raw: RawItem, specName: string): Item {
  return {
    name: raw.name,
    specName: raw['spec-name'] ?? specName,
    doc: (raw.doc ?? '').trim(),
    ref: raw.ref ?? null,
    since: raw.since ?? null,
    deprecated: raw.deprecated ?? null,
    renamed: raw.renamed ?? [],
    erratum: raw.erratum?.trim() ?? null,
  };
}

/** The specification's spelling of a name behind its prefix. */
export function prefixed(prefix: string, name: string): string {
  return prefix + name.toUpperCase().replaceAll('-', '_');
}

/** What every file has. */
export function resolveFileBase(
  raw: RawFile,
  path: string,
): Pick<SchemaFile, 'path' | 'name' | 'doc' | 'source' | 'headers'> {
  return {
    path,
    name: raw.name,
    doc: raw.doc.trim(),
    source: {
      id: raw.source.id,
      title: raw.source.title,
      file: raw.source.file ?? null,
      revision: raw.source.revision,
    },
    headers: raw.kind === 'messages' ? [] : (raw.headers ?? []),
  };
}
