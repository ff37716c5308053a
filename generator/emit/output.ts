/** One generated file. */
export interface Output {
  /** Path below generated/, with `/`. */
  readonly path: string;
  readonly text: string;
}
