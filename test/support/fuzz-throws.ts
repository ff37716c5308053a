import type { FuzzKind } from '../fuzz/kind.js';

/** A kind that finds something at the fourth sequence. */
export default function throwingKind(): FuzzKind {
  let sequences = 0;
  return {
    reached: {},
    play() {
      if (++sequences === 4) throw new Error('found on purpose');
      return 10;
    },
  };
}
