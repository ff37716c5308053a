import type { SharedMemory, SharedMemoryOptions } from '../memory/shared-memory.js';
import { VirtioDriver, type VirtioDriverOptions } from '../drivers/virtio-driver.js';

export interface MockDriverOptions extends Omit<VirtioDriverOptions, 'memory'> {
  readonly ram?: SharedMemoryOptions;
}

/**
 * A whole pretended guest with one device: a `VirtioDriver` by the names of a test. It connects to a back-end, negotiates,
 * shares memory, and runs the rings.
 *
 * @example
 * ```ts
 * using driver = await MockDriver.start({ platform, path: '/run/vm/rng.sock', format: 'packed' });
 * const { bytes } = await driver.queues[0].transfer([], [64]);
 * ```
 */
export class MockDriver implements Disposable {
  readonly #driver: VirtioDriver;

  private constructor(driver: VirtioDriver) {
    this.#driver = driver;
  }

  /** See `VirtioDriver.start`. Messages go in the order of QEMU unless the options say otherwise. */
  static async start(options: MockDriverOptions): Promise<MockDriver> {
    const { ram, ...rest } = options;
    return new MockDriver(
      await VirtioDriver.start({ order: 'qemu', ...rest, ...(ram === undefined ? {} : { memory: ram }) }),
    );
  }

  get platform(): VirtioDriver['platform'] {
    return this.#driver.platform;
  }

  get frontend(): VirtioDriver['frontend'] {
    return this.#driver.frontend;
  }

  get ram(): SharedMemory {
    return this.#driver.memory;
  }

  /** Negotiated virtio bits. */
  get features(): bigint {
    return this.#driver.features;
  }

  get format(): 'split' | 'packed' {
    return this.#driver.format;
  }

  /** The running rings. */
  get queues(): VirtioDriver['queues'] {
    return this.#driver.queues;
  }

  stopRings(...args: Parameters<VirtioDriver['stopRings']>): ReturnType<VirtioDriver['stopRings']> {
    return this.#driver.stopRings(...args);
  }

  startRings(...args: Parameters<VirtioDriver['startRings']>): ReturnType<VirtioDriver['startRings']> {
    return this.#driver.startRings(...args);
  }

  /** Hangs up and gives everything back, as a killed front-end would. */
  close(): void {
    this.#driver.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
