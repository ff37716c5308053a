import { PlatformError } from '../../errors.js';
import {
  COPY_PREFIX_MAX,
  COPY_STRIDE,
  type CopyTable,
  type FdKind,
  type Mapping,
  WINDOW_SPAN,
  WINDOW_STRIDE,
  type WindowTable,
} from '../platform.js';
import { Description, systemError } from './fd-table.js';

const noBytes = new Uint8Array(0);
const noWords = new Uint32Array(0);

/** A memfd: bytes that every mapping of it shares. */
export class SharedMemory extends Description {
  readonly kind: FdKind = 'memory';
  readonly buffer: ArrayBuffer;
  readonly mappings = new Set<FakeMapping>();
  #size: number;

  constructor(size: bigint) {
    super();
    try {
      this.buffer = new ArrayBuffer(Number(size));
    } catch {
      throw systemError('ftruncate', 'ENOMEM', `${size} bytes are more than one ArrayBuffer holds`);
    }
    this.#size = Number(size);
  }

  override get size(): bigint {
    return BigInt(this.#size);
  }

  /** Shortens the file, as a hostile front-end would: the bytes are gone and mappings that reach there are damaged. */
  truncate(size: number): void {
    new Uint8Array(this.buffer).fill(0, size);
    this.#size = Math.min(this.#size, size);
    for (const mapping of this.mappings) mapping.truncated(size);
  }
}

/** Index runs of the window table, lowest first. */
export class FakeWindows implements WindowTable {
  readonly u8: Uint8Array[] = [];
  readonly u32: Uint32Array[] = [];
  /** Each window's memory, shown or not; empty when it is free. */
  readonly #memory: Uint8Array[] = [];
  /** Native work under way in each window; a mapping must not be unmapped below it. */
  readonly busy: number[] = [];

  /** Takes the first free run of `count` indexes for `length` bytes from `start` on. They are not shown yet. */
  place(buffer: ArrayBuffer, start: number, length: number, count: number): number {
    let first = 0;
    for (let i = 0; i < this.#memory.length && i - first < count; i++) {
      if (this.#memory[i] !== noBytes) first = i + 1;
    }
    for (let k = 0; k < count; k++) {
      const bytes = Math.min(WINDOW_SPAN, length - k * WINDOW_STRIDE);
      this.#memory[first + k] = new Uint8Array(buffer, start + k * WINDOW_STRIDE, bytes);
      this.u8[first + k] = noBytes;
      this.u32[first + k] = noWords;
      this.busy[first + k] = 0;
    }
    return first;
  }

  show(window: number): void {
    const memory = this.#memory[window];
    if (memory === undefined || this.u8[window] === memory) return;
    this.u8[window] = memory;
    this.u32[window] = new Uint32Array(memory.buffer, memory.byteOffset, memory.byteLength >>> 2);
  }

  retire(first: number, count: number): void {
    for (let i = first; i < first + count; i++) {
      this.#memory[i] = noBytes;
      this.u8[i] = noBytes;
      this.u32[i] = noWords;
    }
  }

  /** The bytes of a range, or null when it does not lie in a window that is in use. */
  range(window: number, offset: number, length: number): Uint8Array | null {
    const view = this.#memory[window];
    if (view === undefined || offset < 0 || length < 0 || offset + length > view.byteLength) return null;
    return view.subarray(offset, offset + length);
  }
}

/** What supplies the pages of a mapping; in here, since the two name one another. */
export interface PageSource {
  /** Asks for the page at an address unless it is there. */
  access(address: bigint): boolean;
  forget(mapping: FakeMapping): void;
}

/** Mappings have addresses of their own, far from one another. */
let nextAddress = 0x5000_0000_0000n;

export class FakeMapping implements Mapping {
  readonly length: bigint;
  readonly firstWindow: number;
  readonly windowCount: number;
  readonly address: bigint;
  pages: PageSource | null = null;
  readonly #windows: FakeWindows;
  readonly #memory: SharedMemory;
  readonly #end: number;
  #damaged = false;
  #mapped = true;
  readonly #onUnmap: () => void;

