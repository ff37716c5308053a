import type { GuestBuffer, SharedMemory } from '../../memory/shared-memory.js';
import type { DriverVirtqueue } from '../../virtqueue/driver-virtqueue.js';

/** Buffers begin on cache lines. */
const LINE = 64;

/**
 * The equal buffers of one queue, in one piece of guest memory, and which of them the device has. `rows` has one row for
 * each, as `DriverVirtqueue.add` takes them.
 *
 *   buffer   header, 10 or 12 bytes | packet
 */
export class PacketBuffers implements Disposable {
  readonly count: number;
  /** Bytes of one. */
  readonly length: number;
  readonly window: number;
  readonly rows: Int32Array;
  /** By chain id: the buffer. */
  readonly #bufferOf: Uint16Array;
  /** By buffer: the number of the chain that has it, -1 when the device has it not. */
  readonly #chainOf: Float64Array;
  readonly #memory: GuestBuffer;
  #chains = 0;
  #atDevice = 0;

  /** Throws ERR_GUEST_MEMORY_LIMIT when guest memory does not hold them. */
  constructor(ram: SharedMemory, count: number, length: number, ringSize: number) {
    const stride = Math.ceil(length / LINE) * LINE;
    this.count = count;
    this.length = length;
    this.#memory = ram.allocate(count * stride, LINE);
    this.window = this.#memory.window;
    this.rows = new Int32Array(count * 4);
    for (let buffer = 0; buffer < count; buffer++) {
      this.rows.set([this.window, this.#memory.offset + buffer * stride, length, 0], buffer * 4);
    }
    this.#bufferOf = new Uint16Array(ringSize);
    this.#chainOf = new Float64Array(count).fill(-1);
  }

  /** Buffers that the device has. */
  get atDevice(): number {
    return this.#atDevice;
  }

  /** Adds a buffer to the ring; false when the ring takes no more. */
  add(driver: DriverVirtqueue, buffer: number, readable: 0 | 1): boolean {
    const id = driver.add(this.rows, buffer, readable, 1 - readable);
    if (id < 0) return false;
    this.#bufferOf[id] = buffer;
    this.#chainOf[buffer] = this.#chains++;
    this.#atDevice++;
    return true;
  }

  /** The device used chain `id`: gives the buffer that it was. */
  take(id: number): number {
    const buffer = this.#bufferOf[id]!;
    this.#chainOf[buffer] = -1;
    this.#atDevice--;
    return buffer;
  }

  /** Adds again what the device had, in the order of before, for another device. */
  addAgain(driver: DriverVirtqueue, readable: 0 | 1): void {
    const buffers = Array.from({ length: this.count }, (_, buffer) => buffer);
    const lost = buffers.filter((buffer) => this.#chainOf[buffer]! >= 0);
    lost.sort((a, b) => this.#chainOf[a]! - this.#chainOf[b]!);
    this.#atDevice = 0;
    for (const buffer of lost) this.add(driver, buffer, readable);
  }

  /** Gives the memory back, unless the device may still use it. */
  [Symbol.dispose](): void {
    if (this.#atDevice === 0) this.#memory.free();
  }
}
