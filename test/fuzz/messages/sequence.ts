import * as assert from 'uvu/assert';
import type { QueueHost } from '../../../runtime/device/queue-host.js';
import { VhostUserError } from '../../../runtime/errors.js';
import type { SocketStream } from '../../../runtime/platform/platform.js';
import { serveDevice, type VhostUserBackend } from '../../../runtime/vhost-user/backend/server.js';
import type { BackendSession } from '../../../runtime/vhost-user/backend/session.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { encodeMessage, turn } from '../../support/raw-frontend.js';
import type { Random } from '../../support/random.js';
import { count } from '../kind.js';
import { drawDevice, type FuzzedDevice } from './devices.js';
import { type DrawnMessage, MessageDraw, type Plan } from './draw.js';
import { checkOwnError } from './own-errors.js';
import { ReplyReader } from './replies.js';
import { RingTraffic } from './ring-traffic.js';
import { World } from './world.js';

export interface SequenceOptions {
  /** Where the back-end listens. */
  readonly path: string;
  /** Messages of the longest session. */
  readonly messages: number;
  readonly sessions: number;
  /** Protocol features that are never asked for. */
  readonly withhold: bigint;
  /** How long the back-end may take for what has to come, in turns of the loop and in milliseconds; both have to pass. */
  readonly patience: { readonly turns: number; readonly milliseconds: number };
}

const RINGS = 4;

/** What is counted of the rings that ran. */
const KINDS_OF_CHAINS = [
  ['of packed rings', VirtioFeature.ringPacked],
  ['behind an IOMMU', VirtioFeature.accessPlatform],
  ['of rings that log', VirtioFeature.vhostLogAll],
  ['in order', VirtioFeature.inOrder],
] as const;

/** A back-end and the front-ends that misuse it, one after the other. */
export class MessageSequence {
  messages = 0;
  readonly #random: Random;
  readonly #world: World;
  readonly #options: SequenceOptions;
  readonly #reached: Record<string, number>;
  readonly #device: FuzzedDevice;
  readonly #backend: VhostUserBackend;
  /** The rings that ran in this session. */
  readonly #hosts = new Set<QueueHost>();
  readonly #broken = new WeakMap<object, Error>();
  #reason: VhostUserError | null | undefined = undefined;
  #session: BackendSession | null = null;

  private constructor(
    random: Random,
    world: World,
    options: SequenceOptions,
    reached: Record<string, number>,
  ) {
    this.#random = random;
    this.#world = world;
    this.#options = options;
    this.#reached = reached;
    const { platform } = world;
    this.#device = drawDevice(random, platform);
    this.#backend = serveDevice(this.#device.device, {
      platform,
      socketPath: options.path,
      spinMicroseconds: 0,
      withProtocolFeatures: random.chance(2) ? 0n : BigInt(random.below(1 << 24)) & ~options.withhold,
      log: (_level, _message, fields) => {
        if (fields?.['error'] !== undefined) checkOwnError(fields['error']);
      },
    });
    this.#backend.on('session', (session) => (this.#session = session));
    this.#backend.on('sessionEnd', (_, reason) => (this.#reason = reason));
  }

  /** Plays a whole sequence on a world and closes it. Resolves with the number of messages sent. */
  static async play(
    random: Random,
    world: World,
    options: SequenceOptions,
    reached: Record<string, number>,
  ): Promise<number> {
    const sequence = new MessageSequence(random, world, options, reached);
    count(reached, `device: ${sequence.#device.name}`);
    const soundMemory = random.chance(2);
    for (let session = 0; session < options.sessions; session++) await sequence.#converse(soundMemory);
    if (soundMemory) world.checkGuards();
    await sequence.#end();
    return sequence.messages;
  }

  async #converse(soundMemory: boolean): Promise<void> {
    const random = this.#random;
    const world = this.#world;
    const stream = await world.platform.connect(this.#options.path);
    await this.#until(() => this.#session !== null, 'the back-end takes the connection');
    const { features } = this.#session!;
    const plan: Plan = {
      rings: Array.from({ length: RINGS }, (_, i) => {
        const base = 0x1000 + i * 0x2000;
        return { size: 8, descriptor: base, driver: base + 128, device: base + 256 };
      }),
      offered: features.offered,
      offeredProtocol: features.offeredProtocol,
      accepted: 0n,
      acceptedProtocol: 0n,
      soundMemory,
    };
    const talk = new Talk(random, world, stream, plan, this.#reached);
    const budget = 1 + random.below(this.#options.messages);
    if (!random.chance(10)) {
      talk.push(...talk.draw.open());
      for (let index = 0; index < RINGS; index++) if (!random.chance(3)) talk.openRing(index);
    }
    for (let idle = 0; talk.sent < budget && !talk.replies.ended && idle < 50;) {
      const before = talk.sent;
      talk.step();
      await talk.flush();
      if (talk.sent === before) idle++;
      else idle = 0;
      if (random.chance(3)) this.#device.finish();
      world.answerChannels(random);
      talk.replies.read();
      this.#checkLatched();
    }
    if (soundMemory || !random.chance(40)) talk.replies.read();
    else world.truncate(random.below(3), random.pick([0, 0x1000, 0x1800]));
    this.messages += talk.sent;
    count(this.#reached, 'replies', talk.replies.replies);
    for (const { counters, features } of this.#hosts) {
      count(this.#reached, 'chains', counters.chains);
      for (const [what, bit] of KINDS_OF_CHAINS) {
        if ((features & bit) !== 0n) count(this.#reached, `chains ${what}`, counters.chains);
      }
    }
    this.#hosts.clear();
    stream.close();
    await this.#until(() => this.#reason !== undefined, 'the session ends');
    this.#ended();
  }

  /** A reason that is one of ours, and everything ready for the next front-end. */
  #ended(): void {
    const reason = this.#reason!;
    if (reason !== null) {
      assert.instance(reason, VhostUserError);
      checkOwnError(reason);
    }
    count(this.#reached, `end: ${reason?.code ?? 'in good order'}`);
    this.#reason = undefined;
    this.#session = null;
  }

  async #end(): Promise<void> {
    this.#backend.close();
    await this.#backend.finished;
    await this.#device.close();
    this.#world[Symbol.dispose]();
    await turn();
    await turn();
    await this.#until(
      () => this.#nothingLeft(),
      'everything is closed',
      () => this.#world.checkNothingLeft(),
    );
  }

  #nothingLeft(): boolean {
    try {
      this.#world.checkNothingLeft();
      return true;
    } catch {
      return false;
    }
  }

  /** A ring that broke stays broken with its first reason. */
  #checkLatched(): void {
    for (const { host } of this.#session?.vrings ?? []) {
      if (host === null) continue;
      this.#hosts.add(host);
      assert.ok(host.inFlight >= 0 && host.inFlight <= host.size, `${host.inFlight} chains in flight`);
      const before = this.#broken.get(host);
      if (host.broken !== null) {
        checkOwnError(host.broken);
        if (before === undefined) count(this.#reached, `ring: ${host.broken.code}`);
        this.#broken.set(host, host.broken);
      }
      assert.ok(before === undefined || host.broken === before, 'a broken ring stays broken');
    }
  }

  async #until(condition: () => boolean, what: string, explain: () => void = () => undefined): Promise<void> {
    const { turns, milliseconds } = this.#options.patience;
    const began = performance.now();
    for (let i = 0; !condition(); i++) {
      if (i > turns && performance.now() - began > milliseconds) {
        explain();
        throw new Error(`never happened: ${what}`);
      }
      this.#device.finish();
      await turn();
    }
  }
}

