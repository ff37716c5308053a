import { DeviceError } from '../errors.js';
import type { DescriptorChain } from './chain.js';
import { ChainQueue } from './chain-queue.js';
import type { DeviceQueue } from './device-queue.js';
import type { VirtioDevice } from './virtio-device.js';

/**
 * A device that answers one chain after the other: extend it and implement `handleChain`. When the handler throws or
 * rejects, its queue breaks and is reported; other queues go on.
 */
export abstract class ChainDevice implements VirtioDevice {
  abstract readonly deviceId: number;
  readonly features: bigint = 0n;
  readonly queueCount: number = 1;
  readonly #chains = new WeakMap<DeviceQueue, ChainQueue>();

  /**
   * Serves one chain. Returns the number of bytes written, or nothing when that is what went through `chain.writable`.
   * With a promise the chain stays valid until it settles, and the next chains are served meanwhile.
   */
  abstract handleChain(chain: DescriptorChain, queue: DeviceQueue): number | void | Promise<number | void>;

  serveQueue(queue: DeviceQueue): void {
    let chains = this.#chains.get(queue);
    if (chains === undefined) this.#chains.set(queue, (chains = new ChainQueue(queue)));
    // A driver that refills its ring without end must not keep the loop from everything else.
    let budget = queue.size;
    for (const chain of chains) {
      this.#handle(chain, queue);
      if (--budget > 0) continue;
      queue.resume();
      return;
    }
  }

  #handle(chain: DescriptorChain, queue: DeviceQueue): void {
    try {
      const outcome = this.handleChain(chain, queue);
      if (typeof outcome === 'object') void this.#await(chain.keep(), queue, outcome);
      else chain.complete(outcome ?? undefined);
    } catch (cause) {
      breakQueue(chain, queue, cause);
    }
  }

  async #await(chain: DescriptorChain, queue: DeviceQueue, outcome: Promise<number | void>): Promise<void> {
    try {
      chain.complete((await outcome) ?? undefined);
      queue.commit();
    } catch (cause) {
      breakQueue(chain, queue, cause);
    }
  }
}

function breakQueue(chain: DescriptorChain, queue: DeviceQueue, cause: unknown): void {
  queue.fail(
    new DeviceError('ERR_DEVICE_FAILED', `queue ${queue.index}: the device failed to handle a chain`, {
      cause,
    }),
  );
  // The driver does not see this any more; it tells the queue that nobody uses the chain's memory.
  if (chain.handle >= 0) chain.complete(0);
}
