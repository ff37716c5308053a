import { DeviceError, VirtqueueError, VhostUserError } from '../../errors.js';
import type { SharedMemory } from '../../memory/shared-memory.js';
import { ChainBatch } from '../../virtqueue/chain-batch.js';
import type { DeviceVirtqueue } from '../../virtqueue/device-virtqueue.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../virtqueue/start.js';
import { NetControlAck } from '../../../generated/virtio/devices/net/layouts.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { DriverQueue } from '../driver-queue.js';
import { QueueMemory } from '../queue-memory.js';
import type { ControlState } from './control-state.js';

const SIZE = 64;
/** Bytes of the longest command: two full address tables and its header. */
const COMMAND_MAX = 2 * 24_580 + 2;

/**
 * The control queue of a network device behind a back-end: vhost-user leaves it to the front-end, which serves it here out of
 * the same guest memory, while the driver has an ordinary queue for it.
 *
 *   readable   class u8 | command u8 | data      writable   ack u8
 */
export class ControlQueue implements Disposable {
  /** The driver's side. */
  readonly queue: DriverQueue;
  readonly state: ControlState;
  readonly #memory: QueueMemory;
  readonly #ram: SharedMemory;
  readonly #device: DeviceVirtqueue;
  readonly #batch = new ChainBatch(1, SIZE);
  #markEnded!: (reason: Error) => void;
  #serving = false;
  #closed = false;

  /** `index` is the queue's number in the device: behind all pairs. Throws ERR_GUEST_MEMORY_LIMIT. */
  constructor(ram: SharedMemory, index: number, features: bigint, state: ControlState) {
    this.#ram = ram;
    this.state = state;
    this.#memory = new QueueMemory(ram, index, SIZE, features);
    const driver = this.#memory.start();
    const { windows } = ram.platform;
    this.#device = startDeviceVirtqueue(
      {
        index,
        size: SIZE,
        format: driver.format,
        eventIdx: (features & VirtioFeature.eventIdx) !== 0n,
        indirect: (features & VirtioFeature.indirectDesc) !== 0n,
        inOrder: (features & VirtioFeature.inOrder) !== 0n,
        areas: this.#memory.areas,
        memory: ram.memory,
        state: initialVirtqueueState(driver.format),
      },
      windows,
    );
    const ended = new Promise<Error>((resolve) => (this.#markEnded = resolve));
    const kick = (): void => void setImmediate(() => void this.#serve());
    this.queue = new DriverQueue(index, ram, driver, { kick, ended });
  }

  /** No command is answered any more; those under way fail. */
  close(reason: Error = new DeviceError('ERR_DEVICE_REQUEST', 'the network client was closed')): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#markEnded(reason);
    this.#memory[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** One command after the other: one that reaches the back-end is waited for. */
  async #serve(): Promise<void> {
    if (this.#serving || this.#closed) return;
    this.#serving = true;
    try {
      do {
        while (!this.#closed && this.#device.drain(this.#batch, 1) > 0) await this.#answer();
      } while (!this.#closed && this.#device.broken === null && this.#device.enableNotifications());
      if (this.#device.broken !== null) this.close(this.#device.broken);
    } catch (cause) {
      this.close(
        cause instanceof VhostUserError
          ? cause
          : new VirtqueueError('ERR_VIRTQ_DEVICE', this.queue.index, 'a command failed', { cause }),
      );
    } finally {
      this.#serving = false;
    }
  }

  async #answer(): Promise<void> {
    const { chains, segments } = this.#batch;
    const [handle, first, readable, writable] = chains.subarray(0, 4);
    const command = this.#read(segments, first!, readable!);
    const place = first! + readable!;
    const target = { window: segments[place * 4]!, offset: segments[place * 4 + 1]! };
    const ack = command === null ? NetControlAck.err : await this.state.answer(command);
    if (this.#closed) return;
    if (writable! > 0) this.#ram.platform.windows.u8[target.window]![target.offset] = ack;
    this.#device.complete(handle!, writable! > 0 ? 1 : 0);
    this.#device.publish();
    if (this.#device.needsCall()) setImmediate(() => this.queue.notify());
  }

  /** The readable part of a chain; null when no command is so long. */
  #read(segments: Int32Array, first: number, count: number): Uint8Array | null {
    const pieces: Uint8Array[] = [];
    let length = 0;
    for (let i = first; i < first + count; i++) {
      const offset = segments[i * 4 + 1]!;
      const bytes = segments[i * 4 + 2]!;
      length += bytes;
      if (length > COMMAND_MAX) return null;
      pieces.push(this.#ram.platform.windows.u8[segments[i * 4]!]!.slice(offset, offset + bytes));
    }
    const command = new Uint8Array(length);
    let at = 0;
    for (const piece of pieces) {
      command.set(piece, at);
      at += piece.length;
    }
    return command;
  }
}
