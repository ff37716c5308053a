import { constants } from 'node:os';
import { type Addon, WatchEvent } from '../../native/index.js';
import { attempt, closedError, systemError } from './linux-errors.js';
import type { TapQueue } from './platform.js';

const WOULD_BLOCK = -constants.errno.EAGAIN;

interface Tables {
  readonly rows: Int32Array;
  readonly segments: Int32Array;
  readonly lengths: Int32Array;
}

let tables: Tables | undefined;

export class LinuxTapQueue implements TapQueue {
  readonly name: string;
  readonly rows: Int32Array;
  readonly segments: Int32Array;
  readonly lengths: Int32Array;
  readonly #addon: Addon;
  readonly #fd: number;
  readonly #watch: number;
  #readable: (() => void) | null = null;
  #writable: (() => void) | null = null;
  #closed = false;

  static open(addon: Addon, name: string, severalQueues: boolean): LinuxTapQueue {
    const [fd, given] = attempt(`open the TAP device ${name}`, () => addon.tapOpen(name, severalQueues), {
      EBUSY: 'somebody else has it',
      EINVAL: severalQueues
        ? 'it was made without multi_queue'
        : 'it was made with multi_queue, or is no TAP',
    });
    try {
      return new LinuxTapQueue(addon, given, fd);
    } catch (error) {
      addon.fdClose(fd);
      throw error;
    }
  }

  private constructor(addon: Addon, name: string, fd: number) {
    this.#addon = addon;
    this.#fd = fd;
    this.name = name;
    tables ??= load(addon);
    this.rows = tables.rows;
    this.segments = tables.segments;
    this.lengths = tables.lengths;
    this.#watch = attempt(`watch the TAP device ${name}`, () =>
      addon.openWatch(fd, false, (events) => this.#dispatch(events)),
    );
  }

  setOffloads({ checksum, tcp4, tcp6, ecn }: Parameters<TapQueue['setOffloads']>[0]): void {
    this.#checkOpen();
    attempt(`set the offloads of ${this.name}`, () =>
      this.#addon.tapSetOffloads(this.#fd, checksum, tcp4, tcp6, ecn),
    );
  }

  write(count: number): number {
    this.#checkOpen();
    const done = this.#addon.tapWrite(this.#fd, count);
    if (done < 0) throw systemError(`send through ${this.name}`, 'writev', -done);
    return done;
  }

  read(window: number, offset: number, stride: number, count: number): number {
    this.#checkOpen();
    const packets = this.#addon.tapRead(this.#fd, window, offset, stride, count);
    if (packets >= 0) return packets;
    if (packets === WOULD_BLOCK) return 0;
    throw systemError(`receive from ${this.name}`, 'read', -packets);
  }

  onReadable(callback: (() => void) | null): void {
    this.#readable = callback;
    this.#update();
  }

  onWritable(callback: (() => void) | null): void {
    this.#writable = callback;
    this.#update();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#readable = this.#writable = null;
    this.#addon.closeWatch(this.#watch);
    this.#addon.fdClose(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #update(): void {
    if (this.#closed) return;
    const events =
      (this.#readable === null ? 0 : WatchEvent.readable) |
      (this.#writable === null ? 0 : WatchEvent.writable);
    const status = this.#addon.setWatchEvents(this.#watch, events);
    if (status < 0) throw systemError(`watch the TAP device ${this.name}`, 'epoll_ctl', -status);
  }

  #dispatch(events: number): void {
    // A device that is gone: whoever reads finds out.
    if (events < 0 || (events & WatchEvent.readable) !== 0) this.#readable?.();
    if (events < 0 || (events & WatchEvent.writable) !== 0) this.#writable?.();
  }

  #checkOpen(): void {
    if (this.#closed) throw closedError(`use the TAP device ${this.name}`);
  }
}

function load(addon: Addon): Tables {
  const [rows, segments, lengths] = addon.tapTables();
  return {
    rows: new Int32Array(rows),
    segments: new Int32Array(segments),
    lengths: new Int32Array(lengths),
  };
}
