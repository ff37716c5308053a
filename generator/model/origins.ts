import type { NodePath, SchemaDocument } from '../load/schema-document.js';

export interface Origin {
  readonly document: SchemaDocument;
  readonly path: NodePath;
}

/** Where the parts of a model came from, kept beside it so that the model stays plain data. */
export class Origins {
  readonly #origins = new WeakMap<object, Origin>();

  /** Remembers `item` and gives it back. */
  mark<Part extends object>(item: Part, document: SchemaDocument, path: NodePath): Part {
    this.#origins.set(item, { document, path });
    return item;
  }

  of(item: object): Origin {
    const origin = this.#origins.get(item);
    if (origin === undefined) throw new Error('a rule reported on something that is not a part of the model');
    return origin;
  }
}
