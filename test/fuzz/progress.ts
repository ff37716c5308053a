import { closeSync, openSync, readSync, writeSync } from 'node:fs';

/**
 * Which sequence a fuzzing process is at, in a file: a process that hangs or is killed cannot tell any more.
 *
 *   0        8         16
 *   | seed   | inputs  |     f64 each
 */
export class Progress implements Disposable {
  readonly #fd: number;
  readonly #bytes = new Float64Array(2);

  constructor(path: string, mode: 'write' | 'read') {
    this.#fd = openSync(path, mode === 'write' ? 'w' : 'r');
  }

  store(seed: number, inputs: number): void {
    this.#bytes[0] = seed;
    this.#bytes[1] = inputs;
    writeSync(this.#fd, this.#bytes, 0, 16, 0);
  }

  /** null before the first sequence. */
  load(): { seed: number; inputs: number } | null {
    if (readSync(this.#fd, this.#bytes, 0, 16, 0) < 16) return null;
    return { seed: this.#bytes[0]!, inputs: this.#bytes[1]! };
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
