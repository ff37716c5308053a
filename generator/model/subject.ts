import type { Linear } from './linear.js';
import type { Origins } from './origins.js';
import type { Field, Model, Struct } from './types.js';

/** What the rules look at: the model, where its parts come from, and what only matters while it is checked. */
export interface Subject {
  readonly model: Model;
  readonly origins: Origins;
  /** Names that stand for nothing. */
  readonly unresolved: readonly Unresolved[];
  /** Sizes and offsets as they are stated. */
  readonly stated: ReadonlyMap<Struct | Field, Linear>;
}

export interface Unresolved {
  readonly item: object;
  readonly key: string;
  readonly message: string;
}
