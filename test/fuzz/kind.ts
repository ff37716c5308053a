/** A way of fuzzing. A sequence follows from its seed alone, so that a finding can be played again. */
export interface FuzzKind {
  /** Plays the sequence of a seed, a number of 32 bits; resolves with how many inputs it had. Throws what it found. */
  play(seed: number): number | Promise<number>;
  /** Looks at what shows only over many sequences, such as open fds. Throws what it found. */
  check?(): void | Promise<void>;
  /** What was reached, to see that the draw is worth something. */
  readonly reached: Record<string, number>;
}

/** Makes a kind. Called once a process. */
export type FuzzKindFactory = () => FuzzKind | Promise<FuzzKind>;

/** Counts that something was reached. */
export function count(reached: Record<string, number>, what: string, by = 1): void {
  reached[what] = (reached[what] ?? 0) + by;
}

/** The seed of a sequence behind the first one of a run. */
export function seedAt(first: number, step: number): number {
  return (first + step) >>> 0;
}

/** Spreads neighbouring seeds, so that their sequences have nothing in common. */
export function scattered(seed: number): number {
  let word = Math.imul(seed ^ (seed >>> 16), 0x45d9f3b);
  word = Math.imul(word ^ (word >>> 16), 0x45d9f3b);
  return (word ^ (word >>> 16)) >>> 0;
}
