import { VirtqueueError } from '../errors.js';
import type { PlaceRange } from '../virtqueue/translation.js';
import { ChainBatch } from '../virtqueue/chain-batch.js';
import type {
  DeviceVirtqueue,
  QueueCounters,
  VirtqueueAreas,
  VirtqueueMemory,
  VirtqueueState,
} from '../virtqueue/device-virtqueue.js';
import type { VirtqueueLog } from '../virtqueue/virtqueue-log.js';
import { segmentCapacity } from './chain-queue.js';
import type { DeviceQueue } from './device-queue.js';
import type { LoopQueue, QueueScheduler } from './queue-scheduler.js';
import type { VirtioDevice } from './virtio-device.js';

export interface QueueHostOptions {
  readonly virtqueue: DeviceVirtqueue;
  readonly device: VirtioDevice;
  /** Negotiated feature bits. */
  readonly features: bigint;
  /** The platform's window table. */
  readonly windows: { readonly u8: readonly Uint8Array[]; readonly u32: readonly Uint32Array[] };
  readonly loop: QueueScheduler;
  /** Signals the driver. */
  readonly call: () => void;
  /** Told once, when the ring is latched as broken. */
  readonly onBroken: (error: VirtqueueError) => void;
  /** Told after every turn. */
  readonly onTurn?: () => void;
}

/** Chains that one turn may take before other queues and the sockets have theirs. */
const TURN_BUDGET = 256;
/** Chains that are discarded at a time. */
const DISCARD_BATCH = 64;

/**
 * The life of one started ring between its driver and its device, from `enable` to `stop` or `detach`. It is what the
 * device gets as its DeviceQueue.
 *
 *   closed ──enable──▶ open ──stop──▶ draining ──last chain completed──▶ ended
 *     ▲                │ │
 *     └──disable───────┘ ├─whenQuiet─▶ quiescing ──last chain completed, action run──▶ open
 *                        └─detach────▶ detached: completions are counted and dropped
 *
 * While it is not open, `drain` gives nothing. Where the device wants chains of a disabled queue thrown away, that is done here
 * as well. A turn that ends with chains left over that the device did not want waits for `resume` (or a kick) and leaves kicks
 * off: whoever cannot take chains has no use for being told of more.
 */
export class QueueHost implements DeviceQueue, LoopQueue {
  readonly index: number;
  readonly size: number;
  readonly features: bigint;
  readonly u8: readonly Uint8Array[];
  readonly u32: readonly Uint32Array[];
  readonly counters: QueueCounters;
  readonly #virtqueue: DeviceVirtqueue;
  readonly #options: QueueHostOptions;

  #enabled = false;
  #started = false;
  #ended = false;
  /** Set while the queue waits for its in-flight chains: what to do then; false when it must stay closed after it. */
  #whenQuiet: (() => boolean) | null = null;
  #stayClosed = false;
  #held = false;
  #stopped: ((state: VirtqueueState) => void) | null = null;
  /** Told when no chain is in flight. */
  readonly #idle: (() => void)[] = [];
  /** Set by `detach`: told when the last chain is completed. */
  #detached: (() => void) | null = null;
  #abandoned = 0;
  #reported = false;
  #failed = false;
  /** `drain` gives chains; derived from the states above by #refresh, since the hot path reads it. */
  #open = false;
  /**
   * Disabled after it was enabled, and what comes is completed unserved; derived likewise. What waits in a ring that starts is
   * left for when it is enabled: a front-end that came back has sent it once and will not again.
   */
  #discarding = false;
  #discarded: ChainBatch | null = null;
  #budget = TURN_BUDGET;
  #taken = 0;
  /** The device looked for chains and found none: it wants those that come behind its back. */
  #foundNone = false;
  #unwanted = false;
  #resumed = false;
  #inTurn = false;

