/** One form of the rings that a crash is survived with. */
export interface Combination {
  readonly format: 'split' | 'packed';
  readonly indirect: boolean;
  readonly eventIdx: boolean;
}

const BOTH = [false, true] as const;

/** All eight. */
export function combinations(): Combination[] {
  const all: Combination[] = [];
  for (const format of ['split', 'packed'] as const) {
    for (const indirect of BOTH) for (const eventIdx of BOTH) all.push({ format, indirect, eventIdx });
  }
  return all;
}

export function nameOf({ format, indirect, eventIdx }: Combination): string {
  return `${format}, ${indirect ? 'indirect' : 'direct'}, ${eventIdx ? 'event idx' : 'flags'}`;
}
