import { backendRequests } from '../../../generated/vhost-user/backend-requests.js';
import { frontendRequestById } from '../../../generated/vhost-user/frontend-requests.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { expectedFds } from '../../../runtime/vhost-user/message-rules.js';
import type { FakePlatform } from '../../../runtime/platform/fake.js';
import type { SocketStream } from '../../../runtime/platform/platform.js';
import { encodeToBytes, type RequestRow } from '../../../runtime/wire/index.js';
import { randomRecord } from '../../support/model-values.js';
import type { Random } from '../../support/random.js';
import { bytes, encodeMessage } from '../../support/raw-frontend.js';
import { payloadFields } from '../messages/fields.js';

const { lookup, structs } = payloadFields('vhost-user/backend-requests');
const requests = Object.values(backendRequests) as unknown as readonly RequestRow[];
const NEED_REPLY = 8;

/** A request as it came. */
interface Seen {
  readonly request: number;
  readonly flags: number;
  readonly payload: DataView;
}

/** A back-end that answers mostly well, asks for things itself, and misbehaves one time in `sound`. */
export class BadBackend {
  sent = 0;
  readonly #platform: FakePlatform;
  readonly #stream: SocketStream;
  readonly #random: Random;
  readonly #sound: number;
  readonly #fds: number[] = [];
  /** Fds to send along; the back-end's own. */
  readonly #own: readonly number[];
  readonly #inbox = new Uint8Array(0x1_0000);
  #filled = 0;
  #channel: SocketStream | null = null;
  #closed = false;
  /** Eventfds of SET_VRING_CALL and SET_VRING_ERR. */
  readonly #events: number[] = [];

