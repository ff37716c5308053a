import { setTimeout as delay } from 'node:timers/promises';
import { PlatformError } from '../../errors.js';
import type { Platform, SocketListener, SocketStream } from '../../platform/platform.js';

/** Where a back-end's connections come from. */
export interface ConnectionSource {
  /** No connection comes after this; the socket file is removed if this process made it. */
  close(): void;
  /** The last connection ended; true when more may come. */
  next(): boolean;
}

export interface ConnectionCallbacks {
  readonly onConnection: (stream: SocketStream) => void;
  /** No connection will ever come. */
  readonly onFailure: (error: unknown) => void;
}

/** Connections that front-ends make. */
export class ListeningSource implements ConnectionSource {
  readonly #listener: SocketListener;

  constructor(listener: SocketListener, { onConnection }: ConnectionCallbacks) {
    this.#listener = listener;
    listener.onConnection(onConnection);
  }

  close(): void {
    this.#listener.close();
  }

  next(): boolean {
    return true;
  }
}

/** The one connection that was there from the start. */
export class SingleSource implements ConnectionSource {
  constructor(stream: SocketStream, { onConnection }: ConnectionCallbacks) {
    onConnection(stream);
  }

  close(): void {}

  next(): boolean {
    return false;
  }
}

/** First and longest wait between two attempts, in milliseconds; each failure doubles it. */
const FIRST_RETRY = 20;
const LONGEST_RETRY = 1000;

/** Connections that this side makes to a listening front-end, one after the other, for as long as it takes. */
export class ConnectingSource implements ConnectionSource {
  readonly #platform: Platform;
  readonly #path: string;
  readonly #callbacks: ConnectionCallbacks;
  readonly #abort = new AbortController();
  #connectedAt = 0;
  /** Wait before the next attempt, in milliseconds. */
  #pause = 0;

  constructor(platform: Platform, path: string, callbacks: ConnectionCallbacks) {
    this.#platform = platform;
    this.#path = path;
    this.#callbacks = callbacks;
    void this.#connect();
  }

  close(): void {
    this.#abort.abort();
  }

  next(): boolean {
    // A front-end that takes connections and drops them at once is asked no more often than one that is not there.
    const brief = performance.now() - this.#connectedAt < LONGEST_RETRY;
    this.#pause = brief ? Math.min(LONGEST_RETRY, Math.max(FIRST_RETRY, this.#pause * 2)) : 0;
    void this.#connect();
    return true;
  }

  async #connect(): Promise<void> {
    const { signal } = this.#abort;
    try {
      if (this.#pause > 0) await delay(this.#pause, undefined, { signal });
      for (let wait = FIRST_RETRY; !signal.aborted; wait = Math.min(LONGEST_RETRY, wait * 2)) {
        const stream = await this.#attempt(signal);
        if (stream !== null) {
          this.#connectedAt = performance.now();
          if (signal.aborted) stream.close();
          else this.#callbacks.onConnection(stream);
          return;
        }
        await delay(wait, undefined, { signal });
      }
    } catch (error) {
      if (!signal.aborted) this.#callbacks.onFailure(error);
    }
  }

  /** null when nobody listens yet. */
  async #attempt(signal: AbortSignal): Promise<SocketStream | null> {
    try {
      return await this.#platform.connect(this.#path, { signal });
    } catch (error) {
      if (error instanceof PlatformError && (error.errno === 'ENOENT' || error.errno === 'ECONNREFUSED')) {
        return null;
      }
      throw error;
    }
  }
}
