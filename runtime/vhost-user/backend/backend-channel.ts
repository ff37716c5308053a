import { VhostError, WireError } from '../../errors.js';
import type { Platform, SocketStream } from '../../platform/platform.js';
import { decodeExactly, encodeToBytes, u64, type RequestRow } from '../../wire/index.js';
import {
  backendRequests,
  type BackendRequestName,
  type BackendRequests,
} from '../../../generated/vhost-user/backend-requests.js';
import { HeaderFlag, PROTOCOL_VERSION } from '../../../generated/vhost-user/header.js';
import { OwnedFd } from '../fd-bundle.js';
import { expectedFds } from '../message-rules.js';
import { MessageStream, type ReceivedMessage } from '../message-stream.js';
import type { NegotiatedFeatures } from '../negotiated-features.js';

export interface BackendChannelOptions {
  readonly platform: Platform;
  readonly stream: SocketStream;
  readonly maxPayload: number;
  readonly maxFds?: number;
  /** Requests that may be under way; UNANSWERED_REQUESTS when absent. */
  readonly maxUnanswered?: number;
  /** Gates of the requests and REPLY_ACK follow it. */
  readonly features: NegotiatedFeatures;
  /** The front-end ended the channel, or sent what is no answer; the conversation goes on without it. */
  readonly onEnd: (reason: VhostError) => void;
}

export interface BackendRequestOptions {
  /** Fds to send along; they stay the caller's. */
  readonly fds?: readonly number[];
  /** Receives the fds of the reply, which are then the caller's to close. Without it they are closed. */
  readonly replyFds?: number[];
}

