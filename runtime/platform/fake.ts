import { PlatformError } from '../errors.js';
import { FakeBlockFile, FakeFiles, type FakeImage, type FakeImageOptions } from './fake/block-file.js';
import { EventCounter } from './fake/event-fd.js';
import { readChannel, writeChannel } from './fake/channel.js';
import { FdTable, PlainDescription, systemError } from './fake/fd-table.js';
import { FakeCopyTable, FakeMapping, FakeWindows, SharedMemory } from './fake/memory.js';
import {
  FakeSocketListener,
  FakeSocketStream,
  ListenerEnd,
  type SocketBehaviour,
  StreamEnd,
} from './fake/sockets.js';
import { FakeUserfault, FakeUserfaultServer, PageSupply } from './fake/userfault.js';
import type {
  BlockFile,
  FdKind,
  Mapping,
  Platform,
  SocketListener,
  SocketStream,
  TapQueue,
  Userfault,
  UserfaultServer,
  Watch,
} from './platform.js';

export type {
  BlockOperationName,
  FakeErrno,
  FakeImage,
  FakeImageOptions,
  FakeOperation,
} from './fake/block-file.js';
export type { SocketBehaviour } from './fake/sockets.js';

/** The system calls that `failNext` can break. */
export type FakeSystemCall =
  | 'mmap'
  | 'memfd_create'
  | 'eventfd'
  | 'dup'
  | 'accept4'
  | 'recvmsg'
  | 'sendmsg'
  | 'socket'
  | 'connect'
  | 'open'
  | 'userfaultfd';

/**
 * A platform in memory, for tests: no addon, no kernel. What happens later happens on later turns of the loop, in the
 * order in which it was caused; nothing depends on time. Beyond `Platform` it counts what is open and takes orders.
 */
export interface FakePlatform extends Platform {
  readonly name: 'fake';
  /** How all of its sockets behave from now on. */
  readonly sockets: SocketBehaviour;
  /** Fds that someone has to close, streams, listeners and open images among them. */
  readonly openFdCount: number;
  readonly openFds: { fd: number; kind: FdKind }[];
  readonly mappingCount: number;
  /** The next call of this kind, after `skip` good ones, throws. */
  failNext(call: FakeSystemCall, errno: string, skip?: number): void;
  /** An fd of a kind that nothing else makes. */
  createFd(kind: FdKind): number;
  /** A bound and listening socket as an fd, for `adoptSocket`. */
  createListeningFd(path: string): number;
  /** Leaves a socket file that nobody listens on. */
  leaveStaleSocket(path: string): void;
  /** An image for `openFile`: its bytes, or so many zeros. */
  addFile(path: string, content: Uint8Array | number, options?: FakeImageOptions): FakeImage;
  /** Shortens shared memory below its mappings. */
  truncateSharedMemory(fd: number, size: number): void;
  /**
   * Accesses a mapping as a device would: a page that a userfaultfd still misses is asked for. Returns whether the page is there.
   */
  touch(mapping: Mapping, offset: number): boolean;
  /** Reads and clears an eventfd's counter. */
  takeEventFd(fd: number): bigint;
}

/** Makes a platform of its own; two of them share nothing. */
export function createFakePlatform(options: Partial<SocketBehaviour> = {}): FakePlatform {
  return new InMemoryPlatform(options);
}

class InMemoryPlatform implements FakePlatform {
  readonly name = 'fake';
  readonly windows = new FakeWindows();
  readonly copies = new FakeCopyTable(this.windows);
  readonly sockets: SocketBehaviour;
  readonly #fds = new FdTable();
  readonly #files = new FakeFiles();
  /** Bound paths; null is a socket file that nobody listens on. */
  readonly #bound = new Map<string, ListenerEnd | null>();
  #mappings = 0;

  constructor(options: Partial<SocketBehaviour>) {
    this.sockets = { receiveLimit: Infinity, sendCapacity: 212_992, ...options };
  }

  get openFdCount(): number {
    return this.#fds.count;
  }

  get openFds(): { fd: number; kind: FdKind }[] {
    return this.#fds.list();
  }

  get mappingCount(): number {
    return this.#mappings;
  }

  failNext(call: FakeSystemCall, errno: string, skip = 0): void {
    this.#fds.failNext(call, errno, skip);
  }

