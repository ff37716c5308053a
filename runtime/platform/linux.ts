import { constants } from 'node:os';
import { type Addon, loadAddon } from '../../native/index.js';
import { PlatformError } from '../errors.js';
import { LinuxBlockFile } from './linux-block-file.js';
import { readChannel, writeChannel } from './linux-channel.js';
import { connect } from './linux-connect.js';
import { LinuxCopyTable } from './linux-copies.js';
import { attempt, SOCKET_PATH, systemError } from './linux-errors.js';
import { EventFdWatch } from './linux-eventfd.js';
import { LinuxMapping, LinuxWindows } from './linux-memory.js';
import { LinuxSocketListener } from './linux-socket-listener.js';
import { LinuxSocketStream } from './linux-socket-stream.js';
import { LinuxTapQueue } from './linux-tap.js';
import { LinuxUserfault, LinuxUserfaultServer } from './linux-userfault.js';
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

export interface LinuxPlatformOptions {
  /**
   * How file operations that may block are carried out. `io-uring` falls back to `threads` where the kernel forbids it.
   * By default what VHOST_USER_BLOCK_ENGINE says, and `io-uring` without it.
   */
  readonly blockEngine?: 'io-uring' | 'threads';
  /**
   * Signals with which this process is going to end; each has its listener already. In postcopy the loop may stand still in a
   * page that does not come, and no listener runs: a second after such a signal what is missing is withdrawn, as when the
   * front-end goes. It holds for the whole process.
   */
  readonly endingSignals?: readonly ('SIGTERM' | 'SIGINT')[];
}

/** What there is once a thread: the addon's window numbers and its copy table are its own. */
interface Shared {
  readonly addon: Addon;
  readonly windows: LinuxWindows;
  readonly copies: LinuxCopyTable;
  readonly damageFlags: Int32Array;
}

let shared: Shared | undefined;

/** The platform over the addon. All that one thread makes share their windows. Throws ERR_PLATFORM_ADDON. */
export function createLinuxPlatform(options: LinuxPlatformOptions = {}): Platform {
  shared ??= load();
  const engine = options.blockEngine ?? process.env['VHOST_USER_BLOCK_ENGINE'] ?? 'io-uring';
  if (engine !== 'io-uring' && engine !== 'threads') {
    throw new PlatformError(
      'ERR_PLATFORM_ARGUMENT',
      `block engine "${engine}" is neither io-uring nor threads`,
    );
  }
  const { endingSignals = [] } = options;
  if (endingSignals.length > 0) {
    const { addon } = shared;
    attempt('note the signals of the end', () =>
      addon.userfaultEndWith(endingSignals.map((signal) => constants.signals[signal])),
    );
  }
  return new LinuxPlatform(shared, engine === 'threads');
}

function load(): Shared {
  let addon: Addon;
  try {
    addon = loadAddon();
  } catch (cause) {
    throw new PlatformError(
      'ERR_PLATFORM_ADDON',
      `the addon cannot be loaded; "make -C native" in the package's folder builds it: ${(cause as Error).message}`,
      { cause },
    );
  }
  return {
    addon,
    windows: new LinuxWindows(addon),
    copies: new LinuxCopyTable(addon),
    damageFlags: new Int32Array(addon.damageFlags()),
  };
}

class LinuxPlatform implements Platform {
  readonly name = 'linux';
  readonly windows: LinuxWindows;
  readonly copies: LinuxCopyTable;
  readonly #addon: Addon;
  readonly #damageFlags: Int32Array;
  readonly #threads: boolean;

  constructor({ addon, windows, copies, damageFlags }: Shared, threads: boolean) {
    this.windows = windows;
    this.copies = copies;
    this.#addon = addon;
    this.#damageFlags = damageFlags;
    this.#threads = threads;
  }

  listen(path: string): SocketListener {
    const [fd, device, inode] = attempt(
      `listen on ${path}`,
      () => this.#addon.socketListen(path),
      SOCKET_PATH,
    );
    try {
      return new LinuxSocketListener(this.#addon, fd, { path, device, inode });
    } catch (error) {
      this.#addon.socketUnlink(path, device, inode);
      this.#addon.fdClose(fd);
      throw error;
    }
  }

  connect(path: string, options?: { signal?: AbortSignal }): Promise<SocketStream> {
    return connect(this.#addon, path, options?.signal);
  }

  adoptSocket(fd: number): SocketListener | SocketStream {
    const listening = attempt(`take over fd ${fd} as a Unix stream socket`, () =>
      this.#addon.socketAdopt(fd),
    );
    return listening ? new LinuxSocketListener(this.#addon, fd) : new LinuxSocketStream(this.#addon, fd);
  }

  socketPair(): [number, number] {
    return attempt('make a socket pair', () => this.#addon.socketPair());
  }

  closeFd(fd: number): void {
    attempt(`close fd ${fd}`, () => this.#addon.fdClose(fd));
  }

  duplicateFd(fd: number): number {
    return attempt(`duplicate fd ${fd}`, () => this.#addon.fdDuplicate(fd));
  }

  fdKind(fd: number): FdKind {
    return attempt(`look at fd ${fd}`, () => this.#addon.fdKind(fd)) as FdKind;
  }

  fileSize(fd: number): bigint {
    return attempt(`read the size of fd ${fd}`, () => this.#addon.fdSize(fd));
  }

  fileIdentity(fd: number): string {
    return attempt(`look at fd ${fd}`, () => this.#addon.fdIdentity(fd));
  }

  readChannel(fd: number, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    return readChannel(this.#addon, fd, limit, signal);
  }

  writeChannel(fd: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    return writeChannel(this.#addon, fd, bytes, signal);
  }

  createSharedMemory(name: string, size: bigint, options?: { hugePages?: boolean }): number {
    const hugePages = options?.hugePages ?? false;
    return attempt(`make ${size} bytes of shared memory${hugePages ? ' in huge pages' : ''}`, () =>
      this.#addon.memoryCreate(name, size, hugePages),
    );
  }

  map(fd: number, offset: bigint, length: bigint, options?: { lazy?: boolean }): Mapping {
    const mapping = new LinuxMapping(this.#addon, this.windows, this.#damageFlags, fd, offset, length);
    if (options?.lazy !== true) mapping.showAll();
    return mapping;
  }

  openUserfault(peer?: SocketStream): Userfault {
    return new LinuxUserfault(this.#addon, peer?.fd ?? -1);
  }

  serveUserfault(fd: number): UserfaultServer {
    return new LinuxUserfaultServer(this.#addon, fd);
  }

  createEventFd(): number {
    return attempt('make an eventfd', () => this.#addon.createEventFd());
  }

  signalEventFd(fd: number): void {
    const status = this.#addon.signalEventFd(fd);
    if (status < 0) throw systemError(`signal eventfd ${fd}`, 'write', -status);
  }

  watchEventFd(fd: number, onSignal: () => void, onFailure?: (error: PlatformError) => void): Watch {
    return new EventFdWatch(this.#addon, fd, onSignal, onFailure);
  }

  openFile(path: string, options: { readOnly: boolean; direct?: boolean }): BlockFile {
    return new LinuxBlockFile(this.#addon, path, { ...options, threads: this.#threads });
  }

  openTap(name: string, options?: { severalQueues?: boolean }): TapQueue {
    return LinuxTapQueue.open(this.#addon, name, options?.severalQueues ?? false);
  }
}
