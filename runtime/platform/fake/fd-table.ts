import { PlatformError } from '../../errors.js';
import type { FdKind } from '../platform.js';

let nextIdentity = 1;

/** What one or more fds stand for (the kernel's open file description). It ends when the last holder lets go. */
export abstract class Description {
  abstract readonly kind: FdKind;
  /** Never used again, like the numbers of fds. */
  readonly identity = String(nextIdentity++);
  #holders = 0;

  hold(): this {
    this.#holders++;
    return this;
  }

  drop(): void {
    if (--this.#holders === 0) this.ended();
  }

  /** Size in bytes of what lies behind it; 0 for what has none, as fstat says. */
  get size(): bigint {
    return 0n;
  }

  /** The last fd, in a table or under way in a socket, is gone. */
  protected ended(): void {}
}

/** An fd that exists to be counted, refused and closed. */
export class PlainDescription extends Description {
  readonly kind: FdKind;

  constructor(kind: FdKind) {
    super();
    this.kind = kind;
  }
}

/** Numbered fds. Numbers are never used twice, so that anything done with a closed one fails instead of hitting another. */
export class FdTable {
  readonly #open = new Map<number, Description>();
  readonly #faults: { syscall: string; errno: string; skip: number }[] = [];
  #next = 1000;

  get count(): number {
    return this.#open.size;
  }

  /** The open fds with their kinds, to name a leak. */
  list(): { fd: number; kind: FdKind }[] {
    return Array.from(this.#open, ([fd, { kind }]) => ({ fd, kind }));
  }

  open(description: Description): number {
    const fd = this.#next++;
    this.#open.set(fd, description.hold());
    return fd;
  }

  get(fd: number, syscall: string): Description {
    const description = this.#open.get(fd);
    if (description === undefined) throw systemError(syscall, 'EBADF', `fd ${fd} is not open`);
    return description;
  }

  close(fd: number): void {
    const description = this.get(fd, 'close');
    this.#open.delete(fd);
    description.drop();
  }

  failNext(syscall: string, errno: string, skip: number): void {
    this.#faults.push({ syscall, errno, skip });
  }

  /** Throws what `failNext` ordered for this call. */
  fault(syscall: string): void {
    const index = this.#faults.findIndex((fault) => fault.syscall === syscall);
    const fault = this.#faults[index];
    if (fault === undefined || fault.skip-- > 0) return;
    this.#faults.splice(index, 1);
    throw systemError(syscall, fault.errno, 'ordered by the test');
  }
}

export function systemError(syscall: string, errno: string, detail: string): PlatformError {
  return new PlatformError('ERR_PLATFORM_SYSTEM_CALL', `${syscall}: ${errno}: ${detail}`, { syscall, errno });
}