/** One front-end: what it has drawn and not sent yet, and what it has sent. */
class Talk {
  sent = 0;
  readonly draw: MessageDraw;
  readonly replies: ReplyReader;
  readonly #random: Random;
  readonly #world: World;
  readonly #stream: SocketStream;
  readonly #traffic: RingTraffic;
  #pending: DrawnMessage[] = [];

  constructor(
    random: Random,
    world: World,
    stream: SocketStream,
    plan: Plan,
    reached: Record<string, number>,
  ) {
    this.#random = random;
    this.#world = world;
    this.#stream = stream;
    this.draw = new MessageDraw(random, world, plan);
    this.replies = new ReplyReader(stream, world.loot, reached);
    this.#traffic = new RingTraffic(random, world, plan);
  }

  push(...messages: DrawnMessage[]): void {
    this.#pending.push(...messages);
  }

  openRing(index: number): void {
    this.#traffic.clear(index);
    this.push(...this.draw.openRing(index));
  }

  /** Draws what comes next. */
  step(): void {
    const random = this.#random;
    const index = random.below(RINGS);
    if (random.chance(2)) {
      this.#traffic.write(index);
      this.#world.platform.signalEventFd(this.#world.events[random.below(2)]!);
    }
    if (random.chance(10)) {
      this.push(this.draw.request('getVringBase', { index, num: 0 }));
      this.openRing(index);
      return;
    }
    const message = this.draw.any();
    if (random.chance(3)) this.draw.spoil(message);
    this.push(message);
    if (random.chance(30)) this.push(message);
    if (random.chance(30)) this.#pending.reverse();
  }

  /** Sends what was drawn, in pieces and with turns between them as chance has it. */
  async flush(): Promise<void> {
    const random = this.#random;
    for (const message of this.#pending.splice(0)) {
      const { request, flags, size, payload, fds } = message;
      const data = encodeMessage(request, payload, flags);
      new DataView(data.buffer, data.byteOffset).setUint32(8, size, true);
      if (size !== payload.byteLength) this.replies.lost = true;
      this.replies.asked(request);
      this.sent++;
      if (!(await this.#send(data, fds))) return;
    }
    for (let n = random.below(3); n > 0; n--) await turn();
  }

  async #send(data: Uint8Array, fds: readonly number[]): Promise<boolean> {
    const random = this.#random;
    if (!random.chance(20)) return this.#write(data, fds);
    // Fds belong to the first byte; a front-end may have them come with a later one.
    const late = random.chance(5);
    let at = 0;
    for (const piece of random.cut(data.byteLength)) {
      const withFds = late ? at + piece === data.byteLength : at === 0;
      if (!(await this.#write(data.subarray(at, at + piece), withFds ? fds : []))) return false;
      at += piece;
      if (random.chance(4)) await turn();
    }
    return true;
  }

  async #write(data: Uint8Array, fds: readonly number[]): Promise<boolean> {
    let left = data;
    let carried = fds;
    try {
      for (let tries = 0; tries < 1000; tries++) {
        const sent = this.#stream.send(left, carried);
        if (sent === left.byteLength) return true;
        if (sent > 0) {
          left = left.subarray(sent);
          carried = [];
        }
        this.replies.read();
        if (this.replies.ended) return false;
        await turn();
      }
    } catch (error) {
      if (!['EPIPE', 'ECONNRESET'].includes((error as { errno?: string }).errno ?? '')) throw error;
      this.replies.read();
      this.replies.ended = true;
      return false;
    }
    // A chain that the device holds back keeps GET_VRING_BASE, and with it everything behind it.
    return false;
  }
}
