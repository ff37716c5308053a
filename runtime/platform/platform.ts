import type { PlatformError } from '../errors.js';

/**
 * What the runtime needs from the operating system. Two implementations: `linux.ts` over the addon, `fake.ts` in memory
 * for tests. Every failing call throws PlatformError with the system call and errno; would-block is never an error.
 *
 * An fd is a plain number here. Whoever holds it closes it with `closeFd`; the layers above wrap received ones at once.
 */
export interface Platform {
  readonly name: 'linux' | 'fake';
  readonly windows: WindowTable;

  // --- sockets (Unix stream)
  /** Binds and listens. Replaces a socket file that nobody listens on, fails with EADDRINUSE on a live one. */
  listen(path: string): SocketListener;
  /** Connects without blocking the loop. Rejects with PlatformError (ECONNREFUSED, ENOENT …) or the signal's reason. */
  connect(path: string, options?: { signal?: AbortSignal }): Promise<SocketStream>;
  /** Takes over an inherited fd. A listening socket becomes a listener, a connected one a stream (SO_ACCEPTCONN). */
  adoptSocket(fd: number): SocketListener | SocketStream;
  /** A connected pair, both ends as fds; give one to `adoptSocket` or to a peer. */
  socketPair(): [number, number];

  // --- fds
  closeFd(fd: number): void;
  duplicateFd(fd: number): number;
  /** What an fd is, so that a wrong kind is refused before it is used. */
  fdKind(fd: number): FdKind;
  /** Size in bytes of the file behind an fd (block devices included). */
  fileSize(fd: number): bigint;
  /** Equal for fds of the same file, and different from any other file's while it is open or mapped. */
  fileIdentity(fd: number): string;

