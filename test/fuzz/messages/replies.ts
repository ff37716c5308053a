import * as assert from 'uvu/assert';
import type { SocketStream } from '../../../runtime/platform/platform.js';
import { frontendRequestById } from '../../../generated/vhost-user/frontend-requests.js';
import { count } from '../kind.js';

/** The largest reply there is: configuration space. */
const LARGEST = 12 + 4096;

/** Reads what the back-end sends, and checks that it is replies to what was asked, in order. */
export class ReplyReader {
  replies = 0;
  /** The back-end hung up. */
  ended = false;
  /** What was sent is no sequence of messages any more: nothing is expected of the answers then. */
  lost = false;
  readonly #stream: SocketStream;
  readonly #loot: number[];
  readonly #reached: Record<string, number>;
  readonly #asked: number[] = [];
  readonly #bytes = new Uint8Array(0x4000);
  #filled = 0;

  constructor(stream: SocketStream, loot: number[], reached: Record<string, number>) {
    this.#reached = reached;
    this.#stream = stream;
    this.#loot = loot;
  }

  /** A request goes out. */
  asked(request: number): void {
    this.#asked.push(request);
  }

  read(): void {
    for (let count = 1; count > 0 && !this.ended;) {
      count = this.#receive();
      if (count === 0) this.ended = true;
      if (count > 0) this.#filled += count;
      this.#parse();
    }
  }

  #receive(): number {
    try {
      return this.#stream.receive(this.#bytes.subarray(this.#filled), this.#loot);
    } catch (error) {
      if ((error as { errno?: string }).errno !== 'ECONNRESET') throw error;
      return 0;
    }
  }

  #parse(): void {
    const view = new DataView(this.#bytes.buffer);
    let at = 0;
    while (this.#filled - at >= 12) {
      const [request, flags, size] = [0, 4, 8].map((offset) => view.getUint32(at + offset, true));
      assert.is(flags, 5, `flags of the reply to request ${request}`);
      assert.ok(size! <= LARGEST, `a reply of ${size} bytes`);
      if (this.#filled - at < 12 + size!) break;
      this.#note(request!, view, at, size!);
      at += 12 + size!;
      this.replies++;
      if (!this.lost) this.#expect(request!);
    }
    this.#bytes.copyWithin(0, at, this.#filled);
    this.#filled -= at;
  }

  /** Counts what the back-end did not refuse. */
  #note(request: number, view: DataView, at: number, size: number): void {
    const name = frontendRequestById.get(request)?.name ?? 'unknown';
    const refused = size === 0 || (size === 8 && view.getBigUint64(at + 12, true) === 1n);
    count(this.#reached, `${refused ? 'refused' : 'done'}: ${name}`);
  }

  /** Requests before it that were not answered have asked for nothing. */
  #expect(request: number): void {
    const index = this.#asked.indexOf(request);
    assert.ok(index >= 0, `a reply to request ${request}, which was not asked`);
    this.#asked.splice(0, index + 1);
  }
}
