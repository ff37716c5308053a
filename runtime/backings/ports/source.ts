import {
  ALL_ROWS,
  type NetPort,
  PACKET_STRIDE,
  PacketBurst,
  PacketColumn,
  type PacketMemory,
  type PacketReceiver,
  type PacketRegion,
} from '../../devices/net/port.js';

export interface SourceOptions {
  /** Bytes of each packet, 60 to 1514; 60 when absent. */
  readonly length?: number;
  /** Packets of one burst; 64 when absent. */
  readonly burst?: number;
  /** Packets after which it stops; endless when absent. */
  readonly limit?: number;
  /** Destination of the packets, six bytes; everybody when absent. */
  readonly destination?: Uint8Array;
}

/** An EtherType that is set aside for experiments (IEEE 802, local experimental 1). */
const ETHERTYPE = 0x88b5;
/** Where a packet's number lies. */
const COUNTER = 14;

/** Bursts given before everything else on the loop has its turn. */
const BURSTS_A_TURN = 16;
/** Packets lie this far behind word boundaries, so that what counts them is a word. */
const SHIFT = 2;

/**
 * Gives packets as fast as the driver takes them, and drops what the driver sends: for measuring. Bytes 14 to 17 of a packet
 * count the packets (little-endian).
 */
export class SourcePort implements NetPort {
  readonly memory: PacketMemory;
  readonly offloads = 0n;
  readonly pairs = 128;
  readonly up = true;
  /** Packets given so far. */
  given = 0;
  readonly #region: PacketRegion;
  readonly #burst: PacketBurst;
  readonly #slot: number;
  readonly #limit: number;
  /** Pairs that go on in the next turn of the loop. */
  readonly #active = new Set<number>();
  #receiver: PacketReceiver | null = null;
  #immediate: NodeJS.Immediate | null = null;
  #closed = false;

  constructor(memory: PacketMemory, options: SourceOptions = {}) {
    const length = Math.min(1514, Math.max(60, options.length ?? 60));
    const count = Math.min(256, Math.max(1, options.burst ?? 64));
    this.memory = memory;
    this.#limit = options.limit ?? Infinity;
    this.#slot = (length + SHIFT + 15) & -16;
    this.#region = memory.allocate(count * this.#slot);
    this.#burst = new PacketBurst(count, new Int32Array(count * 4));
    this.#burst.count = count;
    const bytes = memory.u8[this.#region.window]!;
    for (let row = 0; row < count; row++) {
      const offset = row * this.#slot + SHIFT;
      bytes.set(options.destination ?? new Uint8Array(6).fill(0xff), offset);
      bytes.set([0x02, 0, 0, 0, 0, 0x01, ETHERTYPE >> 8, ETHERTYPE & 0xff], offset + 6);
      this.#burst.packets[row * PACKET_STRIDE + PacketColumn.firstSegment] = row;
      this.#burst.packets[row * PACKET_STRIDE + PacketColumn.segments] = 1;
      this.#burst.packets[row * PACKET_STRIDE + PacketColumn.length] = length;
      this.#burst.segments.set([this.#region.window, offset, length], row * 4);
    }
  }

  connect(receiver: PacketReceiver): void {
    this.#receiver = receiver;
  }

  transmit(_burst: PacketBurst, _first: number, count: number): number {
    return count;
  }

  receiveReady(pair: number): void {
    if (this.#closed || this.#active.has(pair)) return;
    if (this.#give(pair)) return;
    this.#active.add(pair);
    this.#immediate ??= setImmediate(this.#goOn);
  }

  close(): void {
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#closed = true;
    this.#active.clear();
    this.#region.release();
  }

  readonly #goOn = (): void => {
    this.#immediate = null;
    for (const pair of this.#active) if (this.#give(pair)) this.#active.delete(pair);
    if (this.#active.size > 0) this.#immediate = setImmediate(this.#goOn);
  };

  /** Gives some bursts. True when there are no buffers left: receiveReady is called again when there are. */
  #give(pair: number): boolean {
    const receiver = this.#receiver!;
    const words = this.memory.u32[this.#region.window]!;
    const step = this.#slot >>> 2;
    for (let bursts = 0; bursts < BURSTS_A_TURN; bursts++) {
      const count = Math.min(this.#burst.count, this.#limit - this.given);
      if (count <= 0 || receiver.waiting(pair) !== 0) return true;
      let word = (SHIFT + COUNTER) >>> 2;
      for (let row = 0; row < count; row++, word += step) words[word] = this.given + row;
      const done = receiver.offer(this.#burst, ALL_ROWS, count, pair);
      this.given += done;
      if (done < count) return true;
    }
    return false;
  }
}
