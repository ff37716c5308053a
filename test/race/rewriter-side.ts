import { isMainThread, workerData } from 'node:worker_threads';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';

/** A word of the file, at a multiple of 4 bytes, and what is written to it in turn. A value that is repeated is written more often. */
export interface RewrittenWord {
  readonly at: number;
  readonly values: readonly number[];
}

export interface RewriterTask {
  /** The shared file; fds are the process's. */
  readonly fd: number;
  /** Bytes of it that are mapped, from its start on. */
  readonly size: number;
  readonly words: readonly RewrittenWord[];
  /** Stop, and runs already; see rewriter.ts. */
  readonly control: Int32Array;
}

if (!isMainThread) rewrite(workerData as RewriterTask);

function rewrite({ fd, size, words, control }: RewriterTask): void {
  const platform = createLinuxPlatform();
  const mapping = platform.map(fd, 0n, BigInt(size));
  const memory = platform.windows.u32[mapping.firstWindow]!;
  // One flat table: the loop must be as quick as the one that reads.
  const table = new Uint32Array(words.reduce((sum, { values }) => sum + values.length, 0));
  const starts = new Int32Array(words.length + 1);
  const places = Int32Array.from(words, ({ at }) => at >>> 2);
  words.forEach(({ values }, i) => {
    table.set(values, starts[i]!);
    starts[i + 1] = starts[i]! + values.length;
    // Each word holds one of its values from before the first reading on.
    memory[places[i]!] = values[0]!;
  });
  Atomics.store(control, 1, 1);
  let random = 1;
  while (Atomics.load(control, 0) === 0) {
    for (let n = 0; n < 256; n++) {
      random = (Math.imul(random, 1664525) + 1013904223) | 0;
      const word = (random >>> 8) % places.length;
      const start = starts[word]!;
      memory[places[word]!] = table[start + ((random >>> 20) % (starts[word + 1]! - start))]!;
    }
  }
  mapping.unmap();
}
