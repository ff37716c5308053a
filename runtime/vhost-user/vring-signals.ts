import type { Platform } from '../platform/platform.js';
import type { OwnedFd } from './fd-bundle.js';

export interface VringSignalsContext {
  readonly platform: Platform;
  /** INBAND_NOTIFICATIONS is negotiated: sends BACKEND_VRING_CALL or BACKEND_VRING_ERR. Nothing where it is not. */
  readonly signalInband: (ring: number, what: 'call' | 'err') => void;
  readonly log: (level: 'warn' | 'debug', message: string, fields: Record<string, unknown>) => void;
}

/**
 * How a ring tells the front-end that something was used, or that it broke: by eventfd (or what stands in for one), or by message
 * where there is none.
 */
export class VringSignals {
  readonly #ring: number;
  readonly #context: VringSignalsContext;
  readonly #fds: { call: OwnedFd | null; err: OwnedFd | null } = { call: null, err: null };

  constructor(ring: number, context: VringSignalsContext) {
    this.#ring = ring;
    this.#context = context;
  }

  /** Takes the fd over in place of the one before; null means none. */
  replace(what: 'call' | 'err', fd: OwnedFd | null): void {
    this.#fds[what]?.close();
    this.#fds[what] = fd;
  }

  signal(what: 'call' | 'err'): void {
    const fd = this.#fds[what];
    if (fd === null) {
      this.#context.signalInband(this.#ring, what);
      return;
    }
    try {
      this.#context.platform.signalEventFd(fd.fd);
    } catch (error) {
      this.#context.log('warn', `ring ${this.#ring}: cannot signal its ${what} fd`, { error });
      // Nobody reads it any more, and nobody will.
      this.replace(what, null);
    }
  }

  close(): void {
    this.replace('call', null);
    this.replace('err', null);
  }
}
