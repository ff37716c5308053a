import { VhostError, VhostUserError, WireError } from '../../errors.js';
import type { Platform, SocketStream } from '../../platform/platform.js';
import { decodeExactly, encodeToBytes, type RequestRow, u64 } from '../../wire/index.js';
import {
  backendRequestById,
  type BackendRequestHandlers,
} from '../../../generated/vhost-user/backend-requests.js';
import { HeaderFlag } from '../../../generated/vhost-user/header.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import type { FdBundle, OwnedFd } from '../fd-bundle.js';
import { expectedFds } from '../message-rules.js';
import { MessageStream, type ReceivedMessage } from '../message-stream.js';
import type { NegotiatedFeatures } from '../negotiated-features.js';

/** The fds of one request of the back-end, in both directions. */
export class RequestFds {
  readonly #received: FdBundle;
  readonly #reply: OwnedFd[] = [];

  constructor(received: FdBundle) {
    this.#received = received;
  }

  /** How many came and were not taken. */
  get count(): number {
    return this.#received.count;
  }

  /** The next one, which then belongs to the caller; null when none is left. What nobody takes is closed. */
  take(): OwnedFd | null {
    return this.#received.take();
  }

  /** Sends an fd back with the reply. Takes it over. */
  reply(fd: OwnedFd): void {
    this.#reply.push(fd);
  }

  /** Used by the channel: what goes back. */
  replies(): OwnedFd[] {
    return this.#reply.splice(0);
  }
}

/**
 * What serves the back-end's requests. One that is missing is refused, as is one whose handler throws: the back-end gets a
 * non-zero answer where it asked for one, and the channel goes on.
 */
export type BackendRequestMap<Context> = Partial<BackendRequestHandlers<Context, RequestFds>>;

export interface BackendRequestServerOptions<Context> {
  readonly platform: Platform;
  readonly stream: SocketStream;
  readonly features: NegotiatedFeatures;
  readonly context: Context;
  readonly handlers: BackendRequestMap<Context>;
  /** A request was refused. The channel goes on. */
  readonly onRefused: (error: VhostUserError) => void;
  /** The channel has ended: the back-end closed it (null), or sent what is no request. The conversation goes on. */
  readonly onEnd: (error: VhostError | null) => void;
}

type ErasedHandler<Context> = (context: Context, payload: unknown, fds: RequestFds) => unknown;

const MAX_REQUEST = 4096;
const FAILURE = 1n;

/** The front-end's end of the socket of SET_BACKEND_REQ_FD: serves the back-end's requests, one after the other. */
export class BackendRequestServer<Context> implements Disposable {
  readonly #options: BackendRequestServerOptions<Context>;
  readonly #messages: MessageStream;
  /** A request is being served. */
  #serving = false;

  /** Takes the stream over. */
  constructor(options: BackendRequestServerOptions<Context>) {
    this.#options = options;
    this.#messages = new MessageStream({
      platform: options.platform,
      stream: options.stream,
      socket: 'backend-request',
      receives: 'requests',
      maxPayload: MAX_REQUEST,
      onMessage: (message) => this.#serve(message),
      onEnd: options.onEnd,
    });
    this.#messages.start();
  }

  close(): void {
    this.#messages.close();
  }

  /**
   * Resolves when everything is served that the back-end has sent before now, or with the signal. A request that is being served
   * is not waited for, nor what came behind it: it may wait for whoever calls this.
   */
  caughtUp(signal?: AbortSignal): Promise<void> {
    if (this.#serving) return Promise.resolve();
    return new Promise((resolve) => {
      if (signal?.aborted === true) return resolve();
      const done = (): void => {
        signal?.removeEventListener('abort', done);
        resolve();
      };
      signal?.addEventListener('abort', done);
      this.#messages.whenCaughtUp(done);
    });
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #serve(message: ReceivedMessage): void {
    const fds = new RequestFds(message.fds);
    const row = backendRequestById.get(message.request);
    this.#messages.pause();
    this.#serving = true;
    this.#run(row, message, fds)
      .then((reply) => this.#reply(row!, message, reply, fds))
      .catch((error: unknown) => this.#refuse(row, message, error))
      .finally(() => {
        for (const fd of fds.replies()) fd.close();
        message.fds.close();
        this.#serving = false;
        this.#messages.resume();
      });
  }

  async #run(row: RequestRow | undefined, message: ReceivedMessage, fds: RequestFds): Promise<unknown> {
    if (row === undefined)
      throw new VhostError('ERR_VHOST_REQUEST', `request ${message.request} is not known`);
    const { specName: request } = row;
    const refusal = this.#options.features.refusal(row.gate);
    if (refusal !== null) throw new VhostError('ERR_VHOST_GATE', refusal, { request });
    const payload = decodePayload(row, message.payload);
    const { min, max } = expectedFds(row.fds, payload);
    if (message.fds.count < min || message.fds.count > max) {
      throw new VhostError('ERR_VHOST_FDS', `expected ${min} to ${max} fds, got ${message.fds.count}`, {
        request,
      });
    }
    const handlers = this.#options.handlers as Record<string, ErasedHandler<Context> | undefined>;
    const handler = handlers[row.name];
    if (handler === undefined)
      throw new VhostError('ERR_VHOST_REFUSED', 'nobody serves it here', { request });
    return handler(this.#options.context, payload, fds);
  }

  #reply(row: RequestRow, message: ReceivedMessage, reply: unknown, fds: RequestFds): void {
    if (row.reply.kind === 'payload') {
      const { codec } = row.reply;
      const bytes = codec === null ? new Uint8Array(0) : encodeToBytes(codec, reply);
      this.#messages.send(row.id, HeaderFlag.reply, bytes, fds.replies());
    } else if (this.#ackDue(message)) {
      this.#messages.send(row.id, HeaderFlag.reply, encodeToBytes(u64, 0n));
    }
  }

  #refuse(row: RequestRow | undefined, message: ReceivedMessage, thrown: unknown): void {
    if (row?.reply.kind === 'payload' || this.#ackDue(message)) {
      this.#messages.send(message.request, HeaderFlag.reply, encodeToBytes(u64, FAILURE));
    }
    this.#options.onRefused(
      thrown instanceof VhostUserError
        ? thrown
        : new VhostError('ERR_VHOST_REFUSED', `its handler failed: ${String(thrown)}`, {
            cause: thrown,
            ...(row === undefined ? {} : { request: row.specName }),
          }),
    );
  }

  #ackDue(message: ReceivedMessage): boolean {
    return (
      (message.flags & HeaderFlag.needReply) !== 0 &&
      this.#options.features.hasProtocol(ProtocolFeature.replyAck)
    );
  }
}

function decodePayload(row: RequestRow, payload: Uint8Array): unknown {
  const { specName: request } = row;
  if (row.payload === null) {
    if (payload.byteLength === 0) return undefined;
    throw new VhostError('ERR_VHOST_PAYLOAD', `expected no payload, got ${payload.byteLength} bytes`, {
      request,
    });
  }
  try {
    return decodeExactly(row.payload, payload);
  } catch (cause) {
    if (!(cause instanceof WireError)) throw cause;
    throw new VhostError('ERR_VHOST_PAYLOAD', `payload of ${payload.byteLength} bytes: ${cause.message}`, {
      request,
      cause,
    });
  }
}
