import { Progress } from './progress.js';

/** So many times as long may a process take to begin, on a machine that has other things to do. */
const START = 20;

/** Looks now and then whether a process still moves. */
export class Watchdog {
  barked = false;
  readonly #path: string;
  readonly #timer: NodeJS.Timeout;
  #seen = '';
  #looked = performance.now();
  /** Milliseconds for which nothing has moved. */
  #still = 0;

  /** `onHang` is called once, when the sequence in the file at `path` was the same for `limit` milliseconds. */
  constructor(path: string, limit: number, onHang: () => void) {
    this.#path = path;
    const interval = Math.min(1000, limit / 4);
    this.#timer = setInterval(() => {
      const now = JSON.stringify(this.last());
      const looked = performance.now();
      // A machine that stands still as a whole stops the process too.
      const passed = Math.min(looked - this.#looked, 2 * interval);
      this.#looked = looked;
      if (now !== this.#seen) {
        this.#seen = now;
        this.#still = 0;
      } else if ((this.#still += passed) > (now === 'null' ? START : 1) * limit && !this.barked) {
        this.barked = true;
        onHang();
      }
    }, interval);
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
