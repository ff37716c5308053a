import { setTimeout as delay } from 'node:timers/promises';
import { PlatformError } from '../../errors.js';
import type { Platform, SocketListener, SocketStream } from '../../platform/platform.js';

/** Where connections to a back-end come from. */
export interface BackendSource extends Disposable {
  /** The next connection, the caller's. Rejects with PlatformError, or with the signal's reason. */
  next(signal?: AbortSignal): Promise<SocketStream>;
  /** Another connection can follow the one before. */
  readonly repeats: boolean;
  close(): void;
}

/** How often and in which rhythm to try to connect. */
export interface Retry {
  /** Attempts in all, at least 1; Infinity tries until the signal aborts. */
  readonly attempts: number;
  /** Between two of them. */
  readonly delayMilliseconds: number;
}

/** Nobody listens yet, or its backlog is full: worth another attempt. */
const WORTH_RETRYING = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN', 'ECONNRESET', 'EINTR']);

/** Rejects with the signal's reason. */
async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await delay(milliseconds, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    // The timer's own AbortError says nothing of why.
    signal?.throwIfAborted();
    throw error;
  }
}

/** Connects to a back-end that listens. */
export class ConnectingSource implements BackendSource {
  readonly repeats: boolean;
  readonly #platform: Platform;
  readonly #path: string;
  readonly #retry: Retry;
  /** When the last connection was made, in milliseconds. */
  #connectedAt = -Infinity;

  constructor(platform: Platform, path: string, retry: Retry, repeats: boolean) {
    this.#platform = platform;
    this.#path = path;
    this.#retry = retry;
    this.repeats = repeats;
  }

  async next(signal?: AbortSignal): Promise<SocketStream> {
    const { attempts, delayMilliseconds } = this.#retry;
    const pass = signal === undefined ? {} : { signal };
    // A back-end that hangs up as soon as it is connected to is tried no more often than one that is not there.
    const early = this.#connectedAt + delayMilliseconds - performance.now();
    if (early > 0) await pause(early, signal);
    for (let attempt = 1; ; attempt++) {
      signal?.throwIfAborted();
      try {
        const stream = await this.#platform.connect(this.#path, pass);
        this.#connectedAt = performance.now();
        return stream;
      } catch (error) {
        const again = error instanceof PlatformError && WORTH_RETRYING.has(error.errno ?? '');
        if (!again || attempt >= attempts) throw error;
      }
      await pause(delayMilliseconds, signal);
    }
  }

  close(): void {}

  [Symbol.dispose](): void {}
}

/**
 * Listens for back-ends that connect. One that comes while another is served is kept until it is asked for, since a restarted
 * back-end may be back before the end of the one before is noticed; only the latest is kept.
 */
export class ListeningSource implements BackendSource {
  readonly repeats = true;
  readonly #listener: SocketListener;
  #kept: SocketStream | null = null;
  #waiting: { resolve: (stream: SocketStream) => void; reject: (error: unknown) => void } | null = null;
  #closed = false;

  /** Throws PlatformError. */
  constructor(platform: Platform, path: string) {
    this.#listener = platform.listen(path);
    this.#listener.onConnection((stream) => {
      if (this.#waiting !== null) {
        this.#waiting.resolve(stream);
        return;
      }
      this.#kept?.close();
      this.#kept = stream;
    });
  }

  next(signal?: AbortSignal): Promise<SocketStream> {
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    if (this.#closed) {
      return Promise.reject(new PlatformError('ERR_PLATFORM_CLOSED', 'the listening socket is closed'));
    }
    const kept = this.#kept;
    if (kept !== null) {
      this.#kept = null;
      return Promise.resolve(kept);
    }
    return new Promise((resolve, reject) => {
      const abort = (): void => this.#waiting?.reject(signal!.reason);
      const settle = (): void => {
        this.#waiting = null;
        signal?.removeEventListener('abort', abort);
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiting = {
        resolve: (stream) => {
          settle();
          resolve(stream);
        },
        reject: (error) => {
          settle();
          reject(error as Error);
        },
      };
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#listener.close();
    this.#kept?.close();
    this.#kept = null;
    this.#waiting?.reject(new PlatformError('ERR_PLATFORM_CLOSED', 'the listening socket was closed'));
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** One connection that is there already. */
export class SingleSource implements BackendSource {
  readonly repeats = false;
  #stream: SocketStream | null;

  constructor(stream: SocketStream) {
    this.#stream = stream;
  }

  next(): Promise<SocketStream> {
    const stream = this.#stream;
    this.#stream = null;
    return stream === null
      ? Promise.reject(new PlatformError('ERR_PLATFORM_CLOSED', 'the only connection was used up'))
      : Promise.resolve(stream);
  }

  close(): void {
    this.#stream?.close();
    this.#stream = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
