import { PACKET_STRIDE, PacketBurst, PacketColumn, type PacketMemory, type PacketRegion } from './port.js';

/** Packets that wait at most. */
const ROWS = 1024;
/** Bytes that wait at most. */
const BYTES = 4 << 20;
/** Packets are placed on word boundaries, so that headers can be parsed and copies run well. */
const ALIGN = 8;

/**
 * Packets that wait for buffers of the driver, in the order in which they came. Bounded by number and by bytes; memory is
 * allocated when the first one waits.
 *
 *   bytes   [ … tail ▶ packet | packet | packet ◀ head … ]    a packet never wraps: the rest of the ring is skipped
 */
export class Backlog {
  /** The oldest packets, by `show`. */
  readonly burst: PacketBurst;
  readonly #memory: PacketMemory;
  readonly #rows = new Int32Array(ROWS * PACKET_STRIDE);
  /** Column names of #rows: the header words, then offset, bytes taken (skipped ones included), length. */
  #region: PacketRegion | null = null;
  #first = 0;
  #count = 0;
  #head = 0;
  #used = 0;

  constructor(memory: PacketMemory, burstSize: number) {
    this.#memory = memory;
    this.burst = new PacketBurst(burstSize, new Int32Array(burstSize * 4));
  }

  get count(): number {
    return this.#count;
  }

  get window(): number {
    return (this.#region ??= this.#memory.allocate(BYTES)).window;
  }

  /** Takes room for a packet of `length` bytes with these header words and gives its offset in `window`; -1 when there is none. */
  push(length: number, words: Int32Array, at: number): number {
    if (this.#count === ROWS) return -1;
    const padded = (length + ALIGN - 1) & -ALIGN;
    const skipped = this.#head + padded > BYTES ? BYTES - this.#head : 0;
    if (this.#used + skipped + padded > BYTES) return -1;
    // Nothing is skipped where the packet before ended with the ring, and yet this one begins at the start.
    const offset = this.#head + padded > BYTES ? 0 : this.#head;
    const row = ((this.#first + this.#count) % ROWS) * PACKET_STRIDE;
    this.#rows[row] = words[at]!;
    this.#rows[row + 1] = words[at + 1]!;
    this.#rows[row + 2] = words[at + 2]!;
    this.#rows[row + 3] = offset;
    this.#rows[row + 4] = skipped + padded;
    this.#rows[row + 5] = length;
    this.#count++;
    this.#used += skipped + padded;
    this.#head = offset + padded;
    return offset;
  }

  /** Shows the oldest packets in `burst`, as many as it holds, and returns their number. */
  show(): number {
    const { packets, segments, capacity } = this.burst;
    const count = Math.min(this.#count, capacity);
    const { window } = this;
    for (let i = 0; i < count; i++) {
      const row = ((this.#first + i) % ROWS) * PACKET_STRIDE;
      const at = i * PACKET_STRIDE;
      packets[at] = this.#rows[row]!;
      packets[at + 1] = this.#rows[row + 1]!;
      packets[at + 2] = this.#rows[row + 2]!;
      packets[at + PacketColumn.firstSegment] = i;
      packets[at + PacketColumn.segments] = 1;
      packets[at + PacketColumn.length] = this.#rows[row + 5]!;
      segments[i * 4] = window;
      segments[i * 4 + 1] = this.#rows[row + 3]!;
      segments[i * 4 + 2] = this.#rows[row + 5]!;
    }
    this.burst.count = count;
    return count;
  }

  /** Forgets the oldest packets. */
  pop(count: number): void {
    for (let i = 0; i < count; i++) {
      this.#used -= this.#rows[this.#first * PACKET_STRIDE + 4]!;
      this.#first = (this.#first + 1) % ROWS;
    }
    this.#count -= count;
    if (this.#count === 0) this.clear();
  }

  clear(): void {
    this.#first = this.#count = this.#head = this.#used = 0;
  }

  /** Gives the memory back. */
  close(): void {
    this.clear();
    this.#region?.release();
    this.#region = null;
  }
}
