import type { FuzzKind } from '../fuzz/kind.js';

/** A kind that never comes back from its second sequence. */
export default function hangingKind(): FuzzKind {
  let sequences = 0;
  return {
    reached: {},
    play() {
      sequences++;
      while (sequences === 2);
      return 10;
    },
  };
}