  // --- pipes
  /**
   * Reads a pipe or stream socket to its end, without blocking. Takes the fd over: it is closed when the promise settles. Rejects
   * with PlatformError, also for an fd that cannot be read so, with ERR_PLATFORM_LIMIT for more than `limit` bytes, or with the
   * signal's reason.
   */
  readChannel(fd: number, limit: number, signal?: AbortSignal): Promise<Uint8Array>;
  /** Writes all of `bytes` and closes the fd, likewise. */
  writeChannel(fd: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void>;

  // --- shared memory
  /** A sealed-for-shrinking-not memfd of `size` bytes, for front-ends and tests. */
  createSharedMemory(name: string, size: bigint, options?: { hugePages?: boolean }): number;
  /**
   * Maps `length` bytes at `offset` of the file shared, readable and writable. Unaligned offsets are rounded down inside.
   * Does not consume the fd. Fails when the file is shorter than offset + length. `lazy` leaves it to `windows.show` to
   * make the views.
   */
  map(fd: number, offset: bigint, length: bigint, options?: { lazy?: boolean }): Mapping;

  // --- page faults
  /**
   * Opens a userfaultfd for mappings of this process, one that sees faults inside of system calls too. Throws PlatformError
   * (EPERM) where the system does not allow that.
   *
   * `peer` is the socket whose far end supplies the pages. When that hangs up, the memory is withdrawn by a thread of the
   * addon shortly afterwards: the loop may be what waits for a page, and could not see it.
   */
  openUserfault(peer?: SocketStream): Userfault;
  /** Takes over the userfaultfd of another process, to supply its pages. Throws ERR_PLATFORM_ARGUMENT for any other fd. */
  serveUserfault(fd: number): UserfaultServer;

  // --- eventfds
  createEventFd(): number;
  /**
   * Adds one; to a pipe or a socket that stands in for an eventfd it writes the same 8 bytes. A full one is success: the peer has
   * a signal pending. Never blocks.
   */
  signalEventFd(fd: number): void;
  /**
   * Calls back on the loop after the counter was drained natively. `close` stops watching; it does not close the fd.
   * An fd that turns out to be unreadable (a peer may pass anything) is watched no more and given to `onFailure`;
   * without one that is an uncaughtException.
   */
  watchEventFd(fd: number, onSignal: () => void, onFailure?: (error: PlatformError) => void): Watch;

  // --- bulk work between windows and files
  copies: CopyTable;
  /** Opens an image. Throws PlatformError. */
  openFile(path: string, options: { readOnly: boolean; direct?: boolean }): BlockFile;

  // --- networks
  /** Attaches one queue to a TAP device, which is made when it is not there. Throws PlatformError. */
  openTap(name: string, options?: { severalQueues?: boolean }): TapQueue;
}

/**
 * One queue of a TAP device. Every packet has a header of 12 bytes (virtio_net_hdr_v1, little-endian). The tables are shared
 * by all queues of a thread: fill or read them in one go with the call they belong to.
 */
export interface TapQueue extends Disposable {
  /** The device's name, chosen by the kernel where a pattern such as `tap%d` was given. */
  readonly name: string;
  /** Int32 with stride 5: three words of header, first segment, number of segments. */
  readonly rows: Int32Array;
  /** Int32 with stride 3: window, offset, length. */
  readonly segments: Int32Array;
  /** After `read`, bytes of each packet, header included; after `write`, 0, or a negative errno for a packet that is lost. */
  readonly lengths: Int32Array;
  /** What the packets that are read may ask for. */
  setOffloads(offloads: { checksum: boolean; tcp4: boolean; tcp6: boolean; ecn: boolean }): void;
  /** Writes the first `count` rows. Returns how many are done with; fewer when it would block. */
  write(count: number): number;
  /** Reads up to `count` packets into slots of `stride` bytes. Returns how many, 0 when it would block. Throws PlatformError. */
  read(window: number, offset: number, stride: number, count: number): number;
  /** Called while there is something to read; null stops watching. */
  onReadable(callback: (() => void) | null): void;
  /** Called while packets are taken; null stops watching. */
  onWritable(callback: (() => void) | null): void;
  close(): void;
}

export type FdKind =
  'eventfd' | 'userfaultfd' | 'socket' | 'file' | 'memory' | 'block-device' | 'pipe' | 'other';

export interface Watch extends Disposable {
  close(): void;
}

export interface SocketListener extends Disposable {
  readonly kind: 'listener';
  /** The callback owns the stream. Connections made before it is set wait in the backlog. */
  onConnection(callback: (stream: SocketStream) => void): void;
  /** Stops listening and removes the socket file if this listener made it. Accepted streams go on. */
  close(): void;
}

export interface SocketStream extends Disposable {
  readonly kind: 'stream';
  readonly fd: number;
  /**
   * Receives at most `into.byteLength` bytes and appends received fds (close-on-exec) to `fds`, which the caller then
   * owns. Returns the number of bytes, 0 at the end of the stream, -1 when it would block.
   */
  receive(into: Uint8Array, fds: number[]): number;
  /** Sends; `fds` go with the first byte and stay the caller's. Returns bytes taken, -1 when it would block. */
  send(bytes: Uint8Array, fds: readonly number[]): number;
  /** Called while there is something to receive or the peer hung up; null stops watching. */
  onReadable(callback: (() => void) | null): void;
  /** Called while the socket takes bytes; null stops watching. */
  onWritable(callback: (() => void) | null): void;
  /** Called while the peer has closed its end, whatever there is still to receive; null stops watching. */
  onHangUp(callback: (() => void) | null): void;
  close(): void;
}

/**
 * All mapped memory of the thread, in windows: a mapping is covered by views of at most WINDOW_SPAN bytes, placed every
 * WINDOW_STRIDE bytes, so that any range of at most SEGMENT_MAX bytes is contiguous in the view of the window it starts
 * in. A place in memory is (window, int32 offset); the same pair means the same memory to JavaScript and to the addon.
 *
 *   mapping  |------------------------------------------------|
 *   window k |=======stride=======|----overlap---|
 *   window k+1                    |=======stride=======|--…
 *
 * Indexes are the thread's own (a worker maps for itself) and reused after `unmap`, the lowest first. Both arrays are
 * indexed by window; a retired window holds views of length 0, so stale accesses read as undefined and never fault.
 *
 * Making a view costs milliseconds: V8 takes it for 2 GiB of heap and collects garbage. So a lazy mapping has none at
 * first, and whoever is about to touch a window calls `show`. To the addon all windows are there from the start.
 */
export interface WindowTable {
  readonly u8: Uint8Array[];
  /** The same bytes as 32-bit words; a tail of under 4 bytes is left out. */
  readonly u32: Uint32Array[];
  /** Makes the views of a lazily mapped window if they are not there. A window that is not mapped stays empty. */
  show(window: number): void;
}

/** 1 GiB. */
export const WINDOW_STRIDE = 0x4000_0000;
/** Just under 2 GiB: every offset is an int32. */
export const WINDOW_SPAN = 0x7fff_0000;
/** 512 MiB: the longest piece of memory that is handed on as one segment. */
export const SEGMENT_MAX = 0x2000_0000;

export interface Mapping extends Disposable {
  readonly length: bigint;
  /** Index of the first window in the WindowTable; the others follow it. */
  readonly firstWindow: number;
  readonly windowCount: number;
  /** Where it begins in this process. For those who supply its pages; nothing in here uses it. */
  readonly address: bigint;
  /**
   * True once the file was truncated below us and a page had to be replaced (SIGBUS guard), or the mapping was withdrawn. A
   * plain, cheap read.
   */
  readonly damaged: boolean;
  /** Detaches every view, then unmaps; memory that file I/O is under way in stays until that has ended. Idempotent. */
  unmap(): void;
}

/**
 * Mappings whose missing pages somebody else supplies (postcopy). An access to one stops the thread until it is there: the
 * loop for JavaScript, the copy table and reads and writes that are tried at once, a thread of the kernel or the addon for
 * other file I/O. Whoever supplies the pages must therefore be another process, or a thread of its own.
 */
export interface Userfault extends Disposable {
  /** A duplicate for whoever supplies the pages; the caller's to close. */
  readonly fd: number;
  /** Accesses to pages of this mapping that are not there wait from here on. Nothing may have touched it. Throws PlatformError. */
  register(mapping: Mapping): void;
  /** All pages are there: the mappings are as any other, and whoever waits goes on. */
  release(): void;
  /**
   * They will never come: the mappings are withdrawn. File I/O in them ends with -EFAULT, that which waits included;
   * JavaScript finds zeros in memory of its own. They are damaged, and reach nobody else's memory any more. Idempotent,
   * and without effect after `release`.
   */
  withdraw(): void;
}

/** The other end of a Userfault. */
export interface UserfaultServer extends Disposable {
  /**
   * Called with the address of each fault, in the other process; null stops watching. One that turns out to be unreadable is
   * watched no more and given to `onFailure`; without it that is an uncaughtException.
   */
  onFault(callback: ((address: bigint) => void) | null, onFailure?: (error: PlatformError) => void): void;
  /** Puts whole pages there and wakes whoever waits for them. False when a page is there already. Throws PlatformError. */
  copy(address: bigint, bytes: Uint8Array): boolean;
  /** Wakes whoever waits in a range of whole pages: it is there now. */
  wake(address: bigint, length: bigint): void;
  close(): void;
}

/**
 * memcpy in bulk, each copy with a few bytes of its own in front if it likes. Bounds are checked natively. Entries:
 *
 *   Int32, stride 9:  from window | from offset | to window | to offset | length | prefix length | prefix (three words)
 *
 * The prefix, at most COPY_PREFIX_MAX bytes, goes to the target's offset and the copy behind it; what follows the twelfth byte
 * of it is zero. Every entry says its prefix length: most say 0.
 */
export interface CopyTable {
  readonly capacity: number;
  readonly entries: Int32Array;
  /** Runs the first `count` entries in order. Throws ERR_PLATFORM_ARGUMENT on an entry out of bounds, with none run. */
  run(count: number): void;
}

export const COPY_STRIDE = 9;
export const COPY_PREFIX_MAX = 20;

/** One operation of a BlockFile. */
export const BlockOperation = {
  read: 0,
  write: 1,
  flush: 2,
  discard: 3,
  writeZeroes: 4,
  writeZeroesUnmap: 5,
} as const;

/**
 * Asynchronous, zero-copy I/O between windows and a file. Operations are queued and then submitted together; each ends
 * exactly once. `result` is bytes moved (0 for flush, discard and zeroes), or a negative errno. Reads and writes are
 * retried inside until whole, so a short result means the end of the file. A segment outside its window ends its operation with
 * -EFAULT.
 */
export interface BlockFile extends Disposable {
  /** Bytes, as the file is now. */
  readonly size: bigint;
  readonly readOnly: boolean;
  /** Logical block size of the medium in bytes, 512 for a plain file. */
  readonly blockSize: number;
  readonly canDiscard: boolean;
  readonly canWriteZeroes: boolean;
  /** Operations queued or running. */
  readonly pending: number;
  /**
   * Queues one operation. `token` is any int32 of the caller's. Segments are Int32 with stride 4 (window, offset, length,
   * unused) from `firstSegment` on; for flush, discard and zeroes `segmentCount` is 0 and `length` counts.
   */
  queue(
    operation: number,
    token: number,
    position: number,
    length: number,
    segments: Int32Array,
    firstSegment: number,
    segmentCount: number,
  ): void;
  /**
   * Starts everything queued. What can end without blocking ends before this returns and is reported through
   * `completions`; the rest is reported through `onComplete` later. Returns the number of operations that ended.
   */
  submit(): number;
  /** Pairs (token, result) of the operations that ended; valid until the next submit or callback. */
  readonly completions: Int32Array;
  /** Called on the loop with the number of pairs now in `completions`. */
  onComplete(callback: (count: number) => void): void;
  /**
   * Whether somebody else has the file open for writing through this interface, or the kernel still writes for a process
   * that had and is gone. Null when the file system cannot tell; false for a file that is read-only here, or closed.
   */
  heldElsewhere(): boolean | null;
  /** Ends when nothing is pending; the fd is closed then. No new work is taken. */
  close(): Promise<void>;
}
