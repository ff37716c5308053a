import type { FakePlatform } from '../../runtime/platform/fake.js';
import type { SocketStream } from '../../runtime/platform/platform.js';

/** Request ids as the text numbers them, those that tests write. */
export const Request = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  resetOwner: 4,
  setMemTable: 5,
  setLogBase: 6,
  setLogFd: 7,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  setVringErr: 14,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  sendRarp: 19,
  netSetMtu: 20,
  setBackendReqFd: 21,
  iotlbMsg: 22,
  getConfig: 24,
  setConfig: 25,
  postcopyAdvise: 28,
  postcopyListen: 29,
  postcopyEnd: 30,
  getInflightFd: 31,
  setInflightFd: 32,
  resetDevice: 34,
  vringKick: 35,
  getMaxMemSlots: 36,
  addMemReg: 37,
  remMemReg: 38,
  setStatus: 39,
  getStatus: 40,
  getVringBaseSkipDrain: 45,
  getSharedObject: 41,
  getShmemConfig: 44,
} as const;

export const PROTOCOL_FEATURES = 1n << 30n;
export const LOG_ALL = 1n << 26n;
export const VERSION_1 = 1n << 32n;
export const RING_PACKED = 1n << 34n;
export const Protocol = {
  mq: 1n << 0n,
  logShmfd: 1n << 1n,
  rarp: 1n << 2n,
  replyAck: 1n << 3n,
  mtu: 1n << 4n,
  backendReq: 1n << 5n,
  pagefault: 1n << 8n,
  config: 1n << 9n,
  backendSendFd: 1n << 10n,
  hostNotifier: 1n << 11n,
  inflightShmfd: 1n << 12n,
  resetDevice: 1n << 13n,
  inbandNotifications: 1n << 14n,
  configureMemSlots: 1n << 15n,
  status: 1n << 16n,
  sharedObject: 1n << 18n,
  getVringBaseInflight: 1n << 20n,
  gpaAddresses: 1n << 21n,
  shmem: 1n << 22n,
  getVringBaseSkipDrain: 1n << 23n,
} as const;
/** Bit 8 of the kick, call and err payload. */
export const NO_FD = 0x100n;

export interface RawMessage {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

export interface RawOptions {
  readonly fds?: readonly number[];
  readonly needReply?: boolean;
  /** Instead of version 1 and NEED_REPLY. */
  readonly flags?: number;
}

/** Little-endian fields, one after the other: numbers are u32, bigints u64, arrays bytes. */
export function bytes(...fields: (number | bigint | Uint8Array)[]): Uint8Array {
  return Buffer.concat(
    fields.map((field) => {
      if (field instanceof Uint8Array) return field;
      const out = Buffer.alloc(typeof field === 'bigint' ? 8 : 4);
      if (typeof field === 'bigint') out.writeBigUInt64LE(BigInt.asUintN(64, field));
      else out.writeUInt32LE(field);
      return out;
    }),
  );
}

export function u64Of(message: RawMessage): bigint {
  return Buffer.from(message.payload).readBigUInt64LE(0);
}

/** The bytes of one message. */
export function encodeMessage(request: number, payload: Uint8Array, flags: number): Uint8Array {
  return bytes(request, flags, payload.byteLength, payload);
}

/**
 * A front-end that writes its bytes itself and believes nothing. Times out, so that a hung back-end fails a test instead of
 * hanging it.
 */
export class RawFrontend {
  readonly stream: SocketStream;
  readonly #platform: FakePlatform;

  constructor(platform: FakePlatform, stream: SocketStream) {
    this.#platform = platform;
    this.stream = stream;
  }

  send(request: number, payload: Uint8Array = new Uint8Array(0), options: RawOptions = {}): void {
    const flags = options.flags ?? (options.needReply === true ? 9 : 1);
    this.sendBytes(encodeMessage(request, payload, flags), options.fds);
  }

  sendBytes(data: Uint8Array, fds: readonly number[] = []): void {
    if (data.byteLength === 0) return;
    const sent = this.stream.send(data, fds);
    if (sent !== data.byteLength) throw new Error(`the socket took ${sent} of ${data.byteLength} bytes`);
  }

  /** The next message from the back-end; null when it hung up. */
  async receive(): Promise<RawMessage | null> {
    const fds: number[] = [];
    const header = await this.#exactly(12, fds);
    if (header === null) return null;
    const view = new DataView(header.buffer);
    const payload = await this.#exactly(view.getUint32(8, true), fds);
    if (payload === null) throw new Error('the back-end hung up inside a message');
    return { request: view.getUint32(0, true), flags: view.getUint32(4, true), payload, fds };
  }

  /** Sends a request and returns its reply, which must be one: right id, flags exactly 0x5. */
  async ask(request: number, payload?: Uint8Array, options?: RawOptions): Promise<RawMessage> {
    this.send(request, payload, options);
    const reply = await this.receive();
    if (reply === null) throw new Error(`the back-end hung up instead of answering request ${request}`);
    if (reply.request !== request || reply.flags !== 5) {
      throw new Error(
        `request ${request}: got message ${reply.request}, flags 0x${reply.flags.toString(16)}`,
      );
    }
    return reply;
  }

  /** Sends with NEED_REPLY and returns the acknowledgement, 0n for success. */
  async acknowledged(request: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<bigint> {
    return u64Of(await this.ask(request, payload, { fds, needReply: true }));
  }

  /** True when the back-end hung up without another message. */
  async hungUp(): Promise<boolean> {
    try {
      return (await this.receive()) === null;
    } catch (error) {
      // It hung up without reading everything.
      if ((error as { errno?: string }).errno === 'ECONNRESET') return true;
      throw error;
    }
  }

  close(): void {
    this.stream.close();
  }

  /** An eventfd as `Platform` makes it, with what a test asks of it. */
  eventFd(): { fd: number; take: () => bigint; signal: () => void; close: () => void } {
    const fd = this.#platform.createEventFd();
    return {
      fd,
      take: () => this.#platform.takeEventFd(fd),
      signal: () => this.#platform.signalEventFd(fd),
      close: () => this.#platform.closeFd(fd),
    };
  }

  async #exactly(length: number, fds: number[]): Promise<Uint8Array<ArrayBuffer> | null> {
    const into = new Uint8Array(length);
    let filled = 0;
    const patience = new Patience(2000);
    while (filled < length) {
      const count = this.stream.receive(into.subarray(filled), fds);
      if (count === 0) return null;
      if (count > 0) filled += count;
      else if (patience.over) throw new Error('the back-end does not answer');
      else await turn();
    }
    return into;
  }
}

/** One turn of the loop: everything that is ready has run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await turn();
}

/** Waits until `condition` holds, for so many turns of the loop at least. */
export async function until(condition: () => boolean, what: string, limit = 2000): Promise<void> {
  const patience = new Patience(limit);
  while (!condition()) {
    if (patience.over) throw new Error(`never happened: ${what}`);
    await turn();
  }
}

/** Milliseconds in which what hangs on a timer comes too: thousands of turns of the loop may fit into one. */
const LEAST_MILLISECONDS = 5000;

/** Counts looks; they are over when both turns and time have passed. */
class Patience {
  readonly #looks: number;
  #looked = 0;
  #since = 0;

  constructor(looks: number) {
    this.#looks = looks;
  }

  get over(): boolean {
    if (++this.#looked <= this.#looks) return false;
    if (this.#since === 0) this.#since = performance.now();
    return performance.now() - this.#since > LEAST_MILLISECONDS;
  }
}
