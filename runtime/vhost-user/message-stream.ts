import { VhostError, WireError } from '../errors.js';
import type { Platform, SocketStream } from '../platform/platform.js';
import { WireReader, WireWriter } from '../wire/index.js';
import {
  HEADER_VERSION_MASK,
  HeaderFlag,
  MessageHeader,
  PROTOCOL_VERSION,
} from '../../generated/vhost-user/header.js';
import { FdBundle, type OwnedFd } from './fd-bundle.js';
import { messageChannel, nextConnection, type MessageTrace } from './message-trace.js';

/** A whole message as it came: header fields, payload bytes and the fds that travelled with any of its bytes. */
export interface ReceivedMessage {
  readonly request: number;
  /** Checked: version 1 and no unknown bit. */
  readonly flags: number;
  readonly payload: Uint8Array;
  /** Whoever receives the message closes it. */
  readonly fds: FdBundle;
}

export interface MessageStreamOptions {
  readonly platform: Platform;
  readonly stream: SocketStream;
  readonly socket: MessageTrace['socket'];
  /** Messages that come in here: requests (REPLY clear) or replies (REPLY set). */
  readonly receives: 'requests' | 'replies';
  /** Largest payload in bytes; a header that announces more ends the stream. */
  readonly maxPayload: number;
  /** File descriptors with one message; more end the stream. MESSAGE_FDS when absent. */
  readonly maxFds?: number;
  /** Whole messages read ahead while one is being handled. WAITING_MESSAGES when absent. */
  readonly maxWaiting?: number;
  /** Called with each whole message, in order. */
  readonly onMessage: (message: ReceivedMessage) => void;
  /** Called once when nothing more will come: null at an orderly end between two messages, else the reason. */
  readonly onEnd: (error: VhostError | null) => void;
}

const HEADER_SIZE = MessageHeader.maxSize;
/** More fds than any message carries; a peer that sends more with one message is cut off. */
export const MESSAGE_FDS = 64;
/** Reads before everything else on the loop has its turn. */
const READS_A_TURN = 64;
/** Whole messages that may wait while one is being handled. Behind them the socket's own buffer holds the peer back. */
export const WAITING_MESSAGES = 8;

/**
 * Messages over one socket, both ways.
 *
 *   0         4         8         12
 *   | request | flags   | size    | payload: size bytes |     u32 each, little-endian
 *
 * Each `receive` asks for the rest of the current header or payload and never for more, so no read spans two messages and
 * fds belong to the message whose bytes they came with. (The text puts them beside the first byte; a peer that writes
 * header and payload separately may attach them to either.)
 *
 * While the receiver has called `pause`, up to `maxWaiting` messages are read ahead. A peer that hangs up is noticed all the
 * same, also behind messages that are not read yet. While anything waits to be sent nothing is read: a peer that does not fetch
 * its replies gets no new ones.
 */
export class MessageStream implements Disposable {
  readonly #options: MessageStreamOptions;
  readonly #stream: SocketStream;
  readonly #connection = nextConnection();
  readonly #maxFds: number;
  readonly #maxWaiting: number;

  readonly #header = new Uint8Array(HEADER_SIZE);
  #payload: Uint8Array | null = null;
  #request = 0;
  #flags = 0;
  /** Bytes of the header, or of the payload once that is being read, that are there. */
  #filled = 0;
  #fds: FdBundle;

  readonly #waiting: ReceivedMessage[] = [];
  #paused = false;
  #delivering = false;
  #reading = false;
  #listening = false;
  /** Set when the peer ended the stream; reported when the messages before it are handled. */
  #ended: { error: VhostError | null } | null = null;
  #closed = false;

  /** Wait until everything that has come is handled. */
  readonly #caughtUp: (() => void)[] = [];

  readonly #outgoing: { bytes: Uint8Array; fds: readonly OwnedFd[] }[] = [];

  constructor(options: MessageStreamOptions) {
    this.#options = options;
    this.#maxFds = options.maxFds ?? MESSAGE_FDS;
    this.#maxWaiting = options.maxWaiting ?? WAITING_MESSAGES;
    this.#stream = options.stream;
    this.#fds = new FdBundle(options.platform);
  }

