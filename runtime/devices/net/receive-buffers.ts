import { ChainBatch, type DeviceQueue, segmentCapacity } from '../../device/index.js';
import { BURST_MAX } from './port.js';

/**
 * The receive buffers that a queue has in hand. Chains are taken only when a packet needs them, so none is in hand between
 * two bursts, unless a packet did not fit or has to wait for more; those are used first.
 *
 *   batch rows   | given back | taken for the packet at hand | unused |
 *                0         given                           next     count
 */
export class ReceiveBuffers {
  readonly batch: ChainBatch;
  /** First row that the packet at hand may use. */
  next = 0;
  count = 0;
  readonly #queue: DeviceQueue;
  readonly #more: ChainBatch;
  #given = 0;
  /** The rows are those of one drain. */
  #whole = true;

  constructor(queue: DeviceQueue) {
    const segments = segmentCapacity(queue.size);
    this.#queue = queue;
    this.batch = new ChainBatch(queue.size + BURST_MAX, 2 * segments);
    this.#more = new ChainBatch(Math.min(BURST_MAX, queue.size), segments);
  }

  /**
   * Gets up to `wanted` further chains behind those in hand, when everything before `next` was given. Gives their number, -1
   * when no more can be held. The rows from `next` on move to the front.
   */
  take(wanted: number): number {
    if (this.next < this.count) return this.#append(wanted);
    this.next = this.#given = 0;
    this.#whole = true;
    return (this.count = this.#queue.drain(this.batch, Math.min(wanted, BURST_MAX)));
  }

  /** The room in row `row`, in bytes. */
  capacity(row: number): number {
    const { chains, segments } = this.batch;
    const at = row * 4;
    const first = chains[at + 1]! + chains[at + 2]!;
    const count = chains[at + 3]!;
    if (count === 1) return segments[first * 4 + 2]!;
    let length = 0;
    for (let i = first; i < first + count; i++) length += segments[i * 4 + 2]!;
    return length;
  }

  /**
   * Whether the unused chains in hand may well take every slot of the ring. A chain takes one through an indirect table, and
   * else one a descriptor; which it is does not show here.
   */
  get fillRing(): boolean {
    let slots = 0;
    for (let row = this.next; row < this.count; row++) slots += Math.max(1, this.batch.chains[row * 4 + 3]!);
    return slots >= this.#queue.size;
  }

  /** Gives the rows before `next` to the driver with their `written`. What was copied into them must have arrived. */
  give(): void {
    const { batch } = this;
    if (this.next === this.#given) return;
    if (this.#whole && this.#given === 0 && this.next === batch.count) {
      this.#queue.pushBatch(batch, batch.count);
    } else {
      for (let row = this.#given; row < this.next; row++) {
        this.#queue.complete(batch.chains[row * 4]!, batch.written[row]!);
      }
    }
    this.#given = this.next;
  }

  /** Gives back everything in hand; what no packet came for is empty. */
  giveAll(): void {
    this.batch.written.fill(0, this.next, this.count);
    this.next = this.count;
    this.give();
  }

  /** The queue has failed: nobody uses the memory of its chains any more. */
  abandon(): void {
    const { batch } = this;
    for (let row = this.#given; row < this.count; row++) {
      try {
        this.#queue.complete(batch.chains[row * 4]!, 0);
      } catch {
        // It was completed before what failed, which is reported.
      }
    }
    this.next = this.#given = this.count = 0;
  }

  /** One packet takes more buffers than were in hand. */
  #append(wanted: number): number {
    const { batch } = this;
    const more = this.#more;
    const held = this.count - this.next;
    let segment = 0;
    for (let i = 0; i < held; i++) segment = this.#move(batch, this.next + i, i, segment);
    this.next = this.#given = 0;
    this.count = held;
    this.#whole = false;
    const room = Math.min(batch.chainCapacity - held, more.chainCapacity, wanted);
    if (room <= 0 || batch.segmentCapacity - segment < more.segmentCapacity) return -1;
    const count = this.#queue.drain(more, room);
    for (let i = 0; i < count; i++) segment = this.#move(more, i, held + i, segment);
    this.count = held + count;
    return count;
  }

  #move(from: ChainBatch, row: number, to: number, segment: number): number {
    const { chains, segments } = this.batch;
    const first = from.chains[row * 4 + 1]!;
    const count = from.chains[row * 4 + 2]! + from.chains[row * 4 + 3]!;
    segments.set(from.segments.subarray(first * 4, (first + count) * 4), segment * 4);
    chains[to * 4] = from.chains[row * 4]!;
    chains[to * 4 + 1] = segment;
    chains[to * 4 + 2] = from.chains[row * 4 + 2]!;
    chains[to * 4 + 3] = from.chains[row * 4 + 3]!;
    return segment + count;
  }
}
