import type { ChainBatch, DeviceQueue } from '../../runtime/device/index.js';
import type { FakePlatform } from '../../runtime/platform/fake.js';
import type { Mapping } from '../../runtime/platform/platform.js';

/** Bytes of each of the two regions that chains are placed in. */
const REGION = 4 << 20;
/** What writable memory holds before the device writes. */
export const UNTOUCHED = 0xee;

interface Piece {
  readonly window: number;
  readonly offset: number;
  readonly length: number;
}

/** A chain as the driver knows it. */
export class OfferedChain {
  readonly handle: number;
  readonly readable: readonly Piece[];
  readonly writable: readonly Piece[];
  /** Bytes that the device reported; null while it has the chain. */
  written: number | null = null;
  /** Whether the driver was shown the completion. */
  published = false;
  readonly #windows: readonly Uint8Array[];

  constructor(
    handle: number,
    readable: readonly Piece[],
    writable: readonly Piece[],
    windows: readonly Uint8Array[],
  ) {
    this.handle = handle;
    this.readable = readable;
    this.writable = writable;
    this.#windows = windows;
  }

  /** All writable bytes, as they are now. */
  get answer(): Uint8Array {
    return Uint8Array.from(
      this.writable.flatMap(({ window, offset, length }) => [
        ...this.#windows[window]!.subarray(offset, offset + length),
      ]),
    );
  }
}

/**
 * A queue without a ring: chains are offered as lists of buffers and given to the device in any layout. Buffers lie in two
 * regions by turns, at odd addresses, each with a gap of untouched bytes behind it.
 */
export class FakeDeviceQueue implements DeviceQueue {
  readonly index: number;
  readonly size: number;
  features = 0n;
  readonly u8: readonly Uint8Array[];
  readonly u32: readonly Uint32Array[];
  readonly counters = { chains: 0, segments: 0, completed: 0, publishes: 0, calls: 0, kicks: 0 };
  readonly offered: OfferedChain[] = [];
  /** In the order of completion. */
  readonly completed: OfferedChain[] = [];
  resumes = 0;
  failure: unknown = null;
  enabled = true;
  /** As after GET_VRING_BASE. */
  stopped = false;
  readonly #mappings: readonly Mapping[];
  readonly #used = [0, 0];
  readonly #waiting: OfferedChain[] = [];
  readonly #held = new Map<number, OfferedChain>();
  #nextHandle = 0;

  constructor(platform: FakePlatform, { index = 0, size = 128 } = {}) {
    this.index = index;
    this.size = size;
    this.u8 = platform.windows.u8;
    this.u32 = platform.windows.u32;
    this.#mappings = [0, 1].map(() => {
      const fd = platform.createSharedMemory('guest', BigInt(REGION));
      return platform.map(fd, 0n, BigInt(REGION));
    });
  }

  get inFlight(): number {
    return this.#held.size;
  }

  /** Makes a chain of these buffers available. Empty ones take no segment. */
  offer(readable: readonly Uint8Array[], writable: readonly number[], align = 1): OfferedChain {
    const sent = readable.filter((bytes) => bytes.byteLength > 0);
    const chain = new OfferedChain(
      this.#nextHandle++,
      sent.map((bytes) => this.#place(bytes.byteLength, bytes, align)),
      writable.filter((length) => length > 0).map((length) => this.#place(length, null, align)),
      this.u8,
    );
    this.offered.push(chain);
    this.#waiting.push(chain);
    return chain;
  }

  /** True when nothing but the buffers' own bytes was written. */
  get gapsUntouched(): boolean {
    return this.offered.every((chain) =>
      [...chain.readable, ...chain.writable].every(
        ({ window, offset, length }) => this.u8[window]![offset + length] === UNTOUCHED,
      ),
    );
  }

  drain(batch: ChainBatch, max: number): number {
    if (this.failure !== null || this.stopped) return 0;
    let count = 0;
    let segment = 0;
    for (const chain of this.#waiting.slice(0, Math.min(max, batch.chainCapacity))) {
      const pieces = [...chain.readable, ...chain.writable];
      if (segment + pieces.length > batch.segmentCapacity) break;
      batch.chains.set([chain.handle, segment, chain.readable.length, chain.writable.length], count++ * 4);
      for (const { window, offset, length } of pieces) {
        batch.segments.set([window, offset, length, 0], segment++ * 4);
      }
      this.#held.set(chain.handle, chain);
    }
    this.#waiting.splice(0, count);
    batch.count = count;
    return count;
  }

  pushBatch(batch: ChainBatch, count: number): void {
    if (count > batch.count) throw new Error(`${count} chains of a batch that holds ${batch.count}`);
    for (let row = 0; row < count; row++) this.complete(batch.chains[row * 4]!, batch.written[row]!);
    this.#publish();
  }

  complete(handle: number, written: number): void {
    const chain = this.#held.get(handle);
    if (chain === undefined) throw new Error(`chain ${handle} is not in flight`);
    this.#held.delete(handle);
    chain.written = written;
    this.completed.push(chain);
  }

  commit(): void {
    this.#publish();
  }

  resume(): void {
    this.resumes++;
  }

  fail(cause: unknown): void {
    this.failure ??= cause;
  }

  #publish(): void {
    for (const chain of this.completed) chain.published = true;
  }

  #place(length: number, bytes: Uint8Array | null, align: number): Piece {
    const region = this.#used[0]! <= this.#used[1]! ? 0 : 1;
    const offset = Math.ceil((this.#used[region]! + 1) / align) * align;
    if (offset + length + 1 > REGION) throw new Error('the guest is out of memory');
    this.#used[region] = offset + length + 1;
    const window = this.#mappings[region]!.firstWindow;
    this.u8[window]!.fill(UNTOUCHED, offset, offset + length + 1);
    if (bytes !== null) this.u8[window]!.set(bytes, offset);
    return { window, offset, length };
  }
}