/** A reply that is waited for. */
interface Expected {
  readonly row: RequestRow;
  readonly replyFds: number[] | undefined;
  readonly resolve: (reply: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** Requests that may be under way; a front-end that leaves more unanswered, or unread, gets no further ones. */
export const UNANSWERED_REQUESTS = 1024;

/**
 * The back-end's own requests to the front-end, over the socket that SET_BACKEND_REQ_FD brought, typed by the generated
 * table. Several may be under way; their replies come in their order. Nothing of the main conversation waits for any of
 * them, so a front-end that is itself waiting for a reply, or does not read this socket at all, blocks nobody.
 *
 * A request without a reply of its own asks for an acknowledgement whenever REPLY_ACK is negotiated; without it a request
 * is done once it is sent. A refusal fails one request. What is no answer to what was asked ends the channel, and
 * everything that waits fails with it.
 */
export class BackendChannel implements Disposable {
  readonly #options: BackendChannelOptions;
  readonly #messages: MessageStream;
  readonly #expected: Expected[] = [];
  #end: VhostError | null = null;

  /** Takes the stream over. */
  constructor(options: BackendChannelOptions) {
    this.#options = options;
    this.#messages = new MessageStream({
      platform: options.platform,
      stream: options.stream,
      socket: 'backend-request',
      receives: 'replies',
      maxPayload: options.maxPayload,
      ...(options.maxFds === undefined ? {} : { maxFds: options.maxFds }),
      onMessage: (message) => this.#answered(message),
      onEnd: (error) =>
        this.#fail(
          error ??
            new VhostError('ERR_VHOST_DISCONNECTED', 'the front-end closed the back-end request channel'),
        ),
    });
    this.#messages.start();
  }

  get closed(): boolean {
    return this.#end !== null;
  }

  /** Requests that wait for their answers, or for the front-end to read them. */
  get unanswered(): number {
    return Math.max(this.#expected.length, this.#messages.unsent);
  }

  /** As many are unanswered as may be. */
  get full(): boolean {
    return this.unanswered >= (this.#options.maxUnanswered ?? UNANSWERED_REQUESTS);
  }

  /**
   * Sends one request and waits for its reply, or for its acknowledgement where there is one. Rejects with VhostError:
   * ERR_VHOST_GATE, ERR_VHOST_FDS and ERR_VHOST_STATE (too many are unanswered) when it may not be sent and was not;
   * ERR_VHOST_REFUSED when the front-end did not do it, ERR_VHOST_REPLY when its answer is none, ERR_VHOST_DISCONNECTED when
   * the channel is closed; with WireError when the payload cannot be encoded.
   */
  async request<Name extends BackendRequestName>(
    name: Name,
    payload: BackendRequests[Name]['payload'],
    options: BackendRequestOptions = {},
  ): Promise<BackendRequests[Name]['reply']> {
    return (await this.#send(
      backendRequests[name] as RequestRow,
      payload,
      options,
    )) as BackendRequests[Name]['reply'];
  }

  /** Closes the socket; everything that waits fails. Nothing is called any more. Idempotent. */
  close(reason = new VhostError('ERR_VHOST_DISCONNECTED', 'the channel was closed here')): void {
    if (this.#end !== null) return;
    this.#end = reason;
    this.#messages.close();
    for (const { row, reject } of this.#expected.splice(0)) {
      const request = row.specName;
      reject(new VhostError(reason.code, `no answer: ${reason.message}`, { request, cause: reason }));
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #send(row: RequestRow, payload: unknown, options: BackendRequestOptions): Promise<unknown> | undefined {
    const { specName: request } = row;
    const { features, platform } = this.#options;
    if (this.#end !== null) {
      throw new VhostError(this.#end.code, this.#end.message, { request, cause: this.#end });
    }
    const refusal = features.refusal(row.gate);
    if (refusal !== null) throw new VhostError('ERR_VHOST_GATE', refusal, { request });
    const fds = options.fds ?? [];
    const { min, max } = expectedFds(row.fds, payload);
    if (fds.length < min || fds.length > max) {
      throw new VhostError('ERR_VHOST_FDS', `expected ${min} to ${max} fds to send, got ${fds.length}`, {
        request,
      });
    }
    if (this.full) {
      const text = `the front-end has left ${this.unanswered} requests unanswered`;
      throw new VhostError('ERR_VHOST_STATE', text, { request });
    }
    const bytes = row.payload === null ? new Uint8Array(0) : encodeToBytes(row.payload, payload);
    const copies = duplicates(platform, fds);
    const acknowledged = row.reply.kind === 'ack' && features.replyAck;
    const reply =
      acknowledged || row.reply.kind === 'payload'
        ? new Promise<unknown>((resolve, reject) =>
            this.#expected.push({ row, replyFds: options.replyFds, resolve, reject }),
          )
        : undefined;
    this.#messages.send(row.id, acknowledged ? HeaderFlag.needReply : 0, bytes, copies);
    return reply;
  }

  #answered(message: ReceivedMessage): void {
    using fds = message.fds;
    const expected = this.#expected[0];
    const wrong = expected === undefined ? unasked(message) : wrongReply(expected.row, message);
    if (wrong !== null) {
      this.#fail(wrong);
      return;
    }
    const { row, replyFds, resolve, reject } = this.#expected.shift()!;
    const { specName: request } = row;
    let value: unknown;
    try {
      const codec = row.reply.kind === 'payload' && row.reply.codec !== null ? row.reply.codec : u64;
      value = decodeExactly(codec, message.payload);
    } catch (cause) {
      if (!(cause instanceof WireError)) throw cause;
      const error = new VhostError('ERR_VHOST_REPLY', `the reply does not decode: ${cause.message}`, {
        request,
        cause,
      });
      reject(error);
      this.#fail(error);
      return;
    }
    if (value !== 0n) {
      reject(new VhostError('ERR_VHOST_REFUSED', `the front-end answered ${String(value)}`, { request }));
      return;
    }
    for (let fd = fds.take(); fd !== null; fd = fds.take()) {
      if (replyFds === undefined) fd.close();
      else replyFds.push(fd.release());
    }
    resolve(row.reply.kind === 'payload' ? value : undefined);
  }

  #fail(reason: VhostError): void {
    if (this.#end !== null) return;
    this.close(reason);
    this.#options.onEnd(reason);
  }
}

/** Replies have exactly version and REPLY in their flags. */
const REPLY_FLAGS = PROTOCOL_VERSION | HeaderFlag.reply;

function unasked({ request }: ReceivedMessage): VhostError {
  return new VhostError('ERR_VHOST_REPLY', `a reply to request ${request}, which was not sent`);
}

/** Why the message is not the reply to `row`; null when it is. */
function wrongReply(row: RequestRow, { request, flags, fds }: ReceivedMessage): VhostError | null {
  const wrong = (text: string): VhostError =>
    new VhostError('ERR_VHOST_REPLY', text, { request: row.specName });
  if (request !== row.id) return wrong(`the reply is one to request ${request}, which was not sent next`);
  if (flags !== REPLY_FLAGS) return wrong(`expected a reply with flags 0x5, got 0x${flags.toString(16)}`);
  const allowed = row.reply.kind === 'payload' ? row.reply.fds : 0;
  if (fds.count > allowed) return wrong(`${fds.count} file descriptors came with the reply, ${allowed} may`);
  return null;
}

/** The stream closes what it sent, the caller keeps its own. */
function duplicates(platform: Platform, fds: readonly number[]): OwnedFd[] {
  const copies: OwnedFd[] = [];
  try {
    for (const fd of fds) copies.push(new OwnedFd(platform, platform.duplicateFd(fd)));
  } catch (error) {
    for (const copy of copies) copy.close();
    throw error;
  }
  return copies;
}
