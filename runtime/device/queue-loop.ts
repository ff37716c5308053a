import type { LoopQueue, QueueScheduler } from './queue-scheduler.js';

export interface QueueLoopOptions {
  /**
   * How long to look for more chains before asking for kicks, in microseconds; 0 never spins. While looking is in vain the
   * loop does so ever more rarely. Default 50: a driver that has to be woken takes 20 to 40.
   */
  readonly spinMicroseconds?: number;
}

/** Turns in a row for one queue before everything else on Node's loop has its turn. */
const TURNS_IN_A_ROW = 16;
/** Peeks between two looks at the clock: a peek takes some 3 ns, a look at the clock ten times that. */
const PEEKS_PER_CLOCK = 32;
/** While spinning is in vain, up to this many sleeps go without one between two tries. */
const MAX_PAUSE = 63;
/** With more queues than this a round of peeks is too slow to be worth it. */
const SPIN_QUEUES = 8;
/** A queue without a kick fd is looked at this often, in milliseconds, when it has been idle for a while. */
const POLL_INTERVAL = 1;
/** Idle looks in a row before a polled queue is looked at by the timer only. */
const POLL_EAGER_LOOKS = 256;

/**
 * Takes turns between the queues that one Node event loop serves. A kick is served at once, in the callback that brought
 * it; a queue with more work than one turn holds continues in a `setImmediate`, behind whatever else became ready, so that
 * a busy queue starves neither the sockets nor other queues.
 *
 *   kick ─▶ turn ─▶ nothing left ─▶ spin ─▶ nothing came ─▶ ask for kicks ─▶ look once more ─▶ sleep
 *             ▲          bound reached ─▶ setImmediate ─┐          │ came
 *             └────────────────────────────────────────┴──────────┘
 */
export class QueueLoop implements QueueScheduler {
  /** Milliseconds. */
  readonly #spin: number;
  readonly #queues: LoopQueue[] = [];
  readonly #ready = new Set<LoopQueue>();
  readonly #polled = new Set<LoopQueue>();
  #immediate: NodeJS.Immediate | null = null;
  #pollImmediate: NodeJS.Immediate | null = null;
  #pollTimer: NodeJS.Timeout | null = null;
  #idleLooks = 0;
  /**
   * Sleeps without a spin after the last vain one, and how many of them are left. How long a sleep was says little about
   * the next spin, since most of a short one is the kick's own way through the kernel; so the loop tries, doubles the pause
   * with each vain try, and forgets it with the first that pays.
   */
  #pause = 0;
  #pauseLeft = 0;

  constructor(options: QueueLoopOptions = {}) {
    this.#spin = (options.spinMicroseconds ?? 50) / 1000;
  }

  add(queue: LoopQueue): void {
    this.#queues.push(queue);
  }

  /** A queue without a kick fd is looked at again and again: eagerly while it is busy, by a timer when it is not. */
  setPolled(queue: LoopQueue, polled: boolean): void {
    if (polled) {
      this.#polled.add(queue);
      this.#armPoll();
    } else {
      this.#polled.delete(queue);
      if (this.#polled.size === 0) this.#disarmPoll();
    }
  }

  remove(queue: LoopQueue): void {
    const at = this.#queues.indexOf(queue);
    if (at >= 0) this.#queues.splice(at, 1);
    this.#ready.delete(queue);
    this.setPolled(queue, false);
  }

  /** Has the queue served soon, not now. */
  schedule(queue: LoopQueue): void {
    this.#ready.add(queue);
    this.#immediate ??= setImmediate(this.#runReady);
  }

  /** A kick came: serves the queue now. */
  kicked(queue: LoopQueue): void {
    this.#serve(queue);
  }

  readonly #runReady = (): void => {
    this.#immediate = null;
    // What becomes ready from here on waits for the next round: Set iteration would never end with a busy queue.
    const round = [...this.#ready];
    this.#ready.clear();
    for (const queue of round) this.#serve(queue);
  };

  #serve(queue: LoopQueue): void {
    if (!this.#queues.includes(queue)) return;
    this.#ready.delete(queue);
    for (let turns = 0; turns < TURNS_IN_A_ROW; turns++) {
      if (queue.turn()) break;
      const next = this.#spinFor(queue);
      if (next !== null) {
        queue = next;
        continue;
      }
      if (this.#polled.has(queue) || !queue.sleep()) return;
    }
    this.schedule(queue);
  }

  /** Looks at the queues for a short while; the one that has something, or null. The current queue still has kicks off. */
  #spinFor(current: LoopQueue): LoopQueue | null {
    if (current.wantsTurn()) return current;
    // Others wait for the loop: they must not wait for us. So do completions, which arrive through the loop as well.
    if (this.#spin === 0 || this.#ready.size > 0 || this.#polled.size > 0) return null;
    if (this.#queues.length > SPIN_QUEUES) return null;
    for (const queue of this.#queues) if (queue.inFlight > 0) return null;

    if (this.#pauseLeft > 0) {
      this.#pauseLeft--;
      return null;
    }

    const pause = this.#pause;
    this.#pause = 0;
    const end = performance.now() + this.#spin;
    do {
      for (let peeks = 0; peeks < PEEKS_PER_CLOCK; peeks++) {
        if (current.wantsTurn()) return current;
      }
      for (const queue of this.#queues) {
        // Whoever gets the turn instead, the current queue must not be left with its kicks off.
        if (queue !== current && queue.wantsTurn()) {
          this.schedule(queue);
          return null;
        }
      }
    } while (performance.now() < end);
    this.#pause = this.#pauseLeft = Math.min(MAX_PAUSE, pause * 2 + 1);
    return null;
  }

  // --- queues without a kick fd

  #armPoll(): void {
    if (this.#pollImmediate === null && this.#pollTimer === null) {
      this.#pollImmediate = setImmediate(this.#poll);
    }
  }

  #disarmPoll(): void {
    if (this.#pollImmediate !== null) clearImmediate(this.#pollImmediate);
    if (this.#pollTimer !== null) clearTimeout(this.#pollTimer);
    this.#pollImmediate = this.#pollTimer = null;
  }

  readonly #poll = (): void => {
    this.#pollImmediate = this.#pollTimer = null;
    let worked = false;
    for (const queue of [...this.#polled]) {
      if (!this.#polled.has(queue) || !queue.wantsTurn()) continue;
      worked = true;
      this.#serve(queue);
    }
    if (this.#polled.size === 0) return;
    this.#idleLooks = worked ? 0 : this.#idleLooks + 1;
    if (this.#idleLooks < POLL_EAGER_LOOKS) this.#pollImmediate = setImmediate(this.#poll);
    else this.#pollTimer = setTimeout(this.#poll, POLL_INTERVAL);
  };
}
