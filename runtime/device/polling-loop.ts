import type { LoopQueue, QueueScheduler } from './queue-scheduler.js';

/** Milliseconds of looking between two turns of Node's loop, in which sockets, timers and completions have theirs. */
const SLICE = 0.05;
/** Rounds in vain between two looks at the clock. */
const ROUNDS_PER_CLOCK = 32;

/**
 * Looks at its queues again and again and never asks for kicks: the whole of one processor, for the shortest way of a chain.
 *
 *   Node's loop ─▶ round over the queues ─▶ … ─▶ the slice is over, or only completions can bring more ─▶ setImmediate
 */
export class PollingLoop implements QueueScheduler {
  /** That of this thread: two that looked in turn would each wait for the other's slices. */
  static readonly shared = new PollingLoop();
  readonly #queues: LoopQueue[] = [];
  /** Those that have more than a turn holds, or asked for one. */
  readonly #ready = new Set<LoopQueue>();
  #immediate: NodeJS.Immediate | null = null;

  add(queue: LoopQueue): void {
    this.#queues.push(queue);
    this.#immediate ??= setImmediate(this.#run);
  }

  remove(queue: LoopQueue): void {
    const at = this.#queues.indexOf(queue);
    if (at >= 0) this.#queues.splice(at, 1);
    this.#ready.delete(queue);
  }

  /** All are. */
  setPolled(): void {}

  schedule(queue: LoopQueue): void {
    if (this.#queues.includes(queue)) this.#ready.add(queue);
  }

  /** A kick that crossed with the first turn, or one of a driver that kicks always; the next round is near. */
  kicked(): void {}

  readonly #run = (): void => {
    this.#immediate = null;
    const end = performance.now() + SLICE;
    let idle = 0;
    do {
      if (this.#round()) {
        idle = 0;
        continue;
      }
      // Completions come through Node's loop.
      if (this.#queues.some((queue) => queue.inFlight > 0)) break;
      idle++;
    } while (idle % ROUNDS_PER_CLOCK !== 0 || performance.now() < end);
    if (this.#queues.length > 0) this.#immediate = setImmediate(this.#run);
  };

  /** Gives each queue a turn that has use for one. A turn may add and remove queues. */
  #round(): boolean {
    const ready = this.#ready;
    let worked = false;
    for (let i = 0; i < this.#queues.length; i++) {
      const queue = this.#queues[i]!;
      if (!(ready.size > 0 && ready.delete(queue)) && !queue.wantsTurn()) continue;
      worked = true;
      if (queue.turn()) this.schedule(queue);
    }
    return worked;
  }
}
