import type { Addon } from '../../native/index.js';
import { attempt } from './linux-errors.js';
import type { Mapping, WindowTable } from './platform.js';

/** The windows of this thread, by the numbers that the addon gives out. */
export class LinuxWindows implements WindowTable {
  readonly u8: Uint8Array[] = [];
  readonly u32: Uint32Array[] = [];

  set(window: number, buffer: ArrayBuffer): void {
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
  readonly #addon: Addon;
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
    const [firstWindow, flag, buffers] = attempt(
      () => `map ${length} bytes at offset ${offset} of fd ${fd}`,
      () => addon.memoryMap(fd, offset, length),
      MEANINGS,
    );
    this.length = length;
    this.firstWindow = firstWindow;
    this.windowCount = buffers.length;
    this.#addon = addon;
    this.#flags = flags;
    this.#flag = flag;
    buffers.forEach((buffer, i) => windows.set(firstWindow + i, buffer));
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
