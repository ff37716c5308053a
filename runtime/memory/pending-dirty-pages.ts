import { DIRTY_PAGE, type DirtyWriter } from './dirty-log.js';

/** Pages that one piece of the map covers: 128 MiB of guest memory in 4 KiB. */
const PIECE_PAGES = 32768;

/**
 * Pages that were written while there was nowhere to mark them: front-ends that start a device in the middle of a migration
 * turn logging on first and bring the log last. Takes as much memory as the written pages' surroundings need, 32 bytes a MiB.
 */
export class PendingDirtyPages implements DirtyWriter {
  /** By number of the piece, a bit for each page. */
  readonly #pieces = new Map<number, Uint8Array>();

  mark(address: number, length: number): boolean {
    if (length === 0) return true;
    const last = Math.floor((address + length - 1) / DIRTY_PAGE);
    for (let page = Math.floor(address / DIRTY_PAGE); page <= last; page++) {
      const piece = Math.floor(page / PIECE_PAGES);
      const within = page - piece * PIECE_PAGES;
      let bits = this.#pieces.get(piece);
      if (bits === undefined) this.#pieces.set(piece, (bits = new Uint8Array(PIECE_PAGES / 8)));
      bits[within >> 3]! |= 1 << (within & 7);
    }
    return true;
  }

  /** Marks everything in `log`. Stops with false at a page that it does not reach. */
  markIn(log: DirtyWriter): boolean {
    for (const [piece, bits] of this.#pieces) {
      for (let within = 0; within < PIECE_PAGES; within++) {
        if ((bits[within >> 3]! & (1 << (within & 7))) === 0) continue;
        if (!log.mark((piece * PIECE_PAGES + within) * DIRTY_PAGE, 1)) return false;
      }
    }
    return true;
  }

  clear(): void {
    this.#pieces.clear();
  }
}
