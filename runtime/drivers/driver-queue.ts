import { VirtqueueError } from '../errors.js';
import type { GuestBuffer, SharedMemory } from '../memory/shared-memory.js';
import type { DriverVirtqueue } from '../virtqueue/driver-virtqueue.js';
import { UsedBatch } from '../virtqueue/driver-virtqueue.js';

/** How a driver's queue reaches the other side. */
export interface QueueLink {
  /** Kicks the device. */
  kick(): void;
  /** Resolves when the other side is gone for good; what waits for a call then fails with the reason. */
  readonly ended: Promise<Error>;
  /** The device cannot call: the queue looks for itself, once each turn of the loop, while something is under way. */
  readonly polled?: boolean;
}

export interface TransferOptions {
  /** Use an indirect table. */
  readonly indirect?: boolean;
  readonly signal?: AbortSignal;
}

/** What came back for one chain. */
export interface TransferResult {
  /** Bytes that the device says it wrote. */
  readonly written: number;
  /** The writable buffers, one behind the other, cut to `written`. */
  readonly bytes: Uint8Array;
  /** Each writable buffer whole. What the device did not write is 0xff. */
  readonly buffers: readonly Uint8Array[];
}

/** One chain under way, with what is needed to issue it once more. */
interface Transfer {
  readonly rows: Int32Array;
  readonly readable: number;
  readonly writable: number;
  readonly indirect: boolean;
  readonly buffers: readonly GuestBuffer[];
  resolve: (result: TransferResult) => void;
  reject: (error: unknown) => void;
}

/** Who adds to the ring directly, and has to do so again on a fresh one. */
export interface QueueUser {
  /** The device that had the chains is gone: collects what it used. Another one takes over, in this ring or a fresh one. */
  abandoned(): void;
  /** The ring is a fresh one, `queue.driver`: adds what the device before had not used. */
  restarted(): void;
  /** The queue collected a chain that it did not add; true when it is this user's. */
  returned?(id: number, written: number): boolean;
}

/**
 * A driver's queue with its notifications: `transfer` sends one chain and waits for it, which is all that a test of a device
 * needs; `driver`, `commit` and `called` are the same in parts, without an object a chain.
 */
export class DriverQueue {
  readonly index: number;
  readonly ram: SharedMemory;
  readonly #link: QueueLink;
  /** By id; in the order in which they were added. */
  readonly #transfers = new Map<number, Transfer>();
  readonly #users = new Set<QueueUser>();
  readonly #used: UsedBatch;
  #driver: DriverVirtqueue;
  #wake: (() => void)[] = [];
  #calls = 0;
  /** Kicks of the rings before a restart. */
  #kicksBefore = 0;
  #ended: Error | null = null;
  #failed: Error | null = null;
  #collecting = false;
  #polling = false;
  /** Goes up whenever users may have got chains back that they did not collect themselves in their turn. */
  #handovers = 0;

  constructor(index: number, ram: SharedMemory, driver: DriverVirtqueue, link: QueueLink) {
    this.index = index;
    this.ram = ram;
    this.#driver = driver;
    this.#link = link;
    this.#used = new UsedBatch(Math.min(driver.size, 1024));
    void link.ended.then((reason) => {
      this.#ended = reason;
      this.#wakeAll();
    });
  }

  /** The ring below. Whoever collects from it directly must not have transfers under way. */
  get driver(): DriverVirtqueue {
    return this.#driver;
  }

  /** Calls that came from the device so far. */
  get calls(): number {
    return this.#calls;
  }

  /** Kicks that the device wanted so far. */
  get kicks(): number {
    return this.#kicksBefore + this.#driver.counters.kicks;
  }

  /** Why nothing will come any more, null while something may. */
  get endReason(): Error | null {
    return this.#driver.broken ?? this.#failed ?? this.#ended;
  }

