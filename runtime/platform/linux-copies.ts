import type { Addon } from '../../native/index.js';
import { PlatformError } from '../errors.js';
import { COPY_STRIDE, type CopyTable } from './platform.js';

export class LinuxCopyTable implements CopyTable {
  readonly entries: Int32Array;
  readonly capacity: number;
  readonly #addon: Addon;

  constructor(addon: Addon) {
    this.#addon = addon;
    this.entries = new Int32Array(addon.copyEntries());
    this.capacity = this.entries.length / COPY_STRIDE;
  }

  run(count: number): void {
    const bad = this.#addon.copyRun(count);
    if (bad >= 0) throw this.#outOfBounds(count, bad);
  }

  #outOfBounds(count: number, bad: number): PlatformError {
    if (count < 0 || count > this.capacity) {
      return new PlatformError(
        'ERR_PLATFORM_ARGUMENT',
        `cannot copy ${count} entries: the table holds ${this.capacity}`,
      );
    }
    const entry = this.entries.subarray(bad * COPY_STRIDE, (bad + 1) * COPY_STRIDE);
    const [fromWindow, fromOffset, toWindow, toOffset, length, prefix] = entry;
    return new PlatformError(
      'ERR_PLATFORM_ARGUMENT',
      `copy entry ${bad} is out of bounds: ${length} bytes from window ${fromWindow} at ${fromOffset} ` +
        `to window ${toWindow} at ${toOffset} behind a prefix of ${prefix}`,
    );
  }
}
