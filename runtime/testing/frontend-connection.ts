import { VhostError } from '../errors.js';
import type { Platform, SocketStream } from '../platform/platform.js';

/** A message with nothing checked but that it is whole. Whoever gets one closes its fds. */
export interface RawMessage {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: number[];
}

const HEADER_SIZE = 12;
/** Generous, so that tests can look at what a peer sends in error. */
const MAX_PAYLOAD = 1 << 20;

/**
 * One end of a vhost-user socket, bytes out and whole messages in. It shares no code with the back-end's framing, so that
 * each is a check of the other, and it sends anything, malformed or not.
 */
export class FrontendConnection implements Disposable {
  readonly platform: Platform;
  readonly #stream: SocketStream;
  readonly #outgoing: { bytes: Uint8Array; fds: readonly number[]; sent: () => void }[] = [];
  readonly #incoming: RawMessage[] = [];
  readonly #waiting: { resolve: (message: RawMessage) => void; reject: (error: unknown) => void }[] = [];
  #buffer = new Uint8Array(HEADER_SIZE);
  #filled = 0;
  #header: { request: number; flags: number; size: number } | null = null;
  #fds: number[] = [];
  #ended: VhostError | null = null;
  #markEnded!: (reason: VhostError) => void;
  /** Resolves with the reason once the connection has ended, from whichever side. */
  readonly ended = new Promise<VhostError>((resolve) => (this.#markEnded = resolve));

  /** Takes the stream over. */
  constructor(platform: Platform, stream: SocketStream) {
    this.platform = platform;
    this.#stream = stream;
    stream.onReadable(() => this.#receive());
  }

  /** Why the connection is over, null while it is not. */
  get endReason(): VhostError | null {
    return this.#ended;
  }

  /**
   * Sends bytes as they are; `fds` go with the first of them and stay the caller's. Resolves when the peer's socket has
   * taken all.
   */
  sendBytes(bytes: Uint8Array, fds: readonly number[] = []): Promise<void> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    return new Promise((sent) => {
      this.#outgoing.push({ bytes, fds, sent });
      if (this.#outgoing.length === 1) this.#flush();
    });
  }

  /** Sends one message. `size` states another payload size than there is. `flags` include the version. */
  send(
    request: number,
    flags: number,
    payload: Uint8Array,
    fds: readonly number[] = [],
    size = payload.byteLength,
  ): Promise<void> {
    const bytes = new Uint8Array(HEADER_SIZE + payload.byteLength);
    const header = new DataView(bytes.buffer);
    header.setUint32(0, request, true);
    header.setUint32(4, flags, true);
    header.setUint32(8, size, true);
    bytes.set(payload, HEADER_SIZE);
    return this.sendBytes(bytes, fds);
  }

  /** The next message, in the order in which this was called. Rejects at the connection's end or by the signal. */
  receive(signal?: AbortSignal): Promise<RawMessage> {
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    const message = this.#incoming.shift();
    if (message !== undefined) return Promise.resolve(message);
    if (this.#ended !== null) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      const waiter = {
        resolve: (received: RawMessage) => {
          signal?.removeEventListener('abort', abort);
          resolve(received);
        },
        reject: (error: unknown) => {
          signal?.removeEventListener('abort', abort);
          reject(error as Error);
        },
      };
      // An abandoned wait makes the stream of replies ambiguous: nothing sensible can follow.
      const abort = () => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
        waiter.reject(signal!.reason);
        this.close(new VhostError('ERR_VHOST_REPLY', 'waiting for a reply was aborted'));
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiting.push(waiter);
    });
  }

  /** Closes the socket, whatever is half sent or half received. */
  close(reason = new VhostError('ERR_VHOST_DISCONNECTED', 'the connection was closed here')): void {
    if (this.#ended !== null) return;
    this.#ended = reason;
    this.#stream.close();
    this.#closeFds(this.#fds);
    for (const message of this.#incoming.splice(0)) this.#closeFds(message.fds);
    for (const { sent } of this.#outgoing.splice(0)) sent();
    for (const waiter of this.#waiting.splice(0)) waiter.reject(reason);
    this.#markEnded(reason);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #flush(): void {
    while (this.#outgoing.length > 0 && this.#ended === null) {
      const { bytes, fds, sent } = this.#outgoing[0]!;
      let taken: number;
      try {
        taken = this.#stream.send(bytes, fds);
      } catch (cause) {
        return this.#disconnected('sending failed', cause);
      }
      if (taken < 0) {
        this.#stream.onWritable(() => {
          this.#stream.onWritable(null);
          this.#flush();
        });
        return;
      }
      if (taken === bytes.byteLength) {
        this.#outgoing.shift();
        sent();
      } else {
        this.#outgoing[0] = { bytes: bytes.subarray(taken), fds: [], sent };
      }
    }
  }

  #receive(): void {
    while (this.#ended === null) {
      let count: number;
      try {
        count = this.#stream.receive(this.#buffer.subarray(this.#filled), this.#fds);
      } catch (cause) {
        return this.#disconnected('receiving failed', cause);
      }
      if (count < 0) return;
      if (count === 0) return this.#disconnected('the back-end closed the connection');
      this.#filled += count;
      if (this.#filled < this.#buffer.byteLength) continue;
      if (this.#header === null && !this.#openPayload()) return;
      if (this.#filled === this.#buffer.byteLength && this.#header !== null) this.#finish();
    }
  }

  /** The header is whole: makes room for the payload. False when the connection had to end. */
  #openPayload(): boolean {
    const view = new DataView(this.#buffer.buffer);
    const size = view.getUint32(8, true);
    if (size > MAX_PAYLOAD) {
      this.#disconnected(`the back-end announced a payload of ${size} bytes`);
      return false;
    }
    this.#header = { request: view.getUint32(0, true), flags: view.getUint32(4, true), size };
    this.#buffer = new Uint8Array(size);
    this.#filled = 0;
    return true;
  }

  #finish(): void {
    const { request, flags } = this.#header!;
    const message = { request, flags, payload: this.#buffer, fds: this.#fds };
    this.#header = null;
    this.#buffer = new Uint8Array(HEADER_SIZE);
    this.#filled = 0;
    this.#fds = [];
    const waiter = this.#waiting.shift();
    if (waiter === undefined) this.#incoming.push(message);
    else waiter.resolve(message);
  }

  #disconnected(what: string, cause?: unknown): void {
    this.close(new VhostError('ERR_VHOST_DISCONNECTED', what, { cause }));
  }

  #closeFds(fds: number[]): void {
    for (const fd of fds.splice(0)) this.platform.closeFd(fd);
  }
}
