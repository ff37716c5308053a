import { type Addon, WatchEvent } from '../../native/index.js';
import { PlatformError } from '../errors.js';
import { attempt, closedError, systemError } from './linux-errors.js';
import type { Mapping, Userfault, UserfaultServer } from './platform.js';

const NOT_ALLOWED = {
  EPERM:
    'catching page faults inside of system calls takes CAP_SYS_PTRACE, the sysctl vm.unprivileged_userfaultfd=1, or the right to open /dev/userfaultfd',
  EOPNOTSUPP: 'the kernel cannot do it for shared memory',
  ENOSYS: 'the kernel has no userfaultfd',
};

const NOT_SHARED = { EINVAL: 'the file is neither shared memory nor one of huge pages' };

export class LinuxUserfault implements Userfault {
  readonly fd: number;
  readonly #addon: Addon;
  readonly #handle: number;
  #open = true;

  constructor(addon: Addon, peer: number) {
    this.#addon = addon;
    [this.#handle, this.fd] = attempt('open a userfaultfd', () => addon.userfaultOpen(peer), NOT_ALLOWED);
  }

  register(mapping: Mapping): void {
    if (!this.#open) throw closedError('register memory with a userfaultfd');
    attempt(
      () => `have the pages of ${mapping.length} bytes of memory supplied`,
      () => this.#addon.userfaultRegister(this.#handle, mapping.firstWindow),
      NOT_SHARED,
    );
  }

  release(): void {
    this.#end(true);
  }

  withdraw(): void {
    this.#end(false);
  }

  [Symbol.dispose](): void {
    this.withdraw();
  }

  #end(served: boolean): void {
    if (!this.#open) return;
    this.#open = false;
    attempt('close a userfaultfd', () => this.#addon.userfaultEnd(this.#handle, served));
  }
}

export class LinuxUserfaultServer implements UserfaultServer {
  readonly #addon: Addon;
  readonly #fd: number;
  readonly #watch: number;
  #callback: ((address: bigint) => void) | null = null;
  #onFailure: ((error: PlatformError) => void) | null = null;
  #open = true;

  constructor(addon: Addon, fd: number) {
    this.#addon = addon;
    this.#fd = fd;
    const kind = attempt(`look at fd ${fd}`, () => addon.fdKind(fd));
    if (kind !== 'userfaultfd') {
      throw new PlatformError('ERR_PLATFORM_ARGUMENT', `fd ${fd} is no userfaultfd but a ${kind}`);
    }
    this.#watch = attempt(`watch userfaultfd ${fd}`, () =>
      addon.openWatch(fd, false, (events) => this.#ready(events)),
    );
  }

  onFault(callback: ((address: bigint) => void) | null, onFailure?: (error: PlatformError) => void): void {
    if (!this.#open) return;
    this.#callback = callback;
    this.#onFailure = onFailure ?? null;
    const status = this.#addon.setWatchEvents(this.#watch, callback === null ? 0 : WatchEvent.readable);
    if (status < 0) throw systemError(`watch userfaultfd ${this.#fd}`, 'epoll_ctl', -status);
  }

  copy(address: bigint, bytes: Uint8Array): boolean {
    this.#checkOpen();
    return attempt(
      () => `supply ${bytes.byteLength} bytes at 0x${address.toString(16)}`,
      () => this.#addon.userfaultCopy(this.#fd, address, bytes),
    );
  }

  wake(address: bigint, length: bigint): void {
    this.#checkOpen();
    attempt(
      () => `wake who waits at 0x${address.toString(16)}`,
      () => this.#addon.userfaultWake(this.#fd, address, length),
    );
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#callback = null;
    this.#addon.closeWatch(this.#watch);
    this.#addon.fdClose(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #ready(events: number): void {
    try {
      // The kernel reports an error for one that was never set up, and for one that blocks.
      if (events < 0) throw systemError('wait for page faults', 'epoll_wait', -events);
      while (this.#callback !== null) {
        const address = attempt('read a page fault', () => this.#addon.userfaultNext(this.#fd));
        if (address === null) return;
        this.#callback(address);
      }
    } catch (error) {
      if (!(error instanceof PlatformError) || this.#onFailure === null) throw error;
      this.#onFailure(error);
      this.onFault(null);
    }
  }

  #checkOpen(): void {
    if (!this.#open) throw closedError('supply pages');
  }
}
