import { GuestMemoryError, VhostError } from '../../errors.js';
import { DIRTY_LOG_MAX, DirtyLog, type DirtyWriter } from '../../memory/dirty-log.js';
import { PendingDirtyPages } from '../../memory/pending-dirty-pages.js';
import type { Platform } from '../../platform/platform.js';
import type { LogRegion } from '../../../generated/vhost-user/payloads.js';
import type { OwnedFd } from '../fd-bundle.js';

export interface DirtyLoggingOptions {
  readonly platform: Platform;
  /** Longest log in bytes. */
  readonly limit?: number;
  /** The log fd cannot be signalled. */
  readonly onTrouble: (error: unknown) => void;
}

/**
 * The dirty log of one session: where writes to guest memory are marked while LOG_ALL is accepted. The log may be replaced
 * at any time (QEMU brings a longer one when memory grows); from the acknowledgement on everything is marked in the new one.
 * What is written between LOG_ALL and the first log is marked once the log comes.
 */
export class DirtyLogging implements DirtyWriter, Disposable {
  readonly #options: DirtyLoggingOptions;
  #log: DirtyLog | null = null;
  #pending: PendingDirtyPages | null = null;
  #notify: OwnedFd | null = null;
  #notifying = false;

  constructor(options: DirtyLoggingOptions) {
    this.#options = options;
  }

  /** True once the log's file was truncated. */
  get damaged(): boolean {
    return this.#log?.damaged === true;
  }

  /** SET_LOG_BASE. Does not consume the fd. When the log is refused the one before stays. */
  setBase(fd: OwnedFd, { size, offset }: LogRegion): void {
    const { platform, limit = DIRTY_LOG_MAX } = this.#options;
    const kind = platform.fdKind(fd.fd);
    if (kind !== 'memory' && kind !== 'file') {
      throw new VhostError('ERR_VHOST_FDS', `expected shared memory as dirty log, got a ${kind}`);
    }
    const log = DirtyLog.map(platform, fd.fd, offset, size, limit);
    if (this.#pending?.markIn(log) === false) {
      log[Symbol.dispose]();
      throw new GuestMemoryError(
        'ERR_GUEST_MEMORY_LOG',
        `dirty log of ${size} bytes does not reach memory that was written since LOG_ALL was accepted`,
      );
    }
    this.#log?.[Symbol.dispose]();
    this.#log = log;
    if (this.#pending !== null) this.#signal();
    this.#pending = null;
  }

  /** SET_LOG_FD: takes the eventfd over. */
  setNotify(fd: OwnedFd): void {
    this.#notify?.close();
    this.#notify = fd;
  }

  mark(address: number, length: number): boolean {
    if (this.#log === null) return (this.#pending ??= new PendingDirtyPages()).mark(address, length);
    if (this.#notify !== null && !this.#notifying) {
      this.#notifying = true;
      queueMicrotask(this.#signal);
    }
    return this.#log.mark(address, length);
  }

  /** LOG_ALL was taken back: what waits for a log is of no use any more. */
  forget(): void {
    this.#pending = null;
  }

  [Symbol.dispose](): void {
    this.#log?.[Symbol.dispose]();
    this.#log = null;
    this.#pending = null;
    this.#notify?.close();
    this.#notify = null;
  }

  /** Once for all marks of a callback: an eventfd only says that there is something. */
  readonly #signal = (): void => {
    this.#notifying = false;
    if (this.#notify === null) return;
    try {
      this.#options.platform.signalEventFd(this.#notify.fd);
    } catch (error) {
      this.#options.onTrouble(error);
    }
  };
}
