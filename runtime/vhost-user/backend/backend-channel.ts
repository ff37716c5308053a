import { VhostError } from '../../errors.js';
import type { Platform, SocketStream } from '../../platform/platform.js';
import { decodeExactly, u64 } from '../../wire/index.js';
import { backendRequests } from '../../../generated/vhost-user/backend-requests.js';
import { HeaderFlag } from '../../../generated/vhost-user/header.js';
import { MessageStream, type ReceivedMessage } from '../message-stream.js';

export interface BackendChannelOptions {
  readonly platform: Platform;
  readonly stream: SocketStream;
  readonly maxPayload: number;
  /** REPLY_ACK is negotiated: every request asks for an acknowledgement. */
  readonly acknowledged: () => boolean;
  /** The front-end refused a request, or ended the channel; the conversation goes on without it. */
  readonly onTrouble: (error: VhostError) => void;
}

/**
 * The back-end's own requests to the front-end, over the socket that SET_BACKEND_REQ_FD brought. One request waits for its
 * answer at a time; nobody waits for it here, so that a front-end that is itself waiting for a reply is never blocked.
 */
export class BackendChannel implements Disposable {
  readonly #options: BackendChannelOptions;
  readonly #messages: MessageStream;
  #awaitsAck = false;
  /** The configuration changed once more while the message before was not answered yet. */
  #changedAgain = false;

  constructor(options: BackendChannelOptions) {
    this.#options = options;
    this.#messages = new MessageStream({
      platform: options.platform,
      stream: options.stream,
      socket: 'backend-request',
      receives: 'replies',
      maxPayload: options.maxPayload,
      onMessage: (message) => this.#answer(message),
      onEnd: (error) =>
        options.onTrouble(
          error ??
            new VhostError('ERR_VHOST_DISCONNECTED', 'the front-end closed the back-end request channel'),
        ),
    });
    this.#messages.start();
  }

  get closed(): boolean {
    return this.#messages.closed;
  }

  /** BACKEND_CONFIG_CHANGE_MSG. Changes while one is unanswered become one message. */
  configurationChanged(): void {
    if (this.#awaitsAck) {
      this.#changedAgain = true;
      return;
    }
    this.#awaitsAck = this.#options.acknowledged();
    this.#messages.send(
      backendRequests.backendConfigChangeMsg.id,
      this.#awaitsAck ? HeaderFlag.needReply : 0,
      new Uint8Array(0),
    );
  }

  close(): void {
    this.#messages.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #answer(message: ReceivedMessage): void {
    message.fds.close();
    const { specName, id } = backendRequests.backendConfigChangeMsg;
    try {
      if (!this.#awaitsAck || message.request !== id) {
        throw new VhostError('ERR_VHOST_REPLY', `a reply to request ${message.request}, which was not sent`);
      }
      const result = decodeExactly(u64, message.payload);
      if (result !== 0n)
        throw new VhostError('ERR_VHOST_REFUSED', `the front-end answered ${result}`, { request: specName });
    } catch (cause) {
      this.#options.onTrouble(
        cause instanceof VhostError
          ? cause
          : new VhostError('ERR_VHOST_REPLY', 'the reply does not decode', { request: specName, cause }),
      );
    }
    this.#awaitsAck = false;
    if (this.#changedAgain) {
      this.#changedAgain = false;
      this.configurationChanged();
    }
  }
}
