import { VhostError } from '../../errors.js';
import type { Platform, SocketStream } from '../../platform/platform.js';
import { encodeToBytes, type ReplyRule, type RequestRow } from '../../wire/index.js';
import {
  type FrontendRequestName,
  type FrontendRequests,
  frontendRequests,
} from '../../../generated/vhost-user/frontend-requests.js';
import { HeaderFlag } from '../../../generated/vhost-user/header.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { OwnedFd } from '../fd-bundle.js';
import { expectedFds, replyRuleOf } from '../message-rules.js';
import { MessageStream, type ReceivedMessage } from '../message-stream.js';
import { NegotiatedFeatures } from '../negotiated-features.js';
import { decodeReply, WrongReply } from './reply-decoder.js';

export interface RequestOptions {
  /** Fds to send along; they stay the caller's. */
  readonly fds?: readonly number[];
  /** Ask for an acknowledgement. Without it: whenever REPLY_ACK is negotiated. */
  readonly needReply?: boolean;
  /** This is the second, empty request that confirms the reply to the first; nothing answers it. */
  readonly confirms?: boolean;
  /** Receives the reply's fds, which are then the caller's to close. Without it they are closed. */
  readonly replyFds?: number[];
  /** Bounds the wait for the reply. What was asked may happen all the same, so the connection ends with it. */
  readonly signal?: AbortSignal;
}

