import { DeviceError } from '../errors.js';
import { ChainBatch } from '../virtqueue/chain-batch.js';
import { DescriptorChain } from './chain.js';
import type { DeviceQueue } from './device-queue.js';

/**
 * The chains of a queue, one by one: `for (const chain of chains)`. Every step must end with `chain.complete()` or
 * `chain.keep()`. The loop ends when nothing is available; leaving it early loses nothing, the rest stays in the ring
 * (ask for another `serveQueue` with `queue.resume()`). Iterate again at the next call.
 *
 * Drains one chain at a time. A device that counts nanoseconds drains whole batches itself.
 */
export class ChainQueue implements IterableIterator<DescriptorChain> {
  readonly queue: DeviceQueue;
  readonly #batch: ChainBatch;
  #chain: DescriptorChain;

  constructor(queue: DeviceQueue) {
    this.queue = queue;
    this.#batch = new ChainBatch(1, segmentCapacity(queue.size));
    this.#chain = new DescriptorChain(queue);
  }

  [Symbol.iterator](): this {
    return this;
  }

  next(): IteratorResult<DescriptorChain, undefined> {
    if (this.#chain.kept) {
      this.#chain = new DescriptorChain(this.queue);
    } else if (this.#chain.handle >= 0) {
      throw new DeviceError('ERR_DEVICE_FAILED', 'the chain before was neither completed nor kept');
    }
    if (this.queue.drain(this.#batch, 1) === 0) return { done: true, value: undefined };
    this.#chain.show(this.#batch, 0);
    return { done: false, value: this.#chain };
  }
}

/** Segments of the longest chain worth serving: twice the queue for buffers that cross regions, and some for small queues. */
export function segmentCapacity(queueSize: number): number {
  return Math.max(2 * queueSize, 1024);
}