  constructor(platform: FakePlatform, stream: SocketStream, random: Random) {
    this.#platform = platform;
    this.#stream = stream;
    this.#random = random;
    this.#sound = random.pick([8, 30, 60, 200]);
    this.#own = [
      platform.createEventFd(),
      platform.createSharedMemory('bad', 4096n),
      platform.createFd('file'),
    ];
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Answers what came, and sends what nobody asked for. */
  step(): void {
    if (this.#closed) return;
    try {
      this.#receive();
      if (this.#closed) return;
      if (this.#random.chance(4)) this.#ask();
      if (this.#random.chance(this.#sound * 8))
        this.#write(this.#stream, this.#random.bytes(1 + this.#random.below(40)), []);
      if (this.#events.length > 0 && this.#random.chance(3)) {
        this.#platform.signalEventFd(this.#random.pick(this.#events));
      }
      if (this.#random.chance(this.#sound * 10)) this.close();
    } catch (error) {
      if (!['EPIPE', 'ECONNRESET'].includes((error as { errno?: string }).errno ?? '')) throw error;
      this.close();
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stream.close();
    this.#channel?.close();
    for (const fd of [...this.#fds.splice(0), ...this.#events.splice(0), ...this.#own])
      this.#platform.closeFd(fd);
  }

  /** Header and payload one by one, so that fds are those of the message whose bytes they came with. */
  #receive(): void {
    const view = new DataView(this.#inbox.buffer);
    while (!this.#closed) {
      const end = this.#filled < 12 ? 12 : 12 + view.getUint32(8, true);
      if (this.#filled < end) {
        const count = this.#stream.receive(this.#inbox.subarray(this.#filled, end), this.#fds);
        if (count === 0) return this.close();
        if (count < 0) return;
        this.#filled += count;
        continue;
      }
      this.#filled = 0;
      const payload = new DataView(this.#inbox.slice(12, end).buffer);
      this.#answer({ request: view.getUint32(0, true), flags: view.getUint32(4, true), payload });
    }
  }

  #answer(seen: Seen): void {
    const random = this.#random;
    const row = frontendRequestById.get(seen.request)!;
    this.#keepFds(row);
    const payload = row.reply.kind === 'payload' ? this.#reply(row, seen) : this.#acknowledgement(seen);
    if (payload === null) return;
    const fds = row.name === 'getInflightFd' || row.name === 'postcopyAdvise' ? [this.#own[1]!] : [];
    if (!random.chance(this.#sound))
      return this.#write(this.#stream, encodeMessage(seen.request, payload, 5), fds);
    this.#misanswer(seen.request, payload);
  }

  #misanswer(request: number, payload: Uint8Array): void {
    const random = this.#random;
    const stray = Array.from({ length: 1 + random.below(3) }, () => random.pick(this.#own));
    const send = (id: number, flags: number, body: Uint8Array, fds: readonly number[] = []): void =>
      this.#write(this.#stream, encodeMessage(id, body, flags), fds);
    switch (random.below(9)) {
      case 0:
        return send(1 + random.below(46), 5, payload);
      case 1:
        return send(request, random.pick([0, 1, 4, 13, 6, 0xffff_fffd]), payload);
      case 2:
        return send(request, 5, payload.subarray(0, random.below(payload.byteLength + 1)));
      case 3:
        return send(request, 5, bytes(payload, random.bytes(1 + random.below(16))));
      case 4:
        return send(request, 5, payload, stray);
      case 5:
        send(request, 5, payload);
        return send(request, 5, payload);
      case 6:
        return send(request, 5, random.bytes(payload.byteLength));
      case 7: {
        const message = encodeMessage(request, payload, 5);
        new DataView(message.buffer, message.byteOffset).setUint32(
          8,
          random.pick([0, 4096, 8193, 0xffff_ffff]),
          true,
        );
        return this.#write(this.#stream, message, []);
      }
      default:
        // No answer at all.
        return undefined;
    }
  }

  #reply(row: RequestRow, { payload }: Seen): Uint8Array {
    const random = this.#random;
    switch (row.name) {
      case 'getFeatures': {
        let word = VirtioFeature.version1;
        for (const bit of [28n, 29n, 30n, 30n, 30n, 33n, 34n, 35n]) if (!random.chance(4)) word |= 1n << bit;
        return bytes(random.chance(40) ? BigInt.asUintN(64, ~word) : word);
      }
      case 'getProtocolFeatures': {
        let word = ProtocolFeature.replyAck;
        for (let bit = 0n; bit < 24n; bit++) if (!random.chance(3)) word |= 1n << bit;
        return bytes(random.chance(40) ? 0xffff_ffff_ffff_ffffn : word);
      }
      case 'getQueueNum':
        return bytes(random.chance(20) ? random.pick([2n, 0n, 1n << 63n]) : 4n);
      case 'getMaxMemSlots':
        return bytes(random.chance(20) ? random.pick([1n, 0n, (1n << 64n) - 1n]) : 509n);
      case 'getVringBase':
        return bytes(payload.getUint32(0, true), random.chance(6) ? random.below(0x1_0000) : 0);
      case 'getConfig':
        return new Uint8Array(payload.buffer);
      case 'getShmemConfig': {
        const sizes = Array.from({ length: 256 }, (_, id) => BigInt(id < 3 ? 0x4000 : 0));
        if (random.chance(10)) sizes[random.below(256)] = random.pick([1n, 1n << 63n, 0x2000n]);
        return bytes(3, 0, ...sizes);
      }
      case 'getInflightFd':
        return new Uint8Array(payload.buffer);
      case 'getStatus':
        return bytes(random.chance(10) ? BigInt(random.below(256)) : 15n);
      default: {
        if (row.reply.kind !== 'payload' || row.reply.codec === null) return new Uint8Array(0);
        return random.bytes(row.reply.codec.minSize);
      }
    }
  }

  #acknowledgement({ flags }: Seen): Uint8Array | null {
    if ((flags & NEED_REPLY) === 0) return null;
    return bytes(this.#random.chance(this.#sound) ? this.#random.pick([1n, 1n << 63n]) : 0n);
  }

  /** A request of the back-end's own, on its channel. */
  #ask(): void {
    const random = this.#random;
    const channel = this.#channel;
    if (channel === null) return;
    const into = new Uint8Array(4096);
    while (channel.receive(into, this.#fds) > 0);
    const row = random.pick(requests);
    const struct = structs.get(row.name);
    let payload: Uint8Array = new Uint8Array(0);
    if (struct !== undefined && row.payload !== null) {
      payload = encodeToBytes(row.payload, randomRecord(lookup, struct, {}, random));
      if (random.chance(2)) payload.fill(0, 0, Math.min(payload.byteLength, 8));
      // What may be mapped lies in whole pages of small regions.
      if (struct.name === 'shmem-map' && !random.chance(4)) {
        const page = (): bigint => BigInt(random.below(4)) * 0x1000n;
        payload = bytes(random.below(3), 0, page(), page(), page(), BigInt(random.below(2)));
      } else if (struct.name === 'vring-area' && !random.chance(4)) {
        payload = bytes(BigInt(random.below(3)), 0x1000n, 0x1000n);
      } else if (struct.name === 'shared-object') {
        payload = new Uint8Array(16).fill(random.below(3));
      }
    }
    const fds = Array.from({ length: expectedFds(row.fds, {}).max }, () => random.pick(this.#own));
    let message = encodeMessage(row.id, payload, random.chance(2) ? 9 : 1);
    if (random.chance(this.#sound)) {
      message = Uint8Array.from(message);
      message[random.below(message.byteLength)] = random.below(256);
    }
    const part = random.chance(this.#sound * 4)
      ? message.subarray(0, random.below(message.byteLength))
      : message;
    this.#write(channel, part, random.chance(this.#sound) ? [random.pick(this.#own)] : fds);
  }

  #keepFds(row: RequestRow): void {
    const [fd] = this.#fds;
    if (fd === undefined) return;
    if (row.name === 'setBackendReqFd') {
      this.#channel?.close();
      this.#channel = this.#platform.adoptSocket(fd) as SocketStream;
      this.#fds.shift();
    } else if (row.name === 'setVringCall' || row.name === 'setVringErr') {
      this.#events.push(this.#fds.shift()!);
    }
    // The rest is nobody's any more.
    for (const each of this.#fds.splice(0)) this.#platform.closeFd(each);
  }

  #write(stream: SocketStream, message: Uint8Array, fds: readonly number[]): void {
    this.sent++;
    if (message.byteLength > 0) stream.send(message, fds);
  }
}
