/** A queue as its scheduler sees it; `QueueHost` is one. */
export interface LoopQueue {
  /** Chains drained and not completed. */
  readonly inFlight: number;
  /** Serves a bounded number of chains. True when it stopped because of the bound and there is more. */
  turn(): boolean;
  /** A plain peek: a turn would find something to do. */
  wantsTurn(): boolean;
  /** Asks the driver for kicks. True when chains arrived meanwhile: have another turn. */
  sleep(): boolean;
}

/** Takes turns between the queues that one Node event loop serves: `QueueLoop` by kicks, `PollingLoop` without. */
export interface QueueScheduler {
  add(queue: LoopQueue): void;
  remove(queue: LoopQueue): void;
  /** Whether the queue has no kick fd now. */
  setPolled(queue: LoopQueue, polled: boolean): void;
  /** Has the queue served soon, not now. */
  schedule(queue: LoopQueue): void;
  /** A kick came. */
  kicked(queue: LoopQueue): void;
}