  listen(path: string): SocketListener {
    const fd = this.createListeningFd(path);
    return new FakeSocketListener(this.#fds, fd, this.#fds.get(fd, 'listen') as ListenerEnd);
  }

  createListeningFd(path: string): number {
    this.#fds.fault('socket');
    if (this.#files.has(path) || (this.#bound.get(path) ?? null) !== null) {
      throw systemError('bind', 'EADDRINUSE', path);
    }
    const end = new ListenerEnd(() => this.#bound.delete(path));
    this.#bound.set(path, end);
    return this.#fds.open(end);
  }

  leaveStaleSocket(path: string): void {
    this.#bound.set(path, null);
  }

  async connect(path: string, options: { signal?: AbortSignal } = {}): Promise<SocketStream> {
    options.signal?.throwIfAborted();
    this.#fds.fault('connect');
    const listener = this.#bound.get(path);
    if (listener === undefined) throw systemError('connect', 'ENOENT', path);
    if (listener === null) throw systemError('connect', 'ECONNREFUSED', path);
    const [near, far] = StreamEnd.pair(this.sockets);
    const stream = new FakeSocketStream(this.#fds, this.#fds.open(near), near);
    listener.backlog.push(far.hold());
    listener.onChange?.();
    await new Promise(setImmediate);
    if (options.signal?.aborted === true) {
      stream.close();
      throw options.signal.reason;
    }
    return stream;
  }

  adoptSocket(fd: number): SocketListener | SocketStream {
    const description = this.#fds.get(fd, 'getsockopt');
    if (description instanceof StreamEnd) return new FakeSocketStream(this.#fds, fd, description);
    if (description instanceof ListenerEnd) return new FakeSocketListener(this.#fds, fd, description);
    throw systemError('getsockopt', 'ENOTSOCK', `fd ${fd} is of kind ${description.kind}`);
  }

  socketPair(): [number, number] {
    const [a, b] = StreamEnd.pair(this.sockets);
    return [this.#fds.open(a), this.#fds.open(b)];
  }

  closeFd(fd: number): void {
    this.#fds.close(fd);
  }

  duplicateFd(fd: number): number {
    this.#fds.fault('dup');
    return this.#fds.open(this.#fds.get(fd, 'dup'));
  }

  fdKind(fd: number): FdKind {
    return this.#fds.get(fd, 'fstat').kind;
  }

  fileSize(fd: number): bigint {
    return this.#fds.get(fd, 'fstat').size;
  }

  fileIdentity(fd: number): string {
    return this.#fds.get(fd, 'fstat').identity;
  }

  readChannel(fd: number, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#channel(fd, (stream) => readChannel(stream, (stray) => this.closeFd(stray), limit, signal));
  }

  writeChannel(fd: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#channel(fd, (stream) => writeChannel(stream, bytes, signal));
  }

  /** Takes the fd over in any case: what is no channel is closed too. */
  #channel<Result>(fd: number, use: (stream: SocketStream) => Promise<Result>): Promise<Result> {
    let stream: SocketStream;
    try {
      stream = this.adoptSocket(fd) as SocketStream;
    } catch (error) {
      this.closeFd(fd);
      return Promise.reject(error as Error);
    }
    return use(stream);
  }

  createFd(kind: FdKind): number {
    return this.#fds.open(new PlainDescription(kind));
  }

  createSharedMemory(_name: string, size: bigint): number {
    this.#fds.fault('memfd_create');
    return this.#fds.open(new SharedMemory(size));
  }

  truncateSharedMemory(fd: number, size: number): void {
    this.#memory(fd, 'ftruncate').truncate(size);
  }

  map(fd: number, offset: bigint, length: bigint, options?: { lazy?: boolean }): Mapping {
    const memory = this.#memory(fd, 'mmap');
    this.#fds.fault('mmap');
    const lazy = options?.lazy ?? false;
    const mapping = new FakeMapping(this.windows, memory, offset, length, lazy, () => this.#mappings--);
    this.#mappings++;
    return mapping;
  }

  openUserfault(): Userfault {
    this.#fds.fault('userfaultfd');
    const supply = new PageSupply();
    return new FakeUserfault(supply, this.#fds.open(supply));
  }

  serveUserfault(fd: number): UserfaultServer {
    const supply = this.#fds.get(fd, 'read');
    if (supply instanceof PageSupply) return new FakeUserfaultServer(this.#fds, fd, supply);
    throw new PlatformError('ERR_PLATFORM_ARGUMENT', `fd ${fd} is no userfaultfd but a ${supply.kind}`);
  }

  touch(mapping: Mapping, offset: number): boolean {
    return (mapping as FakeMapping).touch(offset);
  }

  createEventFd(): number {
    this.#fds.fault('eventfd');
    return this.#fds.open(new EventCounter());
  }

  signalEventFd(fd: number): void {
    const description = this.#fds.get(fd, 'write');
    if (description instanceof StreamEnd)
      description.send(new Uint8Array(new BigUint64Array([1n]).buffer), []);
    else if (description.kind === 'socket') throw systemError('write', 'ENOTCONN', `fd ${fd} listens`);
    // Nobody reads a pipe in here, so it is as good as full.
    else if (description.kind !== 'pipe') this.#counter(fd, 'write').signal();
  }

  takeEventFd(fd: number): bigint {
    return this.#counter(fd, 'read').take();
  }

  watchEventFd(fd: number, onSignal: () => void): Watch {
    return this.#counter(fd, 'read').watch(onSignal);
  }

  addFile(path: string, content: Uint8Array | number, options: FakeImageOptions = {}): FakeImage {
    return this.#files.add(path, content, options);
  }

  openFile(path: string, options: { readOnly: boolean }): BlockFile {
    this.#fds.fault('open');
    const image = this.#files.get(path, options.readOnly);
    const fd = this.#fds.open(new PlainDescription('file'));
    return new FakeBlockFile(image, options.readOnly, this.windows, () => this.#fds.close(fd));
  }

  /** There is no network in here: a port over TAP queues is given other ones by its test. */
  openTap(name: string): TapQueue {
    throw systemError('open', 'ENOENT', `TAP device ${name}`);
  }

  #memory(fd: number, syscall: string): SharedMemory {
    const description = this.#fds.get(fd, syscall);
    if (description instanceof SharedMemory) return description;
    throw systemError(syscall, 'ENODEV', `fd ${fd} is of kind ${description.kind}`);
  }

  #counter(fd: number, syscall: string): EventCounter {
    const description = this.#fds.get(fd, syscall);
    if (description instanceof EventCounter) return description;
    throw new PlatformError(
      'ERR_PLATFORM_ARGUMENT',
      `${syscall}: fd ${fd} is no eventfd but of kind ${description.kind}`,
      {
        syscall,
      },
    );
  }
}
