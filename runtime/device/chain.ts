import { DeviceError } from '../errors.js';
import type { ChainBatch } from '../virtqueue/chain-batch.js';
import { ChainReader, ChainWriter } from './chain-cursor.js';
import type { DeviceQueue } from './device-queue.js';

/**
 * One request of the driver: what it sent (`readable`) and the room for the answer (`writable`). A comfortable view of a
 * row of a ChainBatch; the object is used again for the next chain unless it is kept.
 */
export class DescriptorChain {
  readonly queue: DeviceQueue;
  readonly readable = new ChainReader();
  readonly writable = new ChainWriter();
  #handle = -1;
  #segments: Int32Array = new Int32Array(0);
  #first = 0;
  #count = 0;
  #kept = false;

  constructor(queue: DeviceQueue) {
    this.queue = queue;
  }

  /** Names the chain in its queue; -1 once it is completed. */
  get handle(): number {
    return this.#handle;
  }

  /** Whether the chain outlives the step that delivered it. */
  get kept(): boolean {
    return this.#kept;
  }

  /** @internal Shows row `row` of a batch. */
  show(batch: ChainBatch, row: number): void {
    const { chains, segments } = batch;
    const first = chains[row * 4 + 1]!;
    const readable = chains[row * 4 + 2]!;
    const writable = chains[row * 4 + 3]!;
    this.#handle = chains[row * 4]!;
    this.#segments = segments;
    this.#first = first;
    this.#count = readable + writable;
    this.readable.place(this.queue.u8, segments, first, readable);
    this.writable.place(this.queue.u8, segments, first + readable, writable);
  }

  /** Keeps the chain beyond this step: it stays valid until `complete`, which may come at any later time. */
  keep(): this {
    if (this.#kept || this.#handle < 0) return this;
    this.#kept = true;
    const copy = this.#segments.slice(this.#first * 4, (this.#first + this.#count) * 4);
    this.readable.moveTo(copy, this.#first);
    this.writable.moveTo(copy, this.#first);
    return this;
  }

  /**
   * Gives the chain back to the driver, which learns that its first `written` writable bytes are filled. Call
   * `queue.commit()` afterwards when this happens outside `serveQueue`. Throws DeviceError (ERR_DEVICE_FAILED) for a chain
   * that was completed already, or for more bytes than there is room for.
   */
  complete(written: number = this.writable.written): void {
    if (this.#handle < 0) throw new DeviceError('ERR_DEVICE_FAILED', 'the chain was completed already');
    if (!Number.isInteger(written) || written < 0 || written > this.writable.length) {
      throw new DeviceError(
        'ERR_DEVICE_FAILED',
        `${written} bytes are said to be written to a chain with room for ${this.writable.length}`,
      );
    }
    const handle = this.#handle;
    this.#handle = -1;
    this.queue.complete(handle, written);
  }
}