/** A reply that is waited for. */
interface Expected {
  readonly row: RequestRow;
  readonly rule: ReplyRule;
  readonly options: RequestOptions;
  readonly resolve: (reply: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** Above every reply there is (SHMEM's is 2056 bytes, configuration space 12 + 4096); a longer one ends the connection. */
const MAX_REPLY = 8192;

/**
 * The front-end's requests over one connection, typed by the generated table. Replies come in the order of the requests,
 * so several may be under way. A wrong reply, an abandoned wait or the peer's end closes the connection and fails
 * everything that waits; it never comes back.
 */
export class RequestChannel implements Disposable {
  /** What is negotiated over this connection: gates, reply rules and acknowledgements follow it. */
  features = new NegotiatedFeatures(0n, 0n);
  readonly #platform: Platform;
  readonly #messages: MessageStream;
  readonly #expected: Expected[] = [];
  #end: VhostError | null = null;
  #markEnded!: (reason: VhostError) => void;
  /** Resolves with the reason once the connection is over, from whichever side. */
  readonly ended = new Promise<VhostError>((resolve) => (this.#markEnded = resolve));

  readonly #checked: boolean;

  /**
   * Takes the stream over. Without `checked` everything is sent, whether its gate is open and its fds are right or not: for
   * tests of back-ends.
   */
  constructor(platform: Platform, stream: SocketStream, { checked = true } = {}) {
    this.#platform = platform;
    this.#checked = checked;
    this.#messages = new MessageStream({
      platform,
      stream,
      socket: 'main',
      receives: 'replies',
      maxPayload: MAX_REPLY,
      onMessage: (message) => this.#answered(message),
      onEnd: (error) =>
        this.close(error ?? new VhostError('ERR_VHOST_DISCONNECTED', 'the back-end closed the connection')),
    });
    this.#messages.start();
  }

  /** Why the connection is over, null while it is not. */
  get endReason(): VhostError | null {
    return this.#end;
  }

  /**
   * Sends one request and waits for its reply, or for its acknowledgement where one is asked for. Rejects with VhostError:
   * ERR_VHOST_GATE and ERR_VHOST_FDS when it may not be sent (nothing was), ERR_VHOST_REFUSED when the back-end did not do
   * it, ERR_VHOST_REPLY when the reply is not what the table says, ERR_VHOST_DISCONNECTED when the back-end hung up; with
   * the signal's reason; with WireError when the payload cannot be encoded.
   */
  request<Name extends FrontendRequestName>(
    name: Name,
    payload: FrontendRequests[Name]['payload'],
    options: RequestOptions = {},
  ): Promise<FrontendRequests[Name]['reply']> {
    return this.#request(frontendRequests[name] as RequestRow, payload, options) as Promise<
      FrontendRequests[Name]['reply']
    >;
  }

  /** Closes the socket; everything that waits fails. Idempotent. */
  close(reason = new VhostError('ERR_VHOST_DISCONNECTED', 'the connection was closed here')): void {
    if (this.#end !== null) return;
    this.#end = reason;
    this.#messages.close();
    // What is no message at all was to be the reply of whoever waits.
    const code = reason.code === 'ERR_VHOST_HEADER' ? 'ERR_VHOST_REPLY' : reason.code;
    for (const expected of this.#expected.splice(0)) {
      const request = expected.row.specName;
      expected.reject(new VhostError(code, `no reply: ${reason.message}`, { request, cause: reason }));
    }
    this.#markEnded(reason);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #request(row: RequestRow, payload: unknown, options: RequestOptions): Promise<unknown> {
    const { specName: request } = row;
    options.signal?.throwIfAborted();
    if (this.#end !== null) {
      throw new VhostError(this.#end.code, this.#end.message, { request, cause: this.#end });
    }
    const bytes = row.payload === null ? new Uint8Array(0) : encodeToBytes(row.payload, payload);
    const fds = options.fds ?? [];
    if (this.#checked) this.#check(row, payload, fds.length);
    const rule = replyRuleOf(row, this.features);
    const acknowledges = this.features.hasProtocol(ProtocolFeature.replyAck);
    const needReply = options.needReply ?? (acknowledges && rule.kind === 'ack');
    const confirms = options.confirms === true && rule.kind === 'payload' && rule.confirmed === true;
    const answered = (rule.kind === 'payload' && !confirms) || (needReply && acknowledges);
    // First, since it may fail: what was not sent has no reply to wait for.
    const copies = this.#duplicates(fds);
    const reply = answered ? this.#expect(row, rule, options) : undefined;
    this.#messages.send(row.id, needReply ? HeaderFlag.needReply : 0, bytes, copies);
    return reply;
  }

  #check(row: RequestRow, payload: unknown, fds: number): void {
    const { specName: request } = row;
    const refusal = this.features.refusal(row.gate);
    if (refusal !== null) throw new VhostError('ERR_VHOST_GATE', refusal, { request });
    const { min, max } = expectedFds(row.fds, payload);
    if (fds >= min && fds <= max) return;
    throw new VhostError('ERR_VHOST_FDS', `expected ${min} to ${max} fds to send, got ${fds}`, { request });
  }

  #expect(row: RequestRow, rule: ReplyRule, options: RequestOptions): Promise<unknown> {
    const { signal } = options;
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        reject(signal!.reason as Error);
        this.close(
          new VhostError('ERR_VHOST_REPLY', 'waiting for the reply was aborted', { request: row.specName }),
        );
      };
      const settled = (): void => signal?.removeEventListener('abort', abort);
      signal?.addEventListener('abort', abort, { once: true });
      this.#expected.push({
        row,
        rule,
        options,
        resolve: (value) => {
          settled();
          resolve(value);
        },
        reject: (error) => {
          settled();
          reject(error as Error);
        },
      });
    });
  }

  #answered(message: ReceivedMessage): void {
    const expected = this.#expected.shift();
    try {
      if (expected === undefined) {
        throw new WrongReply(
          'ERR_VHOST_REPLY',
          `a reply to request ${message.request} came although none is due`,
        );
      }
      const value = decodeReply(expected.row, expected.rule, message);
      for (let fd = message.fds.take(); fd !== null; fd = message.fds.take()) {
        if (expected.options.replyFds === undefined) fd.close();
        else expected.options.replyFds.push(fd.release());
      }
      expected.resolve(value);
    } catch (error) {
      message.fds.close();
      expected?.reject(error);
      if (error instanceof WrongReply) this.close(error);
      else if (expected === undefined) throw error;
    }
  }

  /** The stream closes what it sent, the caller keeps its own. */
  #duplicates(fds: readonly number[]): OwnedFd[] {
    const copies: OwnedFd[] = [];
    try {
      for (const fd of fds) copies.push(new OwnedFd(this.#platform, this.#platform.duplicateFd(fd)));
    } catch (error) {
      for (const copy of copies) copy.close();
      throw error;
    }
    return copies;
  }
}
