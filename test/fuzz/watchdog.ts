import { Progress } from './progress.js';

/** So many times as long may a process take to begin, on a machine that has other things to do. */
const START = 20;

/** Looks now and then whether a process still moves. */
export class Watchdog {
  barked = false;
  readonly #path: string;
  readonly #timer: NodeJS.Timeout;
  #seen = '';
  #since = performance.now();

  /** `onHang` is called once, when the sequence in the file at `path` was the same for `limit` milliseconds. */
  constructor(path: string, limit: number, onHang: () => void) {
    this.#path = path;
    this.#timer = setInterval(
      () => {
        const now = JSON.stringify(this.last());
        if (now !== this.#seen) {
          this.#seen = now;
          this.#since = performance.now();
        } else if (!this.barked && performance.now() - this.#since > (now === 'null' ? START : 1) * limit) {
          this.barked = true;
          onHang();
        }
      },
      Math.min(1000, limit / 4),
    );
  }

  /** The sequence that the process is at or was at last. */
  last(): { seed: number; inputs: number } | null {
    try {
      using progress = new Progress(this.#path, 'read');
      return progress.load();
    } catch {
      // Not there yet.
      return null;
    }
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
