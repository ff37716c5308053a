/** What is done beside the work itself; `plain` does neither. */
export const VARIANTS = ['tracked', 'logged', 'both'] as const;
export type Variant = (typeof VARIANTS)[number];

export interface Spread {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

export interface Row {
  readonly what: string;
  readonly format: 'split' | 'packed';
  /** Nanoseconds a chain or a request without tracking and log, median. */
  readonly plain: number;
  /** Time with a variant to time without, sample by sample. */
  readonly ratio: Readonly<Record<Variant, Spread>>;
}

export function quantile(values: readonly number[], q: number): number {
  return [...values].sort((a, b) => a - b)[Math.round((values.length - 1) * q)]!;
}

/** Median of the ratios of what belongs together, and the quantiles `edge` and 1 - `edge`. */
export function ratios(values: readonly number[], plain: readonly number[], edge: number): Spread {
  const all = values.map((value, i) => value / plain[i]!);
  return { median: quantile(all, 0.5), low: quantile(all, edge), high: quantile(all, 1 - edge) };
}
