import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { RewriterTask } from './rewriter-side.js';

export type { RewrittenWord } from './rewriter-side.js';

/**
 * Runs `work` while another thread, through a mapping of its own, rewrites 32-bit words of the shared file over and over, as
 * the second processor of a hostile guest would.
 */
export async function whileRewritten(
  task: Omit<RewriterTask, 'control'>,
  work: () => void | Promise<void>,
): Promise<void> {
  const control = new Int32Array(new SharedArrayBuffer(8));
  const worker = new Worker(new URL('./rewriter-side.js', import.meta.url), {
    workerData: { ...task, control } satisfies RewriterTask,
  });
  const exit = once(worker, 'exit');
  try {
    // It begins when it has mapped the file, and written every word once.
    while (Atomics.load(control, RUNS) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    await work();
  } finally {
    Atomics.store(control, STOP, 1);
    await exit;
  }
}

/** Words of `control`. */
export const STOP = 0;
export const RUNS = 1;
