import { VhostError } from '../../errors.js';
import { VRING_FD_INDEX_MASK, type VringArea, VringFdFlag } from '../../../generated/vhost-user/payloads.js';
import type { OwnedFd } from '../fd-bundle.js';
import { checkPages } from './pages.js';

/** A range of a file that a driver may write to in order to notify a ring. */
export interface HostNotifier {
  readonly ring: number;
  /** Open until it is withdrawn; the table's. */
  readonly fd: number;
  /** Whole pages. */
  readonly offset: bigint;
  readonly size: bigint;
}

/** Who really maps. Nothing is mapped by the front-end itself. */
export interface HostNotifierHandler {
  /** The back-end offers a place, instead of one that it may have offered before. It is refused when this throws. */
  offered?(notifier: HostNotifier): void;
  /** The place is gone: the back-end said so, the ring stopped, the device was reset, or the back-end is gone. */
  withdrawn?(notifier: HostNotifier): void;
}

const NO_FD = BigInt(VringFdFlag.noFd);

/** The places of a back-end's rings (BACKEND_VRING_HOST_NOTIFIER_MSG), one a ring at most. */
export class HostNotifierTable {
  readonly #handler: HostNotifierHandler;
  readonly #entries = new Map<number, { readonly notifier: HostNotifier; readonly fd: OwnedFd }>();

  constructor(handler: HostNotifierHandler) {
    this.#handler = handler;
  }

  get notifiers(): readonly HostNotifier[] {
    return Array.from(this.#entries.values(), (entry) => entry.notifier);
  }

  /** Takes the fd over, refused or not. `exists` tells whether there is such a ring. */
  set({ vring, offset, size }: VringArea, fd: OwnedFd | null, exists: (ring: number) => boolean): void {
    try {
      const ring = Number(vring & BigInt(VRING_FD_INDEX_MASK));
      if ((vring & ~(BigInt(VRING_FD_INDEX_MASK) | NO_FD)) !== 0n || !exists(ring)) {
        throw wrong(`there is no ring 0x${vring.toString(16)}`);
      }
      const absent = (vring & NO_FD) !== 0n;
      if (absent !== (fd === null)) {
        throw new VhostError('ERR_VHOST_FDS', absent ? 'an fd came, and the flag for none' : 'no fd came');
      }
      if (fd === null) {
        this.drop(ring);
        return;
      }
      checkPages('a host notifier', offset, size);
      this.drop(ring);
      const notifier = { ring, fd: fd.fd, offset, size };
      this.#handler.offered?.(notifier);
      this.#entries.set(ring, { notifier, fd });
    } catch (error) {
      fd?.close();
      throw error;
    }
  }

  /** The ring stopped. */
  drop(ring: number): void {
    const entry = this.#entries.get(ring);
    if (entry === undefined) return;
    this.#entries.delete(ring);
    try {
      this.#handler.withdrawn?.(entry.notifier);
    } finally {
      entry.fd.close();
    }
  }

  /** The device was reset, or the back-end is gone. */
  clear(): void {
    for (const ring of [...this.#entries.keys()]) this.drop(ring);
  }
}

function wrong(message: string): VhostError {
  return new VhostError('ERR_VHOST_PAYLOAD', message);
}
