import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SocketStream } from '../../runtime/platform/platform.js';
import { ALL_PROTOCOL, Conversation, memoryTable, SharedGuest, USER } from '../support/conversation.js';
import {
  bytes,
  PROTOCOL_FEATURES,
  RawFrontend,
  type RawMessage,
  Request,
  RING_PACKED,
  turns,
  u64Of,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';
import {
  INDIRECT,
  NEXT,
  packedTable,
  RawPackedRing,
  RawSplitRing,
  splitTable,
  WRITE,
} from '../support/raw-rings.js';

/** The IOTLB protocol: translations by update, missing ones asked for, invalidations that wait for the device. */
const test = suite('IOMMU');

const ACCESS_PLATFORM = 1n << 33n;
const PAGE = 0x1000;
const [R, W, RW] = [1, 2, 3] as const;
const Type = { miss: 1, update: 2, invalidate: 3, fail: 4, batchBegin: 5 } as const;
/** I/O virtual addresses are unlike guest addresses and unlike user addresses. */
const IOVA = 0xf_0000_0000;

interface Question {
  readonly iova: number;
  readonly permission: number;
  readonly type: number;
}

/** A session behind an IOMMU, its guest of 64 pages, and the channel on which it asks. */
class Translated {
  readonly talk: Conversation;
  readonly guest: SharedGuest;
  back: RawFrontend;
  readonly format: 'split' | 'packed';
  readonly kick;
  readonly call;
  readonly err;
  ring!: RawSplitRing | RawPackedRing;
  #heads = 0;

  private constructor(talk: Conversation, format: 'split' | 'packed') {
    this.talk = talk;
    this.format = format;
    this.guest = new SharedGuest(talk.platform);
    this.back = this.channel();
    this.kick = talk.frontend.eventFd();
    this.call = talk.frontend.eventFd();
    this.err = talk.frontend.eventFd();
  }

  static async open(
    format: 'split' | 'packed' = 'split',
    options: Parameters<typeof Conversation.open>[0] = {},
  ): Promise<Translated> {
    const talk = Conversation.open(options);
    const packed = format === 'packed' ? RING_PACKED : 0n;
    await talk.negotiate(
      VERSION_1 | PROTOCOL_FEATURES | ACCESS_PLATFORM | packed | (1n << 28n),
      ALL_PROTOCOL,
    );
    const session = new Translated(talk, format);
    session.shareMemory();
    return session;
  }

  /** A further back-end channel. */
  channel(): RawFrontend {
    const { platform, frontend } = this.talk;
    const [mine, theirs] = platform.socketPair();
    frontend.send(Request.setBackendReqFd, bytes(), { fds: [theirs] });
    platform.closeFd(theirs);
    return new RawFrontend(platform, platform.adoptSocket(mine) as SocketStream);
  }

  shareMemory(...more: SharedGuest[]): void {
    const all = [this.guest, ...more];
    this.talk.frontend.send(Request.setMemTable, memoryTable(...all), { fds: all.map(({ fd }) => fd) });
  }

  /** Sends one IOTLB message; resolves with the answer. */
  async tell(type: number, iova: number | bigint, size: number | bigint, user = 0n, permission = 0) {
    const tail = Uint8Array.of(permission, type, 0, 0, 0, 0, 0, 0);
    const payload = bytes(BigInt(iova), BigInt(size), user, tail);
    return u64Of(await this.talk.frontend.ask(Request.iotlbMsg, payload));
  }

  /** Maps pages of guest memory. */
  map(iova: number, address: number, size = PAGE, permission: number = RW): Promise<bigint> {
    return this.tell(Type.update, iova, size, BigInt(USER + address), permission);
  }

  /** The next question, acknowledged with `answer` unless that is null. */
  async question(answer: bigint | null = 0n): Promise<Question> {
    const message = (await this.back.receive())!;
    const question = questionOf(message);
    if (answer !== null) this.back.send(1, bytes(answer), { flags: 5 });
    return question;
  }

  async nothingAsked(): Promise<void> {
    await turns(10);
    assert.is(this.back.stream.receive(new Uint8Array(1), []), -1, 'nothing is asked');
  }

  /** Starts ring 0 of 8 at guest page 1, whose IOVA is `IOVA`. */
  start(iova = IOVA, size = 8): void {
    const { frontend } = this.talk;
    const ring =
      this.format === 'split' ? new RawSplitRing(this.guest, size) : new RawPackedRing(this.guest, size);
    this.ring = ring;
    const at = (address: number) => BigInt(iova + address - ring.descriptorAddress);
    frontend.send(Request.setVringNum, bytes(0, size));
    frontend.send(
      Request.setVringAddr,
      bytes(0, 0, at(ring.descriptorAddress), at(ring.deviceAddress), at(ring.driverAddress), 0n),
    );
    frontend.send(Request.setVringCall, bytes(0n), { fds: [this.call.fd] });
    frontend.send(Request.setVringErr, bytes(0n), { fds: [this.err.fd] });
    frontend.send(Request.setVringKick, bytes(0n), { fds: [this.kick.fd] });
    frontend.send(Request.setVringEnable, bytes(0, 1));
  }

  /** Makes a chain available. */
  offer(buffers: readonly { address: number | bigint; length: number; flags?: number }[]): void {
    const { ring } = this;
    if (ring instanceof RawSplitRing) {
      const slots = buffers.map(() => this.#heads++ % ring.size);
      ring.chain(slots, buffers);
      ring.offer(slots[0]!);
    } else ring.offer(this.#heads++ % ring.size, buffers);
    this.kick.signal();
  }

  #polled = 0;

  async used(count: number): Promise<void> {
    const { ring } = this;
    await until(() => {
      if (ring instanceof RawSplitRing) return ring.usedIndex === count;
      while (ring.poll() !== null) this.#polled++;
      return this.#polled === count;
    }, `${count} chains used`);
  }

  async unused(count: number): Promise<void> {
    await turns(10);
    const { ring } = this;
    if (ring instanceof RawSplitRing) assert.is(ring.usedIndex, count);
    else {
      while (ring.poll() !== null) this.#polled++;
      assert.is(this.#polled, count);
    }
  }

  byte(address: number): number {
    return this.guest.view(address, 1).getUint8(0);
  }

  logged(pattern: RegExp): boolean {
    return this.talk.logs.some(({ message }) => pattern.test(message));
  }

  async close(): Promise<void> {
    this.back.close();
    await this.talk.close();
    for (const fd of [this.kick, this.call, this.err]) fd.close();
    this.guest.close();
  }
}

/** Fails when the answer comes within some turns. */
async function unanswered(answer: Promise<bigint>, why: string): Promise<void> {
  let came = false;
  void answer.then(() => (came = true));
  await turns(10);
  assert.not(came, why);
}

function questionOf({ request, payload }: RawMessage): Question {
  assert.is(request, 1);
  const view = Buffer.from(payload);
  return { iova: Number(view.readBigUInt64LE(0)), permission: payload[24]!, type: payload[25]! };
}

for (const format of ['split', 'packed'] as const) {
  const named = (name: string, run: (session: Translated) => Promise<void>) =>
    test(`${format}: ${name}`, async () => {
      const session = await Translated.open(format);
      await run(session);
      await session.close();
      assert.is(session.talk.platform.openFdCount, 0, 'nothing stays open');
    });

  named('a ring and its buffers behind translations that were there before', async (session) => {
    assert.is(await session.map(IOVA, PAGE), 0n);
    assert.is(await session.map(0x5000, 8 * PAGE), 0n);
    session.start();
    session.offer([{ address: 0x5010, length: 64, flags: WRITE }]);
    await session.used(1);
    assert.is(session.byte(8 * PAGE + 0x10), 0x41);
    assert.is(session.byte(8 * PAGE + 0x0f), 0);
    await session.nothingAsked();
  });

  named('a ring starts when its areas are translated, which are asked for once', async (session) => {
    session.start();
    const questions = [await session.question()];
    assert.is(questions[0]!.type, Type.miss);
    assert.is(questions[0]!.permission, format === 'split' ? R : W, 'the device writes packed descriptors');
    assert.is(questions[0]!.iova, IOVA);
    assert.is((await session.question()).permission, format === 'split' ? W : R);
    await session.nothingAsked();
    assert.equal(
      session.talk.device.events.filter((event) => event.startsWith('start')),
      [],
    );
    await session.map(0x5000, 8 * PAGE);
    session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
    await session.unused(0);
    assert.is(await session.map(IOVA, PAGE), 0n);
    await session.used(1);
  });

  named('a miss stops the ring in front of its chain, an update resumes it', async (session) => {
    await session.map(IOVA, PAGE);
    await session.map(0x5000, 8 * PAGE);
    session.start();
    session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
    session.offer([{ address: 0x9040, length: 8, flags: WRITE }]);
    session.offer([{ address: 0x5100, length: 8, flags: WRITE }]);
    await session.used(1);
    assert.equal(await session.question(), { iova: 0x9040, permission: W, type: Type.miss });
    for (let i = 0; i < 5; i++) session.kick.signal();
    await session.nothingAsked();
    await session.unused(1);
    await session.map(0x9000, 9 * PAGE);
    await session.used(3);
    assert.is(session.byte(9 * PAGE + 0x40), 0x42);
    assert.is(session.byte(8 * PAGE + 0x100), 0x43);
  });

  named('all that a chain lacks is asked for at once, a page one time', async (session) => {
    await session.map(IOVA, PAGE);
    session.start();
    session.offer([
      { address: 0x20010, length: 8 },
      { address: 0x20020, length: 8 },
      { address: 0x30ff0, length: 2 * PAGE, flags: WRITE },
    ]);
    const asked = [];
    for (let i = 0; i < 4; i++) asked.push(await session.question());
    assert.equal(
      asked.map(({ iova, permission }) => [iova, permission]),
      [
        [0x20010, R],
        [0x30ff0, W],
        [0x31000, W],
        [0x32000, W],
      ],
    );
    await session.nothingAsked();
    await session.map(0x20000, 8 * PAGE, PAGE, R);
    await session.map(0x30000, 9 * PAGE, 2 * PAGE, W);
    await session.unused(0);
    await session.map(0x32000, 12 * PAGE, PAGE, W);
    await session.used(1);
    assert.is(session.byte(10 * PAGE + 5), 0x41);
    assert.is(session.byte(12 * PAGE), 0x41, 'the last page lies elsewhere');
    assert.is(session.byte(11 * PAGE), 0);
  });

  named('reading granted first answers no question about writing to the same page', async (session) => {
    session.start();
    await session.question();
    await session.question();
    await session.map(IOVA, PAGE, PAGE, R);
    await turns(10);
    assert.is(session.err.take(), 0n, 'the ring waits for the other answer');
    await session.map(IOVA, PAGE);
    session.offer([
      { address: 0x5000, length: 8 },
      { address: 0x5100, length: 8, flags: WRITE },
    ]);
    assert.equal(await session.question(), { iova: 0x5000, permission: R, type: Type.miss });
    assert.equal(await session.question(), { iova: 0x5100, permission: W, type: Type.miss });
    await session.map(0x5000, 8 * PAGE, PAGE, R);
    await session.unused(0);
    await session.map(0x5000, 8 * PAGE);
    await session.used(1);
    assert.is(session.byte(8 * PAGE + 0x100), 0x41);
  });

  named(
    'a question about writing that is answered by a page for reading is a failed access',
    async (session) => {
      await session.map(IOVA, PAGE);
      session.start();
      session.offer([
        { address: 0x5000, length: 8 },
        { address: 0x5100, length: 8, flags: WRITE },
      ]);
      await session.question();
      await session.question();
      await session.map(0x5000, 8 * PAGE, PAGE, R);
      await session.nothingAsked();
      await session.map(0x5000, 8 * PAGE, PAGE, R);
      assert.equal(await session.question(), { iova: 0x5100, permission: W, type: Type.fail });
      await session.unused(0);
    },
  );

  named(
    'a page granted for reading, as was asked, is asked for when it is written later',
    async (session) => {
      await session.map(IOVA, PAGE);
      session.start();
      session.offer([{ address: 0x5000, length: 8 }]);
      assert.equal(await session.question(), { iova: 0x5000, permission: R, type: Type.miss });
      await session.map(0x5000, 8 * PAGE, PAGE, R);
      await session.used(1);
      session.offer([{ address: 0x5100, length: 8, flags: WRITE }]);
      assert.equal(await session.question(), { iova: 0x5100, permission: W, type: Type.miss });
      await session.unused(1);
      await session.map(0x5000, 8 * PAGE);
      await session.used(2);
      assert.is(session.byte(8 * PAGE + 0x100), 0x42, 'the second chain');
      await session.nothingAsked();
    },
  );

  named('a page that is not granted for writing when it is asked for is a failed access', async (session) => {
    await session.map(IOVA, PAGE);
    session.start();
    for (let round = 0; round < 2; round++) {
      session.offer([{ address: 0x5000, length: 8 }]);
      assert.equal(await session.question(), { iova: 0x5000, permission: R, type: Type.miss });
      await session.map(0x5000, 8 * PAGE, PAGE, R);
      await session.used(round + 1);
      // What went is forgotten, and asked for anew.
      if (round === 0) assert.is(await session.tell(Type.invalidate, 0x5000, PAGE), 0n);
    }
    session.offer([{ address: 0x5100, length: 8, flags: WRITE }]);
    assert.equal(await session.question(), { iova: 0x5100, permission: W, type: Type.miss });
    await session.map(0x5000, 8 * PAGE, PAGE, R);
    assert.equal(await session.question(), { iova: 0x5100, permission: W, type: Type.fail });
    await until(() => session.err.take() > 0n, 'the ring is reported as broken');
    await session.unused(2);
  });

  named('C1: a buffer over entries that do not continue each other in memory', async (session) => {
    await session.map(IOVA, PAGE);
    await session.map(0x5000, 20 * PAGE);
    await session.map(0x6000, 10 * PAGE);
    await session.map(0x7000, 15 * PAGE);
    session.start();
    session.offer([{ address: 0x5ffe, length: PAGE + 4, flags: WRITE }]);
    await session.used(1);
    for (const at of [21 * PAGE - 2, 21 * PAGE - 1, 10 * PAGE, 11 * PAGE - 1, 15 * PAGE, 15 * PAGE + 1]) {
      assert.is(session.byte(at), 0x41, `byte 0x${at.toString(16)}`);
    }
    for (const at of [21 * PAGE - 3, 21 * PAGE, 11 * PAGE, 15 * PAGE + 2, 10 * PAGE - 1]) {
      assert.is(session.byte(at), 0, `byte 0x${at.toString(16)}`);
    }
  });

  named('C16: an indirect table over entries that do not continue each other', async (session) => {
    await session.map(IOVA, PAGE);
    await session.map(0x5000, 20 * PAGE);
    await session.map(0x6000, 10 * PAGE);
    await session.map(0x8000, 12 * PAGE);
    const buffers = [0, 1, 2].map((i) => ({
      address: 0x8000 + i * 0x100,
      length: 8,
      flags: WRITE | (format === 'split' && i < 2 ? NEXT : 0),
      next: format === 'split' ? i + 1 : 0,
    }));
    const table = (format === 'split' ? splitTable : packedTable)(buffers);
    const start = 21 * PAGE - 24;
    for (const [i, byte] of table.entries()) {
      const at = i < 24 ? start + i : 10 * PAGE + i - 24;
      session.guest.view(at, 1).setUint8(0, byte);
    }
    session.start();
    session.offer([{ address: 0x6000 - 24, length: 48, flags: INDIRECT }]);
    await session.used(1);
    for (let i = 0; i < 3; i++) assert.is(session.byte(12 * PAGE + i * 0x100), 0x41);
  });

  named('an indirect table that is missing is asked for, in turn with its buffers', async (session) => {
    await session.map(IOVA, PAGE);
    session.start();
    const entry = { address: 0x8000, length: 8, flags: WRITE };
    const table = (format === 'split' ? splitTable : packedTable)([entry]);
    new Uint8Array(
      session.guest.view(20 * PAGE, 16).buffer,
      session.guest.view(20 * PAGE, 16).byteOffset,
      16,
    ).set(table);
    session.offer([{ address: 0x5000, length: 16, flags: INDIRECT }]);
    assert.equal(await session.question(), { iova: 0x5000, permission: R, type: Type.miss });
    await session.map(0x5000, 20 * PAGE, PAGE, R);
    assert.equal(await session.question(), { iova: 0x8000, permission: W, type: Type.miss });
    await session.map(0x8000, 12 * PAGE, PAGE, W);
    await session.used(1);
    assert.is(session.byte(12 * PAGE), 0x41);
  });

  for (const [what, permission, flags] of [
    ['writing where only reading is allowed', R, WRITE],
    ['reading where only writing is allowed', W, 0],
    ['writing where nothing is allowed', 0, WRITE],
  ] as const) {
    named(`${what} breaks the ring, and the front-end hears of it`, async (session) => {
      await session.map(IOVA, PAGE);
      await session.map(0x5000, 8 * PAGE, PAGE, permission);
      session.start();
      session.offer([{ address: 0x5010, length: 64, flags }]);
      assert.equal(await session.question(1n), {
        iova: 0x5010,
        permission: flags === WRITE ? W : R,
        type: Type.fail,
      });
      await until(() => session.err.take() > 0n, 'the ring is reported as broken');
      assert.ok(session.logged(/IOVA 0x5010 may not be (read|written)/));
      assert.is(session.byte(8 * PAGE + 0x10), 0);
      await session.unused(0);
      assert.is(u64Of(await session.talk.frontend.ask(Request.getQueueNum)), 4n, 'the session goes on');
    });
  }

  named('an area that may not be used as the ring needs it breaks the ring', async (session) => {
    await session.map(IOVA, PAGE, PAGE, R);
    session.start();
    assert.equal((await session.question()).type, Type.fail);
    await until(() => session.err.take() > 0n, 'the ring is reported as broken');
    assert.is(u64Of(await session.talk.frontend.ask(Request.getQueueNum)), 4n, 'the session goes on');
  });

  named('a miss that the front-end refuses breaks the ring', async (session) => {
    await session.map(IOVA, PAGE);
    session.start();
    session.offer([{ address: 0x5010, length: 64, flags: WRITE }]);
    await session.question(1n);
    await until(() => session.err.take() > 0n, 'the ring is reported as broken');
    assert.ok(session.logged(/IOVA 0x5010 is not mapped for writing/));
  });

  named('an address that nothing can translate breaks the ring unasked', async (session) => {
    await session.map(IOVA, PAGE);
    session.start();
    session.offer([{ address: (1n << 63n) + 5n, length: 64, flags: WRITE }]);
    await until(() => session.err.take() > 0n, 'the ring is reported as broken');
    await session.nothingAsked();
  });

  named('invalidated mid-request: answered when the chains that lie there are done', async (session) => {
    await session.map(IOVA, PAGE);
    await session.map(0x5000, 8 * PAGE);
    await session.map(0x6000, 9 * PAGE);
    const { device } = session.talk;
    device.hold = true;
    session.start();
    session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
    session.offer([{ address: 0x6000, length: 8, flags: WRITE }]);
    await until(() => device.held.length === 2, 'both chains are with the device');
    assert.is(await session.tell(Type.invalidate, 0x7000, PAGE), 0n, 'nothing lies there');
    const answer = session.tell(Type.invalidate, 0x5000, PAGE);
    await unanswered(answer, 'not answered yet');
    const [first, second] = device.held.splice(0);
    second!.queue.complete(second!.handle, 0);
    second!.queue.commit();
    await unanswered(answer, 'the other chain does not matter');
    first!.queue.complete(first!.handle, 0);
    first!.queue.commit();
    assert.is(await answer, 0n);
    await session.used(2);
    device.hold = false;
    session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
    assert.equal((await session.question()).iova, 0x5000, 'asked for again');
    await session.map(0x5000, 12 * PAGE);
    await session.used(3);
    assert.is(session.byte(12 * PAGE), 0x43);
  });

  named('an update in place of a translation in use waits as an invalidation does', async (session) => {
    await session.map(IOVA, PAGE);
    await session.map(0x5000, 8 * PAGE);
    const { device } = session.talk;
    device.hold = true;
    session.start();
    session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
    await until(() => device.held.length === 1, 'the chain is with the device');
    assert.is(await session.map(0x5000, 8 * PAGE), 0n, 'the same once more changes nothing');
    const answer = session.map(0x5000, 9 * PAGE);
    await unanswered(answer, 'not answered yet');
    device.finish();
    assert.is(await answer, 0n);
  });

  named(
    'the ring itself invalidated: it pauses, and goes on where it is translated to next',
    async (session) => {
      await session.map(IOVA, PAGE);
      await session.map(0x5000, 8 * PAGE);
      const { device, frontend } = session.talk;
      device.hold = true;
      session.start();
      session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
      await until(() => device.held.length === 1, 'the chain is with the device');
      const answer = session.tell(Type.invalidate, 0, (1n << 64n) - 1n);
      await turns(10);
      assert.is(frontend.stream.receive(new Uint8Array(1), []), -1, 'not answered yet');
      device.finish();
      assert.is(await answer, 0n);
      await session.used(1);
      const asked = new Set([(await session.question()).iova, (await session.question()).iova]);
      assert.ok(asked.has(IOVA));
      device.hold = false;
      session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
      await session.unused(1);
      await session.map(IOVA, PAGE);
      assert.is((await session.question()).iova, 0x5000);
      await session.map(0x5000, 9 * PAGE);
      await session.used(2);
      assert.is(session.byte(9 * PAGE), 0x42);
    },
  );

  named('a device that fails is not waited for', async (session) => {
    await session.map(IOVA, PAGE);
    await session.map(0x5000, 8 * PAGE);
    const { device } = session.talk;
    device.hold = true;
    session.start();
    session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
    await until(() => device.held.length === 1, 'the chain is with the device');
    const answer = session.tell(Type.invalidate, 0, 0);
    await unanswered(answer, 'not answered yet');
    device.held[0]!.queue.fail(new Error('out of order'));
    assert.is(await answer, 0n);
    device.finish();
  });

  named('the session ends while an invalidation waits', async (session) => {
    await session.map(IOVA, PAGE);
    await session.map(0x5000, 8 * PAGE);
    const { device, frontend } = session.talk;
    device.hold = true;
    session.start();
    session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
    await until(() => device.held.length === 1, 'the chain is with the device');
    const tail = Uint8Array.of(0, Type.invalidate, 0, 0, 0, 0, 0, 0);
    frontend.send(Request.iotlbMsg, bytes(0x5000n, BigInt(PAGE), 0n, tail));
    await turns(10);
    frontend.close();
    await session.talk.ended();
    device.finish();
  });

  named('GET_VRING_BASE while a ring waits names the chain in front of which it stands', async (session) => {
    await session.map(IOVA, PAGE);
    await session.map(0x5000, 8 * PAGE);
    session.start();
    session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
    session.offer([{ address: 0x9000, length: 8, flags: WRITE }]);
    await session.used(1);
    await session.question();
    const { payload } = await session.talk.frontend.ask(Request.getVringBase, bytes(0, 0));
    const expected = format === 'split' ? 1 : 0x8001_8001;
    assert.is(Buffer.from(payload).readUInt32LE(4), expected);
    await session.nothingAsked();
  });

  named('when every ring is stopped, translations are forgotten and asked for again', async (session) => {
    await session.map(IOVA, PAGE);
    session.start();
    const { frontend } = session.talk;
    const { payload } = await frontend.ask(Request.getVringBase, bytes(0, 0));
    frontend.send(Request.setVringBase, payload);
    frontend.send(Request.setVringKick, bytes(0n), { fds: [session.kick.fd] });
    assert.is((await session.question()).iova, IOVA);
  });
}

test('misbehaving updates are answered with no, and the session goes on', async () => {
  const session = await Translated.open();
  const user = BigInt(USER);
  const size = BigInt(session.guest.size);
  for (const [what, iova, length, address] of [
    ['of size 0', 0n, 0n, user],
    ['that wraps around', (1n << 64n) - 0x1000n, 0x2000n, user],
    ['of the whole address space', 0n, (1n << 64n) - 0x1000n, user],
    ['above 2^53', 1n << 53n, 0x1000n, user],
    ['in front of every region', 0n, 0x1000n, user - 0x1000n],
    ['behind every region', 0n, 0x1000n, user + size],
    ['over the end of a region', 0n, 0x1000n, user + size - 0xfffn],
    ['whose user address wraps around', 0n, 0x1000n, (1n << 64n) - 1n],
  ] as const) {
    assert.is(await session.tell(Type.update, iova, length, address, RW), 1n, `an update ${what}`);
  }
  for (const type of [0, Type.miss, Type.fail, Type.batchBegin, 6, 255]) {
    assert.is(await session.tell(type, 0, PAGE, user, RW), 1n, `type ${type}`);
  }
  for (const permission of [4, 64, 255]) {
    assert.is(await session.tell(Type.update, 0, PAGE, user, permission), 1n, `permission ${permission}`);
  }
  assert.is(await session.map(0, 0), 0n);
  await session.close();
});

test('the permission of an invalidation means nothing: QEMU leaves there what was on its stack', async () => {
  const session = await Translated.open();
  for (const permission of [3, 64, 255]) {
    assert.is(await session.tell(Type.invalidate, 0, PAGE, 0n, permission), 0n);
  }
  await session.close();
});

test('invalidations of any shape are answered with yes', async () => {
  const session = await Translated.open();
  for (const [iova, size] of [
    [0n, 0n],
    [5n, 3n],
    [(1n << 64n) - 1n, (1n << 64n) - 1n],
    [0n, (1n << 64n) - 0x1000n],
    [1n << 60n, 1n],
  ] as const) {
    assert.is(await session.tell(Type.invalidate, iova, size), 0n);
  }
  await session.close();
});

test('a ring whose areas are scattered in memory is not served, and says so', async () => {
  const session = await Translated.open();
  await session.map(IOVA, 10 * PAGE);
  await session.map(IOVA + PAGE, 5 * PAGE);
  session.start(IOVA + PAGE - 64);
  await until(() => session.logged(/scattered in memory/), 'it is logged');
  assert.is(u64Of(await session.talk.frontend.ask(Request.getQueueNum)), 4n);
  await session.close();
});

test('what is unanswered is asked again over a new channel', async () => {
  const session = await Translated.open();
  await session.map(IOVA, PAGE);
  session.start();
  session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
  assert.is((await session.question(null)).iova, 0x5000);
  const before = session.back;
  session.back = session.channel();
  assert.is((await session.question(null)).iova, 0x5000);
  await session.nothingAsked();
  await session.map(0x5000, 8 * PAGE);
  await session.used(1);
  before.close();
  await session.close();
});

test('without a channel a ring waits for an update, and asks when there is one', async () => {
  const session = await Translated.open();
  session.back.close();
  await turns(5);
  await session.map(IOVA, PAGE);
  session.start();
  session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
  await session.unused(0);
  session.back = session.channel();
  assert.is((await session.question()).iova, 0x5000);
  await session.map(0x5000, 8 * PAGE);
  await session.used(1);
  await session.close();
});

test('memory replaced: translations lead to the new memory, and those that led to what is gone are asked for', async () => {
  const session = await Translated.open();
  const extra = new SharedGuest(session.talk.platform, 0x1_0000, 0x10_0000);
  session.shareMemory(extra);
  await session.map(IOVA, PAGE);
  await session.map(0x5000, 0x10_0000);
  session.start();
  session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
  await session.used(1);
  assert.is(extra.view(0x10_0000, 1).getUint8(0), 0x41);
  session.shareMemory();
  session.offer([{ address: 0x5000, length: 8, flags: WRITE }]);
  assert.is((await session.question()).iova, 0x5000);
  await session.map(0x5000, 8 * PAGE);
  await session.used(2);
  assert.is(session.byte(8 * PAGE), 0x42);
  extra.close();
  await session.close();
});

test('a full table evicts what is oldest, which is asked for again, and rings stay', async () => {
  const session = await Translated.open('split', { limits: { iotlbEntries: 4 } });
  await session.map(IOVA, PAGE);
  session.start();
  for (let i = 0; i < 16; i++) await session.map(0x10_0000 + 0x2000 * i, 8 * PAGE + i * PAGE);
  session.offer([{ address: 0x10_0000 + 0x2000 * 15, length: 8, flags: WRITE }]);
  await session.used(1);
  session.offer([{ address: 0x10_0000, length: 8, flags: WRITE }]);
  assert.is((await session.question()).iova, 0x10_0000);
  await session.map(0x10_0000, 8 * PAGE);
  await session.used(2);
  await session.close();
});

test('without ACCESS_PLATFORM the message is refused, and translations are forgotten', async () => {
  const session = await Translated.open();
  await session.map(IOVA, PAGE);
  const { frontend } = session.talk;
  frontend.send(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES));
  const payload = bytes(0n, BigInt(PAGE), BigInt(USER), Uint8Array.of(RW, Type.update, 0, 0, 0, 0, 0, 0));
  assert.is(await frontend.acknowledged(Request.iotlbMsg, payload), 1n);
  frontend.send(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES | ACCESS_PLATFORM));
  session.start();
  assert.is((await session.question()).iova, IOVA);
  await session.close();
});

test.run();
