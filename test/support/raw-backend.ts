import type { FakePlatform } from '../../runtime/platform/fake.js';
import type { SocketStream } from '../../runtime/platform/platform.js';
import { type FrontendRequestName, FrontendRequestId } from '../../generated/vhost-user/frontend-requests.js';
import { bytes, encodeMessage, Protocol, PROTOCOL_FEATURES, turn, until, VERSION_1 } from './raw-frontend.js';

/** A request as a back-end saw it. */
export interface SeenRequest {
  readonly name: FrontendRequestName;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: number[];
}

/** What a raw back-end sends back: bytes of a reply's payload, nothing at all, or whatever it likes. */
export type RawAnswer = Uint8Array | null | ((seen: SeenRequest, backend: RawBackend) => void);

const NEED_REPLY = 8;

/** What a well-behaved back-end with protocol features answers; numbers below are for a test to replace. */
export const USUAL_ANSWERS: Partial<Record<FrontendRequestName, RawAnswer>> = {
  getFeatures: bytes(VERSION_1 | PROTOCOL_FEATURES),
  getProtocolFeatures: bytes(Protocol.mq | Protocol.replyAck | Protocol.config),
  getQueueNum: bytes(4n),
  getMaxMemSlots: bytes(8n),
  getStatus: bytes(0xfn),
  getVringBase: ({ payload }, backend) =>
    backend.reply('getVringBase', bytes(new DataView(payload.buffer).getUint32(0, true), 0)),
};

/**
 * A back-end that reads and writes its bytes itself and behaves as badly as a test wants. It answers by `answers`, and what is
 * not there by 0 where an acknowledgement was asked for. Received fds are closed, but for the ones that a test takes.
 */
export class RawBackend {
  readonly platform: FakePlatform;
  readonly stream: SocketStream;
  readonly seen: SeenRequest[] = [];
  readonly answers: Partial<Record<FrontendRequestName, RawAnswer>>;
  /** The front-end hung up. */
  hungUp = false;
  /** Does not read while it is set. */
  asleep = false;
  #closed = false;

  constructor(
    platform: FakePlatform,
    stream: SocketStream,
    answers: Partial<Record<FrontendRequestName, RawAnswer>> = {},
  ) {
    this.platform = platform;
    this.stream = stream;
    this.answers = { ...USUAL_ANSWERS, ...answers };
    void this.#run();
  }

  /** A connected pair: this back-end, and the stream for a front-end. */
  static pair(
    platform: FakePlatform,
    answers: Partial<Record<FrontendRequestName, RawAnswer>> = {},
  ): { backend: RawBackend; stream: SocketStream } {
    const [mine, theirs] = platform.socketPair();
    return {
      backend: new RawBackend(platform, platform.adoptSocket(mine) as SocketStream, answers),
      stream: platform.adoptSocket(theirs) as SocketStream,
    };
  }

  /** Names of the requests seen, with `!` where an acknowledgement was asked for. */
  get names(): string[] {
    return this.seen.map(({ name, flags }) => `${name}${(flags & NEED_REPLY) !== 0 ? '!' : ''}`);
  }

  last(name: FrontendRequestName): SeenRequest {
    const found = this.seen.findLast((each) => each.name === name);
    if (found === undefined) throw new Error(`no ${name} was seen`);
    return found;
  }

  reply(name: FrontendRequestName, payload: Uint8Array, fds: readonly number[] = [], flags = 5): void {
    this.send(encodeMessage(FrontendRequestId[name], payload, flags), fds);
  }

  send(data: Uint8Array, fds: readonly number[] = []): void {
    this.stream.send(data, fds);
  }

  async untilHungUp(): Promise<void> {
    await until(() => this.hungUp, 'the front-end hangs up');
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.stream.close();
    for (const { fds } of this.seen) this.closeFds(fds);
  }

  closeFds(fds: number[]): void {
    for (const fd of fds.splice(0)) this.platform.closeFd(fd);
  }

  /** Reads header and payload one by one, so that fds are those of the message whose bytes they came with. */
  async #run(): Promise<void> {
    let buffer = new Uint8Array(12);
    let filled = 0;
    const fds: number[] = [];
    // Bounded, so that a failed test ends its process.
    for (let idle = 0; !this.#closed && idle < 100_000; idle++, await turn()) {
      while (!this.asleep && !this.#closed) {
        const count = this.#receive(buffer.subarray(filled), fds);
        if (count < 0) break;
        if (count === 0) {
          this.hungUp = true;
          this.closeFds(fds);
          return;
        }
        filled += count;
        if (filled < buffer.byteLength) continue;
        const size = new DataView(buffer.buffer).getUint32(8, true);
        if (filled < 12 + size) {
          const whole = new Uint8Array(12 + size);
          whole.set(buffer);
          buffer = whole;
          continue;
        }
        this.#handle(buffer, fds.splice(0));
        buffer = new Uint8Array(12);
        filled = 0;
      }
    }
  }

  #receive(into: Uint8Array, fds: number[]): number {
    try {
      return this.stream.receive(into, fds);
    } catch {
      // ECONNRESET: it hung up without reading everything.
      return 0;
    }
  }

  #handle(message: Uint8Array<ArrayBuffer>, fds: number[]): void {
    const view = new DataView(message.buffer);
    const id = view.getUint32(0, true);
    const name = (Object.keys(FrontendRequestId) as FrontendRequestName[]).find(
      (each) => FrontendRequestId[each] === id,
    )!;
    const payload = Buffer.from(message.buffer.slice(12));
    const seen = { name, flags: view.getUint32(4, true), payload, fds };
    this.seen.push(seen);
    this.#answer(seen);
  }

  #answer(seen: SeenRequest): void {
    const answer = this.answers[seen.name];
    if (typeof answer === 'function') answer(seen, this);
    else if (answer !== undefined && answer !== null) this.reply(seen.name, answer);
    else if (answer === undefined && (seen.flags & NEED_REPLY) !== 0) this.reply(seen.name, bytes(0n));
  }
}