  /** Publishes what was added and kicks if the device wants to know. */
  commit(): void {
    this.#driver.publish();
    if (this.#driver.needsKick()) this.#link.kick();
  }

  /** Kicks whether the device wants it or not. */
  kick(): void {
    this.#link.kick();
  }

  /** The transport reports a call. */
  notify(): void {
    this.#calls++;
    this.#wakeAll();
    if (this.#transfers.size > 0) this.#collect();
  }

  /** The other side says that the ring is broken: everything that waits fails, until a device with a fresh ring takes over. */
  fail(reason: Error): void {
    this.#failed ??= reason;
    this.#wakeAll();
  }

  /** Whoever uses `driver` directly says so, to be told of a fresh ring. Returns how to leave again. */
  use(user: QueueUser): () => void {
    this.#users.add(user);
    return () => void this.#users.delete(user);
  }

  /**
   * Another device takes over, with a ring that `start` makes afresh, in the same memory: what the one before used is collected, what it had not is
   * issued again, in the order in which it was issued. A request may so be carried out twice.
   */
  restart(start: () => DriverVirtqueue): void {
    // The fresh ring lies where the old one does.
    this.#takeUsed();
    for (const user of this.#users) user.abandoned();
    const before = this.#driver;
    const driver = start();
    const transfers = [...this.#transfers.values()];
    this.#transfers.clear();
    this.#driver = driver;
    this.#failed = null;
    this.#kicksBefore += before.counters.kicks;
    for (const transfer of transfers) {
      const id = this.#add(transfer);
      if (id >= 0) this.#transfers.set(id, transfer);
      else this.#abandon(transfer, this.#noRoom(transfer.readable + transfer.writable));
    }
    for (const user of this.#users) user.restarted();
    this.#handovers++;
    driver.publish();
    if (transfers.length > 0) this.#collect();
    this.#wakeAll();
  }

  /**
   * Another device takes over and finishes what the one before had in flight, in the ring as it is. What that one used, called or
   * not, is collected.
   */
  resume(): void {
    for (const user of this.#users) user.abandoned();
    this.#handovers++;
    this.#failed = null;
    this.#wakeAll();
    if (this.#transfers.size > 0) this.#collect();
  }

  /** Somebody who uses `driver` directly collected a chain that he did not add. One that nobody waits for any more is forgotten. */
  returned(id: number, written: number): void {
    this.#finish(id, written);
  }

  /** What a stopped device has used reaches its transfers. */
  collectStopped(): void {
    if (this.#transfers.size > 0) this.#collect();
  }

  /**
   * Resolves as soon as used chains can be collected, or were handed to a `QueueUser` meanwhile; asks for calls only if there
   * are none now. Rejects when the queue breaks, the device goes away or the signal aborts.
   */
  async called(signal?: AbortSignal): Promise<void> {
    const handovers = this.#handovers;
    while (!this.#ready() && this.#handovers === handovers) {
      signal?.throwIfAborted();
      if (this.endReason !== null) throw this.endReason;
      if (this.#link.polled === true) await new Promise(setImmediate);
      else await this.#woken(signal);
    }
    this.#driver.disableCalls();
  }

  /**
   * Sends one chain: `readable` buffers are copied into guest memory, `writable` ones are made of the given lengths.
   * Resolves when the device used it. Waits while the ring is full. Rejects when it can never hold the chain, breaks, or the
   * device goes away; after the signal aborted, the chain's memory stays taken until the device has used it.
   */
  async transfer(
    readable: readonly Uint8Array[],
    writable: readonly number[] = [],
    options: TransferOptions = {},
  ): Promise<TransferResult> {
    const { signal, indirect = false } = options;
    signal?.throwIfAborted();
    if (this.endReason !== null) throw this.endReason;
    const buffers = this.#buffers(readable, writable);
    const rows = new Int32Array(buffers.length * 4);
    buffers.forEach((buffer, i) => {
      const length = i < readable.length ? readable[i]!.byteLength : writable[i - readable.length]!;
      if (i < readable.length) buffer.bytes.set(readable[i]!);
      else buffer.bytes.fill(0xff);
      rows.set([buffer.window, buffer.offset, length], i * 4);
    });
    const chain = { rows, readable: readable.length, writable: writable.length, indirect, buffers };
    let id: number;
    try {
      while ((id = this.#add(chain)) < 0) {
        if (this.endReason !== null || this.#transfers.size === 0) throw this.#noRoom(buffers.length);
        await this.#woken(signal);
        signal?.throwIfAborted();
      }
    } catch (error) {
      for (const buffer of buffers) buffer.free();
      throw error;
    }
    const result = this.#wait(id, chain, signal);
    // Should the kick fail, that is what the caller is told, and nobody waits any more.
    result.catch(() => undefined);
    this.commit();
    this.#collect();
    return result;
  }

  #wait(
    id: number,
    chain: Omit<Transfer, 'resolve' | 'reject'>,
    signal: AbortSignal | undefined,
  ): Promise<TransferResult> {
    return new Promise<TransferResult>((resolve, reject) => {
      const abort = () => {
        transfer.resolve = transfer.reject = () => undefined;
        reject(signal!.reason as Error);
      };
      const transfer: Transfer = {
        ...chain,
        resolve: (value) => {
          signal?.removeEventListener('abort', abort);
          resolve(value);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abort);
          reject(error as Error);
        },
      };
      this.#transfers.set(id, transfer);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }

  #buffers(readable: readonly Uint8Array[], writable: readonly number[]): GuestBuffer[] {
    const buffers: GuestBuffer[] = [];
    try {
      for (const { byteLength } of readable) buffers.push(this.ram.allocate(Math.max(byteLength, 1)));
      for (const length of writable) buffers.push(this.ram.allocate(Math.max(length, 1)));
    } catch (error) {
      for (const buffer of buffers) buffer.free();
      throw error;
    }
    return buffers;
  }

  #add({ rows, readable, writable, indirect }: Omit<Transfer, 'resolve' | 'reject'>): number {
    return indirect
      ? this.#driver.addIndirect(rows, 0, readable, writable)
      : this.#driver.add(rows, 0, readable, writable);
  }

  #ready(): boolean {
    // Whoever hung up has given the ring's memory back as well: the end is told in a moment.
    if (this.ram.regions.length === 0) return false;
    return this.#link.polled === true ? this.#driver.hasUsed() : this.#driver.enableCalls();
  }

  /** Resolves at the next call, at the end, or when the signal aborts. */
  #woken(signal: AbortSignal | undefined): Promise<void> {
    return new Promise<void>((resolve) => {
      const wake = () => {
        signal?.removeEventListener('abort', wake);
        resolve();
      };
      this.#wake.push(wake);
      signal?.addEventListener('abort', wake, { once: true });
    });
  }

  /** Hands every used chain to its transfer, and asks to be called for the others. */
  #collect(): void {
    if (this.#collecting) return;
    this.#collecting = true;
    let finished = 0;
    do finished += this.#takeUsed();
    while (
      // A device that uses more than it was given must not keep us here.
      this.#transfers.size > 0 &&
      this.endReason === null &&
      this.#link.polled !== true &&
      this.#driver.enableCalls()
    );
    this.#collecting = false;
    // Somebody may wait for room.
    if (finished > 0 || this.endReason !== null) this.#wakeAll();
    if (this.#link.polled === true && this.#transfers.size > 0) this.#poll();
  }

  #takeUsed(): number {
    let finished = 0;
    if (this.#transfers.size === 0) return 0;
    while (this.#driver.collect(this.#used, this.#used.capacity) > 0) {
      finished += this.#used.count;
      for (let i = 0; i < this.#used.count; i++) {
        const [id, written] = [this.#used.ids[i]!, this.#used.lengths[i]!];
        if (!this.#finish(id, written)) this.#handOver(id, written);
      }
    }
    return finished;
  }

  #poll(): void {
    if (this.#polling) return;
    this.#polling = true;
    setImmediate(() => {
      this.#polling = false;
      if (this.#transfers.size > 0) this.#collect();
    });
  }

  /** False when the chain is not of `transfer`. */
  #finish(id: number, written: number): boolean {
    const transfer = this.#transfers.get(id);
    if (transfer === undefined) return false;
    this.#transfers.delete(id);
    const buffers = transfer.buffers.slice(transfer.readable).map((buffer) => buffer.bytes.slice());
    for (const buffer of transfer.buffers) buffer.free();
    const bytes = new Uint8Array(Buffer.concat(buffers).subarray(0, written));
    transfer.resolve({ written, bytes, buffers });
    return true;
  }

  #handOver(id: number, written: number): void {
    for (const user of this.#users) {
      if (user.returned?.(id, written) !== true) continue;
      this.#handovers++;
      return;
    }
  }

  #abandon(transfer: Transfer, error: Error): void {
    for (const buffer of transfer.buffers) buffer.free();
    transfer.reject(error);
  }

  /** The chains' memory stays taken: nobody says that the device will not write there any more. */
  #failTransfers(reason: Error): void {
    for (const transfer of this.#transfers.values()) transfer.reject(reason);
    this.#transfers.clear();
  }

  #wakeAll(): void {
    for (const wake of this.#wake.splice(0)) wake();
    if (this.endReason !== null) this.#failTransfers(this.endReason);
  }

  #noRoom(needed: number): Error {
    if (this.endReason !== null) return this.endReason;
    const { free, size } = this.#driver;
    return new VirtqueueError(
      'ERR_VIRTQ_CHAIN',
      this.index,
      `no room for a chain of ${needed} descriptors: ${free} of ${size} are free`,
    );
  }
}
