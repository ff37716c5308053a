import type { Watch } from '../platform.js';
import { Description } from './fd-table.js';

/** An eventfd: a counter that whoever waits for it reads and clears. */
export class EventCounter extends Description {
  readonly kind = 'eventfd';
  #value = 0n;
  readonly #watches = new Set<EventWatch>();

  /** Signals that nobody has taken yet. */
  get value(): bigint {
    return this.#value;
  }

  signal(): void {
    this.#value++;
    for (const watch of this.#watches) watch.wake();
  }

  /** Reads and clears the counter. */
  take(): bigint {
    const value = this.#value;
    this.#value = 0n;
    return value;
  }

  watch(onSignal: () => void): Watch {
    const watch = new EventWatch(this, onSignal, () => {
      if (this.#watches.delete(watch)) this.drop();
    });
    this.#watches.add(watch);
    this.hold();
    watch.wake();
    return watch;
  }
}

class EventWatch implements Watch {
  readonly #counter: EventCounter;
  readonly #onSignal: () => void;
  readonly #onClose: () => void;
  #scheduled = false;
  #closed = false;

  constructor(counter: EventCounter, onSignal: () => void, onClose: () => void) {
    this.#counter = counter;
    this.#onSignal = onSignal;
    this.#onClose = onClose;
  }

  wake(): void {
    if (this.#scheduled || this.#closed || this.#counter.value === 0n) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (this.#closed || this.#counter.take() === 0n) return;
      this.#onSignal();
    });
  }

  close(): void {
    this.#closed = true;
    this.#onClose();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
