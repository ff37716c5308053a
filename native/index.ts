/**
 * The addon as it is: numbers and buffers in, numbers and buffers out. Only runtime/platform imports this.
 *
 * Functions that say "or a negative errno" never throw; all others throw an Error with `syscall` and a positive `errno`.
 */
import { createRequire } from 'node:module';

export interface Addon {
  fdKind(fd: number): string;
  fdSize(fd: number): bigint;
  /** Device and inode. */
  fdIdentity(fd: number): string;
  fdDuplicate(fd: number): number;
  fdClose(fd: number): void;

  /** Gives [fd, device, inode]; the last two identify the socket file for `socketUnlink`. */
  socketListen(path: string): [number, bigint, bigint];
  /** Removes the socket file if it is still that one. */
  socketUnlink(path: string, device: bigint, inode: bigint): void;
  socketOpen(): number;
  /** 0 when connected, -EAGAIN when the backlog is full, -EINPROGRESS when it is to be waited for. */
  socketConnect(fd: number, path: string): number;
  /** Takes the pending error: 0 or a positive errno. */
  socketError(fd: number): number;
  /** True for a listening socket. */
  socketAdopt(fd: number): boolean;
  /** An fd or a negative errno. */
  socketAccept(fd: number): number;
  socketPair(): [number, number];
  /** Bytes received or a negative errno; appends the fds that came. */
  socketReceive(fd: number, into: Uint8Array, fds: number[]): number;
  /** Bytes taken or a negative errno. */
  socketSend(fd: number, bytes: Uint8Array, fds: readonly number[]): number;

  createEventFd(): number;
  /** 0 or a negative errno. */
  signalEventFd(fd: number): number;
  /**
   * Not started yet. The callback gets `WatchEvent` bits, or 1 for a counter, which was drained; or a negative errno,
   * after which a counter is watched no more.
   */
  openWatch(fd: number, counter: boolean, callback: (events: number) => void): number;
  /** 0 or a negative errno. */
  setWatchEvents(watch: number, events: number): number;
  closeWatch(watch: number): void;

  memoryCreate(name: string, size: bigint, hugePages: boolean): number;
  /** Gives [first window, number of windows, index in `damageFlags`, address in this process]. */
  memoryMap(fd: number, offset: bigint, length: bigint): [number, number, number, bigint];
  /** The bytes of a window, always the same buffer; null when it is not mapped. */
  memoryShow(window: number): ArrayBuffer | null;
  memoryUnmap(firstWindow: number): void;
  /** Int32 flags, one for each mapping of the process. */
  damageFlags(): ArrayBuffer;

  /** `peer` is a socket or -1. Gives [handle, duplicate of the fd]. */
  userfaultOpen(peer: number): [number, number];
  /**
   * Numbers of signals with which this process is going to end: memory whose pages are missing is withdrawn shortly after one
   * has come, if it is there still. For userfaultfds that are opened from then on.
   */
  userfaultEndWith(signals: readonly number[]): void;
  userfaultRegister(handle: number, firstWindow: number): void;
  userfaultEnd(handle: number, served: boolean): void;
  /** The address of the next fault, null when there is none now. */
  userfaultNext(fd: number): bigint | null;
  /** False when there is a page already. */
  userfaultCopy(fd: number, address: bigint, bytes: Uint8Array): boolean;
  userfaultWake(fd: number, address: bigint, length: bigint): void;

  /** Int32 entries of five. */
  copyEntries(): ArrayBuffer;
  /** -1, or the index of the first entry out of bounds; nothing was copied then. */
  copyRun(count: number): number;

  /** Gives [file, block size, can discard]. The callback gets the number of completions in the table. */
  blockOpen(
    path: string,
    readOnly: boolean,
    direct: boolean,
    threads: boolean,
    callback: (count: number) => void,
  ): [number, number, boolean];
  /** Bytes of the image, as it is now. */
  blockSize(file: number): bigint;
  /** Gives [rows: Int32 x4, places: Float64 x2, segments: Int32 x3, completions: Int32 x2]. */
  blockTables(file: number, segments: number): [ArrayBuffer, ArrayBuffer, ArrayBuffer, ArrayBuffer];
  blockCompletions(file: number): ArrayBuffer;
  /** Operations that ended since the last published ones, or a negative errno; without `publish` 0. */
  blockSubmit(file: number, count: number, publish: number): number;
  /** 1 when somebody else may write to the image, 0 when nobody, a negative errno when the file system cannot tell. */
  blockHeldElsewhere(file: number): number;
  blockClose(file: number): void;

  /** Gives [fd, name of the device]. */
  tapOpen(name: string, severalQueues: boolean): [number, string];
  tapSetOffloads(fd: number, checksum: boolean, tcp4: boolean, tcp6: boolean, ecn: boolean): void;
  /** Gives [rows: Int32 x5 (header words, first segment, segments), segments: Int32 x3, lengths: Int32]. */
  tapTables(): [ArrayBuffer, ArrayBuffer, ArrayBuffer];
  /** Packets done with; their lengths are 0 or a negative errno. Fewer than `count` when it would block. */
  tapWrite(fd: number, count: number): number;
  /** Packets in `lengths`, or a negative errno. */
  tapRead(fd: number, window: number, offset: number, stride: number, count: number): number;
}

export const WatchEvent = { readable: 1, writable: 2, hungUp: 4 } as const;

const file = './vhost_user.node';
let addon: Addon | undefined;

/** Loads the addon at the first call. Throws what Node throws when it is missing or does not fit. */
export function loadAddon(): Addon {
  addon ??= createRequire(import.meta.url)(file) as Addon;
  return addon;
}
