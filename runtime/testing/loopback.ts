import { EventEmitter } from 'node:events';
import { QueueHost } from '../device/queue-host.js';
import { QueueLoop } from '../device/queue-loop.js';
import { NO_FRONTEND_SERVICES, type FrontendServices } from '../device/frontend-services.js';
import type { DeviceHost, VirtioDevice } from '../device/virtio-device.js';
import { DeviceError } from '../errors.js';
import { DriverQueue } from '../drivers/driver-queue.js';
import { QueueMemory } from '../drivers/queue-memory.js';
import { SharedMemory, type SharedMemoryOptions } from '../memory/shared-memory.js';
import { createFakePlatform } from '../platform/fake.js';
import type { Platform } from '../platform/platform.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../virtqueue/start.js';
import { VirtioFeature } from '../../generated/virtio/features.js';

export interface LoopbackOptions {
  /** The fake one when absent. */
  readonly platform?: Platform;
  readonly format?: 'split' | 'packed';
  /** How many queues to start; all that the device has when absent. */
  readonly queues?: number;
  /** Descriptors a ring; 256 when absent, or the device's most if that is less. */
  readonly queueSize?: number;
  readonly eventIdx?: boolean;
  readonly indirect?: boolean;
  readonly inOrder?: boolean;
  /** Bits of the device type that the driver accepts; all that the device offers when absent. */
  readonly deviceFeatures?: bigint;
  readonly ram?: SharedMemoryOptions;
  /** What a front-end does for the device, as far as the device asks for it; the rest rejects. */
  readonly frontend?: Partial<FrontendServices>;
}

export interface LoopbackEvents {
  /** The device announced a change of its configuration space. */
  configurationChanged: [];
  log: [level: string, message: string, fields: Record<string, unknown>];
}

/**
 * A device and a driver in one process: real rings in shared memory, but neither a socket nor a session between them. It is
 * what a device author tests with.
 *
 * @example
 * ```ts
 * await using loopback = new Loopback(new EntropyDevice(), { format: 'packed' });
 * const { bytes } = await loopback.queues[0].transfer([], [64]);
 * ```
 */
export class Loopback extends EventEmitter<LoopbackEvents> implements AsyncDisposable {
  readonly device: VirtioDevice;
  /** Accepted virtio bits. */
  readonly features: bigint;
  readonly queues: readonly DriverQueue[];
  readonly ram: SharedMemory;
  readonly #hosts: QueueHost[];

  /** Starts the device as a back-end would: attach, features, every queue. */
  constructor(device: VirtioDevice, options: LoopbackOptions = {}) {
    super();
    this.device = device;
    this.features = acceptedFeatures(device, options);
    this.ram = new SharedMemory(options.platform ?? createFakePlatform(), options.ram);
    const count = options.queues ?? device.queueCount;
    if (count > device.queueCount) {
      this.ram[Symbol.dispose]();
      throw new DeviceError(
        'ERR_DEVICE_CONFIGURATION',
        `${count} queues asked for, the device has ${device.queueCount}`,
      );
    }
    const host: DeviceHost = {
      configurationChanged: () => void this.emit('configurationChanged'),
      frontend: { ...NO_FRONTEND_SERVICES, ...options.frontend },
      log: (level, message, fields = {}) => void this.emit('log', level, message, fields),
    };
    device.attach?.(host);
    device.setFeatures?.(this.features);
    const size = options.queueSize ?? Math.min(256, device.maxQueueSize ?? 1024);
    const loop = new QueueLoop({ spinMicroseconds: 0 });
    const pairs = Array.from({ length: count }, (_, index) => this.#startQueue(loop, index, size));
    this.#hosts = pairs.map((pair) => pair.host);
    this.queues = pairs.map((pair) => pair.queue);
    for (const each of this.#hosts) each.enable();
  }

  /** The device's configuration space. */
  readConfig(): Uint8Array {
    return this.device.config?.read() ?? new Uint8Array(0);
  }

  /** Writes to the configuration space as the driver; false when the device refuses. */
  writeConfig(offset: number, bytes: Uint8Array): boolean {
    return this.device.config?.write?.(offset, bytes, false) ?? false;
  }

  /** Stops every queue, when its chains are completed, resets the device and gives the memory back. */
  async stop(): Promise<void> {
    await Promise.all(this.#hosts.map((host) => host.stop()));
    this.device.reset?.();
    this.ram[Symbol.dispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #startQueue(loop: QueueLoop, index: number, size: number): { host: QueueHost; queue: DriverQueue } {
    const { features, ram } = this;
    const { windows } = ram.platform;
    const memory = new QueueMemory(ram, index, size, features);
    const driver = memory.start();
    let broken!: (error: Error) => void;
    const ended = new Promise<Error>((resolve) => (broken = resolve));
    // Kick and call arrive on a later turn, as they do through an eventfd.
    const queue = new DriverQueue(index, ram, driver, {
      kick: () => void setImmediate(() => host.kick()),
      ended,
    });
    const virtqueue = startDeviceVirtqueue(
      {
        index,
        size,
        format: driver.format,
        eventIdx: (features & VirtioFeature.eventIdx) !== 0n,
        indirect: (features & VirtioFeature.indirectDesc) !== 0n,
        inOrder: (features & VirtioFeature.inOrder) !== 0n,
        areas: memory.areas,
        memory: ram.memory,
        state: initialVirtqueueState(driver.format),
      },
      windows,
    );
    const host: QueueHost = new QueueHost({
      virtqueue,
      device: this.device,
      features,
      windows,
      loop,
      call: () => void setImmediate(() => queue.notify()),
      onBroken: broken,
    });
    return { host, queue };
  }
}

function acceptedFeatures(device: VirtioDevice, options: LoopbackOptions): bigint {
  let features = VirtioFeature.version1 | (device.features & (options.deviceFeatures ?? device.features));
  if (options.format === 'packed') features |= VirtioFeature.ringPacked;
  if (options.eventIdx !== false) features |= VirtioFeature.eventIdx;
  if (options.indirect !== false) features |= VirtioFeature.indirectDesc;
  if (options.inOrder === true) features |= VirtioFeature.inOrder;
  return features;
}