  constructor(options: QueueHostOptions) {
    this.#options = options;
    this.#virtqueue = options.virtqueue;
    this.index = options.virtqueue.index;
    this.size = options.virtqueue.size;
    this.counters = options.virtqueue.counters;
    this.features = options.features;
    this.u8 = options.windows.u8;
    this.u32 = options.windows.u32;
    options.loop.add(this);
  }

  // --- what the transport does with it

  /** The ring is enabled. The device is told of the queue at the first time; then the ring is looked at, kick or not. */
  enable(): void {
    this.#enabled = true;
    this.#refresh();
    if (this.#ended) return;
    if (!this.#started) {
      this.#started = true;
      this.#guard(() => this.#options.device.startQueue?.(this));
    }
    this.resume();
  }

  /** No more chains are served; those in flight may still be completed. */
  disable(): void {
    const was = this.enabled;
    this.#enabled = false;
    this.#refresh();
    if (!was) return;
    this.#guard(() => this.#options.device.disableQueue?.(this));
    if (this.#discarding) this.resume();
  }

  /** The driver kicked. */
  kick(): void {
    this.counters.kicks++;
    this.#options.loop.kicked(this);
  }

  /**
   * Takes no more chains and runs `action` once none is in flight, at once if none is. It moves the ring to another
   * memory map, say, and returns whether the ring can go on. A later call replaces an action that has not run yet.
   */
  whenQuiet(action: () => boolean): void {
    if (this.#ended) return;
    this.#whenQuiet = action;
    this.#refresh();
    this.#yield();
    this.#settle();
  }

  /**
   * Calls `done` once no chain is in flight and what was completed is published. The queue must be disabled, so that none is
   * taken meanwhile. A queue whose device failed does not wait, as in `stop`.
   */
  whenIdle(done: () => void): void {
    this.#idle.push(done);
    this.#yield();
    this.#settle();
  }

  /**
   * Ends the queue and resolves with the ring's position when every chain is completed. A queue whose device failed does
   * not wait: nobody can say that its chains will ever be completed.
   */
  stop(): Promise<VirtqueueState> {
    this.#end(true);
    return new Promise((resolve) => {
      this.#stopped = resolve;
      this.#settle();
    });
  }

  /**
   * Ends the queue with chains in flight, which the device lets go of, and gives the ring's position; what is completed is
   * published. They stay in the in-flight region. `detach` follows.
   */
  park(): VirtqueueState {
    this.#end();
    this.commit();
    return this.#virtqueue.state();
  }

  /** Gives no chains while it is set, as if nothing had come. */
  hold(held: boolean): void {
    this.#held = held;
    this.#refresh();
    this.resume();
  }

  /** Whether chains in flight are tracked. */
  get tracked(): boolean {
    return this.#virtqueue.tracked;
  }

  /** The device threw, or said that it cannot go on. */
  get failed(): boolean {
    return this.#failed;
  }

  /**
   * Ends the queue without waiting and without touching the ring any more. Completions still to come are counted and
   * dropped; `released` is told when none is missing, that is when nobody uses the chains' memory.
   */
  detach(released: () => void): void {
    this.#end();
    // Completions held back for the sake of their order have come; they do not come again.
    this.#abandoned = this.#virtqueue.withDevice;
    this.#detached = released;
    this.#virtqueue.abandonPlaces();
    if (this.#abandoned === 0) released();
    this.#stopped?.(this.#virtqueue.state());
    this.#stopped = null;
    for (const done of this.#idle.splice(0)) done();
  }

  /** Points the ring at another memory map; only from the action of `whenQuiet`. Throws VirtqueueError. */
  rebind(memory: VirtqueueMemory, areas: VirtqueueAreas): void {
    this.#virtqueue.rebind(memory, areas);
  }

  /**
   * Begins, changes or ends (null) the logging of the ring's writes; see DeviceVirtqueue.setLog. For `covered` the device gives
   * back what it only keeps in hand.
   */
  setLog(log: VirtqueueLog | null, covered?: () => void): void {
    this.#virtqueue.setLog(log, covered);
    if (covered !== undefined) this.#yield();
  }

  /** Behind an IOMMU: translations came that the ring may have waited for. */
  translated(): void {
    this.#virtqueue.translated();
    this.resume();
  }

  /**
   * Calls `done` when no chain that is in flight now lies in one of these places, or, with null, when none of them is in flight
   * any more. A queue whose device failed does not wait, as in `stop`.
   */
  whenUnused(places: readonly PlaceRange[] | null, done: () => void): void {
    if (this.#failed || this.#detached !== null) {
      done();
      return;
    }
    let waits = true;
    this.#virtqueue.whenUnused(places, () => {
      waits = false;
      done();
    });
    if (waits) this.#yield();
  }

  /** Whether the ring has no kick fd now. */
  set polled(polled: boolean) {
    if (!this.#ended) this.#options.loop.setPolled(this, polled);
  }

  /** Latches the ring as broken from outside, e.g. because its memory vanished. */
  break(error: VirtqueueError): void {
    this.#virtqueue.break(error);
    this.#reportBroken();
  }

  get broken(): VirtqueueError | null {
    return this.#virtqueue.broken;
  }

  // --- what the device sees

  get inFlight(): number {
    return this.#detached === null ? this.#virtqueue.inFlight : this.#abandoned;
  }

  get enabled(): boolean {
    return this.#enabled && !this.#ended;
  }

  drain(batch: ChainBatch, max: number): number {
    if (!this.#open) {
      batch.count = 0;
      return 0;
    }
    if (this.#budget <= 0) {
      batch.count = 0;
      if (!this.#inTurn) this.resume();
      return 0;
    }
    const count = this.#virtqueue.drain(batch, max < this.#budget ? max : this.#budget);
    this.#budget -= count;
    this.#taken += count;
    if (count === 0) {
      this.#foundNone = true;
      if (this.#virtqueue.broken !== null) this.#reportBroken();
    }
    return count;
  }

  pushBatch(batch: ChainBatch, count: number): void {
    if (this.#detached !== null) this.#drop(count);
    else {
      this.#virtqueue.pushBatch(batch, count);
      if (!this.#open) this.#settle();
    }
  }

  complete(handle: number, written: number): void {
    if (this.#detached !== null) this.#drop(1);
    else {
      this.#virtqueue.complete(handle, written);
      if (!this.#open) this.#settle();
    }
  }

  commit(): void {
    // A ring that must stay closed may have lost its memory, and nothing of it is in flight.
    if (this.#detached !== null || this.#stayClosed) return;
    if (this.#virtqueue.broken !== null) return this.#reportBroken();
    this.#virtqueue.publish();
    if (this.#virtqueue.needsCall()) this.#options.call();
    // What is taken outside of a turn (receive buffers for packets that came) is bounded from one commit to the next.
    if (!this.#inTurn) this.#budget = TURN_BUDGET;
  }

  resume(): void {
    this.#resumed = true;
    if (this.#open || this.#discarding) this.#options.loop.schedule(this);
  }

  fail(cause: unknown): void {
    this.#failed = true;
    if (this.#detached !== null) return;
    this.break(
      new VirtqueueError('ERR_VIRTQ_DEVICE', this.index, `the device failed: ${messageOf(cause)}`, { cause }),
    );
    this.#virtqueue.abandonPlaces();
    this.#settle();
  }

  // --- what the loop does with it

  turn(): boolean {
    if (this.#discarding) return this.#discard();
    if (!this.#open) return false;
    const virtqueue = this.#virtqueue;
    virtqueue.disableNotifications();
    this.#budget = TURN_BUDGET;
    this.#unwanted = this.#resumed = false;
    this.#inTurn = true;
    let more = false;
    do {
      this.#taken = 0;
      this.#foundNone = false;
      try {
        this.#options.device.serveQueue(this);
        this.commit();
      } catch (cause) {
        this.fail(cause);
      }
      more = this.#open && virtqueue.hasAvailable();
    } while (more && (this.#taken > 0 || this.#foundNone) && this.#budget > 0);
    this.#inTurn = false;
    if (more && this.#taken === 0 && !this.#foundNone) this.#unwanted = !this.#resumed;
    this.#options.onTurn?.();
    return (more && this.#budget <= 0) || (this.#resumed && this.#open);
  }

  wantsTurn(): boolean {
    return this.#attentive && this.#virtqueue.hasAvailable();
  }

  sleep(): boolean {
    return this.#attentive && this.#virtqueue.enableNotifications();
  }

  // --- inside

  /** A turn may be of use. */
  get #attentive(): boolean {
    return this.#discarding || (this.#open && !this.#unwanted);
  }

  #refresh(): void {
    const usable =
      !this.#ended &&
      !this.#held &&
      !this.#stayClosed &&
      this.#whenQuiet === null &&
      this.#virtqueue.broken === null;
    this.#open = usable && this.#enabled;
    this.#discarding =
      usable &&
      this.#started &&
      !this.#enabled &&
      (this.#options.device.discardsDisabled?.(this.index) ?? false);
  }

  /** A turn of a disabled queue whose chains are completed unserved. True when it stopped because of its bound. */
  #discard(): boolean {
    const virtqueue = this.#virtqueue;
    const batch = (this.#discarded ??= new ChainBatch(DISCARD_BATCH, segmentCapacity(this.size)));
    virtqueue.disableNotifications();
    this.#resumed = false;
    let left = TURN_BUDGET;
    while (left > 0) {
      const count = virtqueue.drain(batch, batch.chainCapacity);
      if (count === 0) break;
      batch.written.fill(0, 0, count);
      virtqueue.pushBatch(batch, count);
      left -= count;
    }
    if (virtqueue.broken !== null) this.#reportBroken();
    this.commit();
    this.#options.onTurn?.();
    return left <= 0;
  }

  /** `waits`: for the chains in flight, so that the device first gives back those that it only keeps in hand. */
  #end(waits = false): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#whenQuiet = null;
    this.#refresh();
    this.#options.loop.remove(this);
    if (!this.#started) return;
    const { device } = this.#options;
    if (waits) this.#guard(() => device.yieldQueue?.(this));
    this.#guard(() => device.stopQueue?.(this));
  }

  /** Has the device give back what it only keeps in hand: nothing that waits for a quiet ring should wait for the driver. */
  #yield(): void {
    if (this.#started && !this.#ended) this.#guard(() => this.#options.device.yieldQueue?.(this));
  }

  /** Goes on with what waits for the in-flight chains, once there are none. */
  #settle(): void {
    const idle = this.#idle.length > 0;
    if (this.#virtqueue.inFlight > 0 && !(this.#failed && (this.#stopped !== null || idle))) return;
    if (this.#stopped === null && this.#whenQuiet === null && !idle) return;
    // This may break the ring, and whoever hears of that may end it: what is to be done is looked up afterwards.
    this.commit();
    for (const done of this.#idle.splice(0)) done();
    const [stopped, action] = [this.#stopped, this.#whenQuiet];
    // What ran because of a failed device leaves chains in flight.
    if (stopped === null && this.#virtqueue.inFlight > 0) return;
    if (stopped !== null) {
      this.#stopped = null;
      stopped(this.#virtqueue.state());
    } else if (action !== null) {
      this.#whenQuiet = null;
      this.#stayClosed = !action();
      this.#refresh();
      this.resume();
    }
  }

  #drop(count: number): void {
    this.#abandoned -= count;
    if (this.#abandoned === 0) this.#detached?.();
  }

  #reportBroken(): void {
    this.#refresh();
    const error = this.#virtqueue.broken;
    if (error === null || this.#reported) return;
    this.#reported = true;
    this.#options.onBroken(error);
  }

  /** Runs the device's code; what it throws breaks this queue and nothing else. */
  #guard(run: () => void): void {
    try {
      run();
    } catch (cause) {
      this.fail(cause);
    }
  }
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
