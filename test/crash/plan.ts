import type { Random } from '../support/random.js';
import type { Death } from './dying-backing.js';

/** How the next back-end ends. */
export type KillPlan =
  /** From outside, so many milliseconds after it was told to serve, or, the program itself, after it was started. */
  | { readonly kind: 'early' | 'later' | 'program'; readonly milliseconds: number }
  /** By its own hand, in the middle of a request: among those that it finds when it starts, or later. */
  | { readonly kind: 'finding' | 'working'; readonly death: Death };

export const KILL_KINDS = ['early', 'later', 'program', 'finding', 'working'] as const;
export type KillKind = (typeof KILL_KINDS)[number];

export function planKill(random: Random): KillPlan {
  const at = random.pick(['queue', 'completion'] as const);
  switch (random.below(16)) {
    case 0:
      return { kind: 'program', milliseconds: 60 + random.below(160) };
    case 1:
    case 2:
    case 3:
    case 4:
      return { kind: 'early', milliseconds: random.below(9) };
    case 5:
    case 6:
    case 7:
    case 8:
      return { kind: 'later', milliseconds: random.below(60) };
    case 9:
    case 10:
    case 11:
    case 12:
      return { kind: 'finding', death: { at, count: 1 + random.below(40) } };
    default:
      return { kind: 'working', death: { at, count: 40 + random.below(400) } };
  }
}
