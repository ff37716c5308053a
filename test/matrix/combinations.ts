/** One way to drive a back-end. */
export interface Combination {
  readonly format: 'split' | 'packed';
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly inOrder: boolean;
  readonly regions: 1 | 8;
  /** Neither kicks nor calls: both sides poll. */
  readonly polled: boolean;
}

const BOTH = [false, true] as const;

/** All of them. */
export function combinations(): Combination[] {
  const all: Combination[] = [];
  for (const format of ['split', 'packed'] as const) {
    for (const eventIdx of BOTH) {
      for (const indirect of BOTH) {
        for (const inOrder of BOTH) {
          for (const regions of [1, 8] as const) {
            for (const polled of BOTH) all.push({ format, eventIdx, indirect, inOrder, regions, polled });
          }
        }
      }
    }
  }
  return all;
}

export function nameOf(combination: Combination): string {
  const { format, eventIdx, indirect, inOrder, regions, polled } = combination;
  const words = [
    format,
    eventIdx ? 'event idx' : 'flags',
    indirect ? 'indirect' : 'direct',
    inOrder ? 'in order' : 'any order',
    `${regions} region${regions === 1 ? '' : 's'}`,
    polled ? 'polled' : 'notified',
  ];
  return words.join(', ');
}
