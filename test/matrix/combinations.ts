/** One way to drive a back-end. */
export interface Combination {
  readonly format: 'split' | 'packed';
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly inOrder: boolean;
  readonly regions: 1 | 8;
  /** Kicks and calls by eventfds, by messages, or not at all, when both sides poll. */
  readonly notified: (typeof NOTIFIED)[number];
}

const BOTH = [false, true] as const;
const NOTIFIED = ['by eventfds', 'in-band', 'polled'] as const;

/** All of them. */
export function combinations(): Combination[] {
  const all: Combination[] = [];
  for (const format of ['split', 'packed'] as const) {
    for (const eventIdx of BOTH) {
      for (const indirect of BOTH) {
        for (const inOrder of BOTH) {
          for (const regions of [1, 8] as const) {
            for (const notified of NOTIFIED) {
              all.push({ format, eventIdx, indirect, inOrder, regions, notified });
            }
          }
        }
      }
    }
  }
  return all;
}

export function nameOf(combination: Combination): string {
  const { format, eventIdx, indirect, inOrder, regions, notified } = combination;
  const words = [
    format,
    eventIdx ? 'event idx' : 'flags',
    indirect ? 'indirect' : 'direct',
    inOrder ? 'in order' : 'any order',
    `${regions} region${regions === 1 ? '' : 's'}`,
    notified,
  ];
  return words.join(', ');
}
