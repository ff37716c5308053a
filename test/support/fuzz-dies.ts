import type { FuzzKind } from '../fuzz/kind.js';

/** A kind whose process is killed in its third sequence, as by a fault in native code. */
export default function dyingKind(): FuzzKind {
  let sequences = 0;
  return {
    reached: {},
    play() {
      if (++sequences === 3) process.kill(process.pid, 'SIGSEGV');
      return 10;
    },
  };
}
