import { VirtqueueError } from '../errors.js';
import type { DriverVirtqueue } from '../virtqueue/driver-virtqueue.js';
import { UsedBatch } from '../virtqueue/driver-virtqueue.js';
import type { GuestBuffer, GuestRam } from './guest-ram.js';

/** How a driver's queue reaches the other side. */
export interface QueueLink {
  /** Kicks the device. */
  kick(): void;
  /** Resolves when the other side is gone for good; what waits for a call then fails with the reason. */
  readonly ended: Promise<Error>;
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

interface Waiting {
  readonly buffers: readonly GuestBuffer[];
  readonly writable: readonly GuestBuffer[];
  readonly resolve: (result: TransferResult) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A driver's queue with its notifications: `transfer` sends one chain and waits for it, which is all that a device's test
 * needs; `driver`, `commit` and `called` are the same in parts, without an object a chain.
 */
export class MockQueue {
  readonly index: number;
  readonly ram: GuestRam;
  /** The ring below. Whoever collects from it directly must not have transfers under way. */
  readonly driver: DriverVirtqueue;
  readonly #link: QueueLink;
  readonly #transfers = new Map<number, Waiting>();
  readonly #used: UsedBatch;
  #wake: (() => void)[] = [];
  #calls = 0;
  #ended: Error | null = null;
  #collecting = false;

  constructor(index: number, ram: GuestRam, driver: DriverVirtqueue, link: QueueLink) {
    this.index = index;
    this.ram = ram;
    this.driver = driver;
    this.#link = link;
    this.#used = new UsedBatch(Math.min(driver.size, 1024));
    void link.ended.then((reason) => {
      this.#ended = reason;
      this.#wakeAll();
    });
  }

  /** Calls that came from the device so far. */
  get calls(): number {
    return this.#calls;
  }

  /** Why nothing will come any more, null while something may. */
  get endReason(): Error | null {
    return this.driver.broken ?? this.#ended;
  }

  /** Publishes what was added and kicks if the device wants to know. */
  commit(): void {
    this.driver.publish();
    if (this.driver.needsKick()) this.#link.kick();
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

  /**
   * Resolves as soon as used chains can be collected; asks for calls only if there are none now. Rejects when the queue
   * breaks, the device goes away or the signal aborts.
   */
  async called(signal?: AbortSignal): Promise<void> {
    while (!this.driver.enableCalls()) {
      signal?.throwIfAborted();
      if (this.endReason !== null) throw this.endReason;
      await new Promise<void>((resolve) => {
        const wake = () => {
          signal?.removeEventListener('abort', wake);
          resolve();
        };
        this.#wake.push(wake);
        signal?.addEventListener('abort', wake, { once: true });
      });
    }
    this.driver.disableCalls();
  }

  /**
   * Sends one chain: `readable` buffers are copied into guest memory, `writable` ones are made of the given lengths.
   * Resolves when the device used it. Rejects when the ring has no room, breaks, or the device goes away; after the
   * signal aborted, the chain's memory stays taken, since the device may still write there.
   */
  async transfer(
    readable: readonly Uint8Array[],
    writable: readonly number[] = [],
    options: TransferOptions = {},
  ): Promise<TransferResult> {
    options.signal?.throwIfAborted();
    if (this.endReason !== null) throw this.endReason;
    const buffers = [
      ...readable.map((bytes) => this.ram.allocate(Math.max(bytes.byteLength, 1))),
      ...writable.map((length) => this.ram.allocate(Math.max(length, 1))),
    ];
    const rows = new Int32Array(buffers.length * 4);
    buffers.forEach((buffer, i) => {
      const length = i < readable.length ? readable[i]!.byteLength : writable[i - readable.length]!;
      if (i < readable.length) buffer.bytes.set(readable[i]!);
      else buffer.bytes.fill(0xff);
      rows.set([buffer.window, buffer.offset, length], i * 4);
    });
    const { driver } = this;
    let id: number;
    try {
      id =
        options.indirect === true
          ? driver.addIndirect(rows, 0, readable.length, writable.length)
          : driver.add(rows, 0, readable.length, writable.length);
      if (id < 0) throw this.#noRoom(buffers.length);
    } catch (error) {
      for (const buffer of buffers) buffer.free();
      throw error;
    }
    const { signal } = options;
    const result = new Promise<TransferResult>((resolve, reject) => {
      const abort = () => {
        this.#transfers.set(id, { ...entry, resolve: () => undefined, reject: () => undefined });
        reject(signal!.reason as Error);
      };
      const entry: Waiting = {
        buffers,
        writable: buffers.slice(readable.length),
        resolve: (value) => {
          signal?.removeEventListener('abort', abort);
          resolve(value);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abort);
          reject(error as Error);
        },
      };
      this.#transfers.set(id, entry);
      signal?.addEventListener('abort', abort, { once: true });
    });
    this.commit();
    this.#collect();
    return result;
  }

  /** Hands every used chain to its transfer, and asks to be called for the others. */
  #collect(): void {
    if (this.#collecting) return;
    this.#collecting = true;
    do {
      while (this.driver.collect(this.#used, this.#used.capacity) > 0) {
        for (let i = 0; i < this.#used.count; i++) this.#finish(this.#used.ids[i]!, this.#used.lengths[i]!);
      }
    } while (this.endReason === null && this.driver.enableCalls());
    this.#collecting = false;
    if (this.endReason !== null) this.#failTransfers(this.endReason);
  }

  #finish(id: number, written: number): void {
    const transfer = this.#transfers.get(id);
    if (transfer === undefined) return;
    this.#transfers.delete(id);
    const buffers = transfer.writable.map((buffer) => buffer.bytes.slice());
    for (const buffer of transfer.buffers) buffer.free();
    const bytes = new Uint8Array(Buffer.concat(buffers).subarray(0, written));
    transfer.resolve({ written, bytes, buffers });
  }

  #failTransfers(reason: Error): void {
    for (const transfer of this.#transfers.values()) transfer.reject(reason);
    this.#transfers.clear();
  }

  #wakeAll(): void {
    for (const wake of this.#wake.splice(0)) wake();
    if (this.endReason !== null) this.#failTransfers(this.endReason);
  }

  #noRoom(needed: number): Error {
    if (this.driver.broken !== null) return this.driver.broken;
    return new VirtqueueError(
      'ERR_VIRTQ_CHAIN',
      this.index,
      `no room for a chain of ${needed} descriptors: ${this.driver.free} of ${this.driver.size} are free`,
    );
  }
}
