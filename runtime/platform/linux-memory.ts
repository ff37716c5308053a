import type { Addon } from '../../native/index.js';
import { attempt } from './linux-errors.js';
import type { Mapping, WindowTable } from './platform.js';

const noBytes = new Uint8Array(0);
const noWords = new Uint32Array(0);

/** The windows of this thread, by the numbers that the addon gives out. */
export class LinuxWindows implements WindowTable {
  readonly u8: Uint8Array[] = [];
  readonly u32: Uint32Array[] = [];
  readonly #addon: Addon;

  constructor(addon: Addon) {
    this.#addon = addon;
  }

  /** Empty views for `count` windows that were mapped. */
  add(first: number, count: number): void {
    for (let window = first; window < first + count; window++) {
      this.u8[window] = noBytes;
      this.u32[window] = noWords;
    }
  }

  show(window: number): void {
    if (this.u8[window]?.length !== 0) return;
    const buffer = attempt(
      () => `show window ${window}`,
      () => this.#addon.memoryShow(window),
    );
    if (buffer === null) return;
    this.u8[window] = new Uint8Array(buffer);
    this.u32[window] = new Uint32Array(buffer, 0, buffer.byteLength >>> 2);
  }
}

const MEANINGS = {
  EOVERFLOW: 'the file is shorter than that',
  EINVAL: 'the range is empty, not aligned to 8 bytes, or the file is of a kind that is not mapped',
};

export class LinuxMapping implements Mapping {
  readonly length: bigint;
  readonly firstWindow: number;
  readonly windowCount: number;
  readonly address: bigint;
  readonly #addon: Addon;
  readonly #windows: LinuxWindows;
  readonly #flags: Int32Array;
  readonly #flag: number;
  #mapped = true;
  #damagedAtEnd = false;

  constructor(
    addon: Addon,
    windows: LinuxWindows,
    flags: Int32Array,
    fd: number,
    offset: bigint,
    length: bigint,
  ) {
    const [firstWindow, windowCount, flag, address] = attempt(
      () => `map ${length} bytes at offset ${offset} of fd ${fd}`,
      () => addon.memoryMap(fd, offset, length),
      MEANINGS,
    );
    this.length = length;
    this.firstWindow = firstWindow;
    this.windowCount = windowCount;
    this.address = address;
    this.#addon = addon;
    this.#flags = flags;
    this.#flag = flag;
    this.#windows = windows;
    windows.add(firstWindow, windowCount);
  }

  /** Makes the views of every window; unmaps the memory when one cannot be made. */
  showAll(): void {
    try {
      for (let i = 0; i < this.windowCount; i++) this.#windows.show(this.firstWindow + i);
    } catch (error) {
      this.unmap();
      throw error;
    }
  }

  get damaged(): boolean {
    return this.#mapped ? this.#flags[this.#flag] !== 0 : this.#damagedAtEnd;
  }

  /** Native work that is under way keeps the memory until it ends; to JavaScript it is gone at once. */
  unmap(): void {
    if (!this.#mapped) return;
    // The flag's place goes to another mapping.
    this.#damagedAtEnd = this.damaged;
    this.#mapped = false;
    attempt('unmap memory', () => this.#addon.memoryUnmap(this.firstWindow));
  }

  [Symbol.dispose](): void {
    this.unmap();
  }
}
