import { GuestMemoryError } from '../errors.js';
import type { Mapping, Platform } from '../platform/platform.js';

/** Bytes of guest memory that one bit stands for (vhost-user, "Migration"). */
export const DIRTY_PAGE = 4096;
/**
 * Longest log that is mapped, in bytes: 1 GiB, which covers 32 TiB of guest addresses. It is also what one window is sure
 * to hold from its start.
 */
export const DIRTY_LOG_MAX = 0x4000_0000;
/** Largest file offset, off_t. */
const OFFSET_MAX = (1n << 63n) - 1n;

/** Takes notes of guest memory that the device wrote. */
export interface DirtyWriter {
  /**
   * Marks every page that has a byte of the range, by guest-physical address, after it was written. False when the log does not
   * reach so far; then nothing is marked.
   */
  mark(address: number, length: number): boolean;
}

/**
 * The front-end's dirty log (vhost-user, "Migration"): one bit for each page of 4 KiB, from guest address 0 on.
 *
 *   byte  page / 8, from the log's offset in its file on
 *   bit   page % 8
 *
 * The front-end clears bits while they are set here, so each is set by an atomic OR. That is a full fence too: what was
 * written to the page before is visible to whoever finds the bit.
 */
export class DirtyLog implements DirtyWriter, Disposable {
  /** Bytes. */
  readonly size: number;
  readonly #mapping: Mapping;
  readonly #bytes: Uint8Array;

  private constructor(mapping: Mapping, bytes: Uint8Array, size: number) {
    this.#mapping = mapping;
    this.#bytes = bytes;
    this.size = size;
  }

  /**
   * Maps `size` bytes at `offset` of the file; does not consume the fd. Throws GuestMemoryError: ERR_GUEST_MEMORY_LIMIT when
   * the log is longer than `limit` bytes, ERR_GUEST_MEMORY_LOG when it is empty, wraps, or cannot be mapped, e.g. because the
   * file is shorter.
   */
  static map(platform: Platform, fd: number, offset: bigint, size: bigint, limit = DIRTY_LOG_MAX): DirtyLog {
    const what = `dirty log of ${size} bytes at offset 0x${offset.toString(16)}`;
    if (size > BigInt(Math.min(limit, DIRTY_LOG_MAX))) {
      throw new GuestMemoryError('ERR_GUEST_MEMORY_LIMIT', `${what}: ${limit} bytes are allowed`);
    }
    if (size === 0n) throw new GuestMemoryError('ERR_GUEST_MEMORY_LOG', `${what}: it is empty`);
    if (offset > OFFSET_MAX - size) {
      throw new GuestMemoryError('ERR_GUEST_MEMORY_LOG', `${what}: ends beyond the largest file offset`);
    }
    let mapping: Mapping;
    try {
      mapping = platform.map(fd, offset, size);
    } catch (cause) {
      throw new GuestMemoryError('ERR_GUEST_MEMORY_LOG', `${what}: cannot map`, { cause });
    }
    const bytes = platform.windows.u8[mapping.firstWindow]!;
    return new DirtyLog(mapping, bytes, Number(size));
  }

  /** True once the file was truncated below the log. */
  get damaged(): boolean {
    return this.#mapping.damaged;
  }

  mark(address: number, length: number): boolean {
    if (length === 0) return true;
    const first = Math.floor(address / DIRTY_PAGE);
    const last = Math.floor((address + length - 1) / DIRTY_PAGE);
    // Whole pages are counted in doubles: there may be 2^33 of them. Bytes fit 30 bits.
    if (!(first >= 0 && last < this.size * 8)) return false;
    const bytes = this.#bytes;
    const end = Math.floor(last / 8);
    let at = Math.floor(first / 8);
    let mask = (0xff << (first % 8)) & 0xff;
    for (; at < end; at++) {
      Atomics.or(bytes, at, mask);
      mask = 0xff;
    }
    Atomics.or(bytes, at, mask & (0xff >> (7 - (last % 8))));
    return true;
  }

  /** Unmaps the log. Idempotent. */
  [Symbol.dispose](): void {
    this.#mapping.unmap();
  }
}
