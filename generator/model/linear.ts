/** `base + step * name`: a number of bytes of which at most one term varies. `name` is null when `step` is 0. */
export interface Linear {
  readonly base: number;
  readonly step: number;
  readonly name: string | null;
}

/** Reads `12` or `12 + 4 * name` or `12 + name`; the shape of the text was checked before. */
export function parseLinear(text: number | string): Linear {
  if (typeof text === 'number') return { base: text, step: 0, name: null };
  const match = /^(\d+) \+ (?:(\d+) \* )?([a-z][a-z0-9-]*)$/.exec(text);
  if (match === null) throw new Error(`not a number of bytes: ${text}`);
  return { base: Number(match[1]), step: Number(match[2] ?? 1), name: match[3]! };
}

export function formatLinear({ base, step, name }: Linear): string {
  if (name === null) return String(base);
  return step === 1 ? `${base} + ${name}` : `${base} + ${step} * ${name}`;
}

export function sameLinear(left: Linear, right: Linear): boolean {
  return left.base === right.base && left.step === right.step && left.name === right.name;
}