  constructor(
    windows: FakeWindows,
    memory: SharedMemory,
    offset: bigint,
    length: bigint,
    lazy: boolean,
    onUnmap: () => void,
  ) {
    if (length <= 0n || offset < 0n)
      throw systemError('mmap', 'EINVAL', `offset ${offset}, length ${length}`);
    if (offset + length > memory.size) {
      throw systemError(
        'mmap',
        'EINVAL',
        `${length} bytes at ${offset} reach past the end of ${memory.size} bytes`,
      );
    }
    if (offset % 4n !== 0n) throw systemError('mmap', 'EINVAL', `offset ${offset} is no multiple of 4`);
    this.length = length;
    this.address = nextAddress;
    nextAddress += (length & ~0xfffn) + 0x10_0000n;
    this.#windows = windows;
    this.#memory = memory.hold();
    this.#end = Number(offset + length);
    this.#onUnmap = onUnmap;
    this.windowCount = Math.ceil(Number(length) / WINDOW_STRIDE);
    this.firstWindow = windows.place(memory.buffer, Number(offset), Number(length), this.windowCount);
    for (let i = 0; i < this.windowCount && !lazy; i++) windows.show(this.firstWindow + i);
    memory.mappings.add(this);
  }

  get damaged(): boolean {
    return this.#damaged;
  }

  /** The file ends at `size` now. A real mapping notices at the first access; here it shows at once. */
  truncated(size: number): void {
    if (size < this.#end) this.#damaged = true;
  }

  /** Its memory is taken away. */
  withdraw(): void {
    this.#damaged = true;
  }

  touch(offset: number): boolean {
    return this.pages?.access(this.address + BigInt(offset)) ?? true;
  }

  /** Puts bytes into the memory behind it. */
  put(offset: number, bytes: Uint8Array): void {
    new Uint8Array(this.#memory.buffer).set(bytes, this.#end - Number(this.length) + offset);
  }

  unmap(): void {
    if (!this.#mapped) return;
    for (let i = this.firstWindow; i < this.firstWindow + this.windowCount; i++) {
      if (this.#windows.busy[i] === 0) continue;
      throw new PlatformError(
        'ERR_PLATFORM_ARGUMENT',
        `munmap: file operations are under way in window ${i}`,
      );
    }
    this.#mapped = false;
    this.#windows.retire(this.firstWindow, this.windowCount);
    this.pages?.forget(this);
    this.#memory.mappings.delete(this);
    this.#memory.drop();
    this.#onUnmap();
  }

  [Symbol.dispose](): void {
    this.unmap();
  }
}

export class FakeCopyTable implements CopyTable {
  readonly capacity = 1024;
  readonly entries = new Int32Array(this.capacity * COPY_STRIDE);
  readonly #windows: FakeWindows;

  constructor(windows: FakeWindows) {
    this.#windows = windows;
  }

  run(count: number): void {
    if (!Number.isInteger(count) || count < 0 || count > this.capacity) {
      throw new PlatformError(
        'ERR_PLATFORM_ARGUMENT',
        `copy: ${count} entries, the table holds ${this.capacity}`,
      );
    }
    const rows: [Uint8Array, Uint8Array, Uint8Array][] = [];
    for (let i = 0; i < count; i++) {
      const entry = this.entries.subarray(i * COPY_STRIDE, (i + 1) * COPY_STRIDE);
      const [fromWindow, fromOffset, toWindow, toOffset, length, size] = entry;
      const prefix = new Uint8Array(COPY_PREFIX_MAX);
      for (let at = 0; at < 12; at++) prefix[at] = entry[6 + (at >> 2)]! >>> ((at & 3) * 8);
      const from = this.#windows.range(fromWindow!, fromOffset!, length!);
      const to = this.#windows.range(toWindow!, toOffset!, length! + size!);
      if (from === null || to === null || size! < 0 || size! > COPY_PREFIX_MAX) {
        throw new PlatformError('ERR_PLATFORM_ARGUMENT', `copy: entry ${i} lies outside its window`);
      }
      rows.push([from, to, prefix.subarray(0, size)]);
    }
    for (const [from, to, prefix] of rows) {
      to.set(from, prefix.byteLength);
      to.set(prefix);
    }
  }
}