  /** Begins to read. */
  start(): void {
    this.#watch();
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Messages that the peer has not fetched yet. */
  get unsent(): number {
    return this.#outgoing.length;
  }

  /** Delivers no message until `resume`. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#deliver();
    this.#lookForMore();
  }

  /**
   * Calls `done` when every message has been delivered and handled (see `resume`) that the peer has sent before now, or when the
   * stream is closed. What it sends meanwhile may be waited for as well.
   */
  whenCaughtUp(done: () => void): void {
    this.#caughtUp.push(done);
    this.#lookForMore();
  }

  /** Sends a message, at once or as soon as the peer takes it. `flags` without the version. Takes the fds over. */
  send(request: number, flags: number, payload: Uint8Array, fds: readonly OwnedFd[] = []): void {
    if (this.#closed) {
      for (const fd of fds) fd.close();
      return;
    }
    const bytes = new Uint8Array(HEADER_SIZE + payload.byteLength);
    const writer = new WireWriter(bytes);
    MessageHeader.encode(writer, { request, flags: flags | PROTOCOL_VERSION, size: payload.byteLength });
    writer.bytes(payload, 'payload');
    this.#trace('out', request, flags | PROTOCOL_VERSION, payload, fds.length);
    this.#outgoing.push({ bytes, fds });
    if (this.#outgoing.length === 1) this.#flush();
  }

  /** Closes the socket and every fd that came and was not taken. Nothing is called any more. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reading = false;
    this.#fds.close();
    for (const message of this.#waiting.splice(0)) message.fds.close();
    this.#dropOutgoing();
    this.#stream.close();
    this.#nothingLeft();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  // --- in

  /** Reads while it may; see the class comment for when it may not. */
  #watch(): void {
    const wanted =
      !this.#closed &&
      this.#ended === null &&
      this.#outgoing.length === 0 &&
      this.#waiting.length < this.#maxWaiting;
    this.#listen(!wanted && !this.#closed && this.#ended === null && this.#paused);
    if (wanted === this.#reading) return;
    this.#reading = wanted;
    if (!this.#closed) this.#stream.onReadable(wanted ? this.#readable : null);
  }

  /** Whether the peer's end is watched for, where reading would not notice it. */
  #listen(wanted: boolean): void {
    if (wanted === this.#listening) return;
    this.#listening = wanted;
    if (!this.#closed) this.#stream.onHangUp(wanted ? this.#hungUp : null);
  }

  readonly #hungUp = (): void => {
    this.#end(
      new VhostError('ERR_VHOST_DISCONNECTED', 'the peer hung up while a request of its was handled'),
    );
  };

  readonly #readable = (): void => {
    try {
      for (let reads = 0; reads < READS_A_TURN && this.#reading && this.#receive(); reads++);
    } catch (cause) {
      this.#end(
        cause instanceof VhostError
          ? cause
          : new VhostError('ERR_VHOST_DISCONNECTED', 'receiving failed', { cause }),
      );
    }
  };

  /** An empty socket does not call `#readable`, so whoever waits for that has it looked at. */
  #lookForMore(): void {
    if (this.#caughtUp.length === 0) return;
    if (this.#closed) this.#nothingLeft();
    else if (this.#reading) this.#readable();
  }

  #nothingLeft(): void {
    for (const done of this.#caughtUp.splice(0)) done();
  }

  /** One read. False when nothing more is there now. */
  #receive(): boolean {
    const into = this.#payload ?? this.#header;
    const count = this.#stream.receive(into.subarray(this.#filled), this.#fds.pending);
    if (this.#fds.count > this.#maxFds) {
      throw new VhostError(
        'ERR_VHOST_FDS',
        `more than ${this.#maxFds} file descriptors came with one message`,
      );
    }
    if (count < 0) {
      if (!this.#paused && this.#waiting.length === 0) this.#nothingLeft();
      return false;
    }
    if (count === 0) {
      this.#end(this.#atBoundary() ? null : this.#brokenOff());
      return false;
    }
    this.#filled += count;
    if (this.#filled < into.byteLength) return true;
    if (this.#payload === null) this.#openPayload();
    if (this.#payload !== null && this.#filled === this.#payload.byteLength) this.#finish(this.#payload);
    return true;
  }

  #atBoundary(): boolean {
    return this.#payload === null && this.#filled === 0;
  }

  #brokenOff(): VhostError {
    const where =
      this.#payload === null
        ? `after ${this.#filled} bytes of a header`
        : `after ${this.#filled} of ${this.#payload.byteLength} payload bytes of request ${this.#request}`;
    return new VhostError('ERR_VHOST_DISCONNECTED', `the peer hung up ${where}`);
  }

  #openPayload(): void {
    const { request, flags, size } = decodeHeader(this.#header);
    this.#checkHeader(request, flags, size);
    this.#request = request;
    this.#flags = flags;
    this.#payload = new Uint8Array(size);
    this.#filled = 0;
  }

  #checkHeader(request: number, flags: number, size: number): void {
    const fault = (expected: string, got: string): VhostError =>
      new VhostError('ERR_VHOST_HEADER', `request ${request}: expected ${expected}, got ${got}`);
    if ((flags & HEADER_VERSION_MASK) !== PROTOCOL_VERSION) {
      throw fault(`version ${PROTOCOL_VERSION}`, `version ${flags & HEADER_VERSION_MASK}`);
    }
    const isReply = (flags & HeaderFlag.reply) !== 0;
    if (isReply !== (this.#options.receives === 'replies')) {
      throw fault(isReply ? 'a request' : 'a reply', isReply ? 'a reply' : 'a request');
    }
    if (size > this.#options.maxPayload) {
      throw fault(`at most ${this.#options.maxPayload} payload bytes`, String(size));
    }
  }

  #finish(payload: Uint8Array): void {
    const message = { request: this.#request, flags: this.#flags, payload, fds: this.#fds };
    this.#payload = null;
    this.#filled = 0;
    this.#fds = new FdBundle(this.#options.platform);
    this.#trace('in', message.request, message.flags, payload, message.fds.count);
    this.#waiting.push(message);
    this.#deliver();
  }

  #deliver(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    try {
      while (!this.#paused && !this.#closed && this.#outgoing.length === 0) {
        const message = this.#waiting.shift();
        if (message === undefined) break;
        this.#options.onMessage(message);
      }
    } finally {
      this.#delivering = false;
    }
    if (this.#closed) return;
    this.#watch();
    // The peer's end is the last thing to report, except that nobody fetches a reply any more once the peer is gone.
    if (this.#ended !== null) this.#reportEnd();
  }

  #end(error: VhostError | null): void {
    this.#fds.close();
    this.#ended = { error };
    this.#watch();
    if (!this.#delivering) this.#reportEnd();
  }

  #reportEnd(): void {
    if (this.#closed || this.#ended === null) return;
    // A pause means that a message is being handled. A peer that left does not wait for it, so neither do we.
    const { error } = this.#ended;
    this.close();
    this.#options.onEnd(error);
  }

  // --- out

  #flush(): void {
    try {
      for (let next = this.#outgoing[0]; next !== undefined; next = this.#outgoing[0]) {
        const sent = this.#stream.send(
          next.bytes,
          next.fds.map(({ fd }) => fd),
        );
        if (sent < 0) {
          this.#watch();
          this.#stream.onWritable(this.#writable);
          return;
        }
        // The fds went with the first byte; the peer has its own now.
        for (const fd of next.fds) fd.close();
        if (sent === next.bytes.byteLength) this.#outgoing.shift();
        else this.#outgoing[0] = { bytes: next.bytes.subarray(sent), fds: [] };
      }
    } catch (cause) {
      this.#dropOutgoing();
      this.#end(new VhostError('ERR_VHOST_DISCONNECTED', 'sending failed', { cause }));
    }
  }

  readonly #writable = (): void => {
    if (this.#closed) return;
    this.#stream.onWritable(null);
    this.#flush();
    if (this.#outgoing.length === 0) this.#deliver();
  };

  #dropOutgoing(): void {
    for (const { fds } of this.#outgoing.splice(0)) for (const fd of fds) fd.close();
  }

  #trace(direction: 'in' | 'out', request: number, flags: number, payload: Uint8Array, fds: number): void {
    if (!messageChannel.hasSubscribers) return;
    const { socket } = this.#options;
    const trace: MessageTrace = {
      connection: this.#connection,
      socket,
      direction,
      request,
      flags,
      payload,
      fds,
    };
    messageChannel.publish(trace);
  }
}

/** The codec refuses flags that nobody knows, version 2 among them. */
function decodeHeader(bytes: Uint8Array): MessageHeader {
  try {
    return MessageHeader.decode(new WireReader(bytes));
  } catch (cause) {
    if (!(cause instanceof WireError)) throw cause;
    const raw = new WireReader(bytes);
    const [request, flags] = [raw.u32('request'), raw.u32('flags')];
    throw new VhostError(
      'ERR_VHOST_HEADER',
      `request ${request}: expected version 1, REPLY and NEED_REPLY at most, got flags 0x${flags.toString(16)}`,
      { cause },
    );
  }
}
