import type { SocketStream } from '../../runtime/platform/platform.js';
import type { Conversation } from './conversation.js';
import { bytes, RawFrontend, Request, type RawMessage } from './raw-frontend.js';

/** The front-end's end of the channel that SET_BACKEND_REQ_FD opens, by hand. */
export class RawChannel extends RawFrontend {
  static open(talk: Conversation): RawChannel {
    const [mine, theirs] = talk.platform.socketPair();
    talk.frontend.send(Request.setBackendReqFd, bytes(), { fds: [theirs] });
    talk.platform.closeFd(theirs);
    return new RawChannel(talk.platform, talk.platform.adoptSocket(mine) as SocketStream);
  }

  /** The next request, which must be this one. */
  async expect(request: number): Promise<RawMessage> {
    const message = await this.receive();
    if (message?.request !== request) {
      throw new Error(`expected request ${request}, got ${message?.request ?? 'the end'}`);
    }
    return message;
  }

  /** Acknowledges, or answers with a number and fds. */
  answer(request: number, value = 0n, fds: readonly number[] = []): void {
    this.send(request, bytes(value), { flags: 5, fds });
  }

  /** Nothing waits to be received. */
  get silent(): boolean {
    return this.stream.receive(new Uint8Array(1), []) === -1;
  }
}
