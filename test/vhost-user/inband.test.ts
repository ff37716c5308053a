import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { RawChannel } from '../support/back-channel.js';
import {
  ALL_PROTOCOL,
  Conversation,
  memoryTable,
  SharedGuest,
  vringAddress,
} from '../support/conversation.js';
import {
  bytes,
  NO_FD,
  Protocol,
  PROTOCOL_FEATURES,
  Request,
  turns,
  u64Of,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';
import { RawSplitRing, WRITE } from '../support/raw-rings.js';

const test = suite('in-band notifications');

const INBAND = ALL_PROTOCOL | Protocol.inbandNotifications;
const CALL = 4;
const ERR = 5;

function offer(): Conversation {
  return Conversation.open({ withProtocolFeatures: ProtocolFeature.inbandNotifications });
}

/** A session with in-band notifications and rings that are set up, enabled and not started. */
async function prepare(talk: Conversation, indexes: readonly number[] = [0]) {
  await talk.negotiate(VERSION_1 | PROTOCOL_FEATURES, INBAND);
  const { frontend } = talk;
  const guest = new SharedGuest(talk.platform);
  frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
  const rings = indexes.map((index) => {
    const ring = new RawSplitRing(guest, 16, 0x1000 + index * 0x2000);
    frontend.send(Request.setVringNum, bytes(index, 16));
    frontend.send(Request.setVringAddr, vringAddress(index, ring));
    frontend.send(Request.setVringEnable, bytes(index, 1));
    return {
      offer: () => {
        const head = ring.availableIndex % 16;
        ring.chain([head], [{ address: 0x1_0000 + head * 64, length: 64, flags: WRITE }]);
        ring.offer(head);
      },
      kick: () => frontend.send(Request.vringKick, bytes(index, 0)),
      used: (count: number) => until(() => ring.usedIndex === count, `${count} chains used`),
      ring,
    };
  });
  return { guest, rings };
}

test('they are offered only where they are asked for', async () => {
  for (const [talk, expected] of [
    [Conversation.open(), false],
    [offer(), true],
  ] as const) {
    await talk.frontend.ask(Request.getFeatures);
    const offered = u64Of(await talk.frontend.ask(Request.getProtocolFeatures));
    assert.is((offered & Protocol.inbandNotifications) !== 0n, expected);
    await talk.close();
  }
});

test('accepted without REPLY_ACK or BACKEND_REQ they end the connection, asked or not', async () => {
  for (const before of [0n, Protocol.replyAck]) {
    for (const lacking of [Protocol.replyAck, Protocol.backendReq]) {
      const talk = offer();
      await talk.frontend.ask(Request.getFeatures);
      await talk.frontend.ask(Request.getProtocolFeatures);
      talk.frontend.send(Request.setProtocolFeatures, bytes(before));
      const word = (Protocol.inbandNotifications | Protocol.replyAck | Protocol.backendReq) & ~lacking;
      talk.frontend.send(Request.setProtocolFeatures, bytes(word), { needReply: true });
      assert.match((await talk.ended())!.message, /without the features they need: .*INBAND/i);
      assert.ok(await talk.frontend.hungUp());
    }
  }
});

test('VRING_KICK starts a ring and kicks it; a used chain is called by message and wants an answer', async () => {
  const talk = offer();
  const { rings } = await prepare(talk);
  const back = RawChannel.open(talk);
  const ring = rings[0]!;
  ring.offer();
  await turns(5);
  assert.is(ring.ring.usedIndex, 0, 'not started');
  ring.kick();
  await ring.used(1);
  const call = await back.expect(CALL);
  assert.equal([call.flags, ...call.payload], [9, ...bytes(0, 0)]);
  back.answer(CALL);
  ring.offer();
  await turns(20);
  assert.is(ring.ring.usedIndex, 1, 'not polled: nobody kicked');
  ring.kick();
  await ring.used(2);
  await back.expect(CALL);
  back.close();
  await talk.close();
});

test('a kick is acknowledged when that is asked for, and refused for a ring that there is none of', async () => {
  const talk = offer();
  await prepare(talk);
  assert.is(await talk.frontend.acknowledged(Request.vringKick, bytes(0, 0)), 0n);
  assert.is(await talk.frontend.acknowledged(Request.vringKick, bytes(4, 0)), 1n);
  assert.is(await talk.frontend.acknowledged(Request.vringKick, bytes(0x100, 0)), 1n);
  await talk.close();
});

test('a kick starts no ring whose areas lie outside memory', async () => {
  const talk = offer();
  await talk.negotiate(VERSION_1 | PROTOCOL_FEATURES, INBAND);
  const { frontend } = talk;
  const guest = new SharedGuest(talk.platform);
  frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
  frontend.send(Request.setVringNum, bytes(0, 16));
  const far = { descriptorAddress: 0x100_0000, driverAddress: 0x100_1000, deviceAddress: 0x100_2000 };
  frontend.send(Request.setVringAddr, vringAddress(0, far));
  assert.is(await frontend.acknowledged(Request.vringKick, bytes(0, 0)), 1n);
  assert.is(talk.session.vring(0).started, false);
  await talk.close();
});

test('where the feature was not negotiated a kick by message is refused', async () => {
  const talk = offer();
  await talk.negotiate();
  assert.is(await talk.frontend.acknowledged(Request.vringKick, bytes(0, 0)), 1n);
  assert.is(talk.session.vring(0).started, false);
  await talk.close();
});

test('eventfds come before messages', async () => {
  const talk = offer();
  const { rings } = await prepare(talk);
  const { frontend } = talk;
  const back = RawChannel.open(talk);
  const [kick, call] = [frontend.eventFd(), frontend.eventFd()];
  frontend.send(Request.setVringCall, bytes(0n), { fds: [call.fd] });
  frontend.send(Request.setVringKick, bytes(0n), { fds: [kick.fd] });
  rings[0]!.offer();
  kick.signal();
  await rings[0]!.used(1);
  assert.ok(call.take() > 0n);
  assert.ok(back.silent);
  // A kick by message is one all the same.
  rings[0]!.offer();
  rings[0]!.kick();
  await rings[0]!.used(2);
  // Without its call fd the ring calls by message again.
  frontend.send(Request.setVringCall, bytes(NO_FD));
  rings[0]!.offer();
  kick.signal();
  await back.expect(CALL);
  back.close();
  for (const each of [kick, call]) each.close();
  await talk.close();
});

test('SET_VRING_KICK without an fd still asks to poll', async () => {
  const talk = offer();
  const { rings } = await prepare(talk);
  talk.frontend.send(Request.setVringKick, bytes(NO_FD));
  rings[0]!.offer();
  await rings[0]!.used(1);
  rings[0]!.offer();
  rings[0]!.kick();
  await rings[0]!.used(2);
  await talk.close();
});

test('a stopped ring is started again by a kick', async () => {
  const talk = offer();
  const { rings } = await prepare(talk);
  const ring = rings[0]!;
  ring.offer();
  ring.kick();
  await ring.used(1);
  const { payload } = await talk.frontend.ask(Request.getVringBase, bytes(0, 0));
  assert.equal([...payload], [...bytes(0, 1)]);
  ring.offer();
  await turns(5);
  assert.is(ring.ring.usedIndex, 1);
  ring.kick();
  await ring.used(2);
  await talk.close();
});

test('calls that nobody answers are one message a ring, and one more when it is answered', async () => {
  const talk = offer();
  const { rings } = await prepare(talk, [0, 1]);
  const back = RawChannel.open(talk);
  for (let round = 1; round <= 50; round++) {
    for (const ring of rings) {
      ring.offer();
      ring.kick();
    }
    for (const ring of rings) await ring.used(round);
  }
  const called = [await back.expect(CALL), await back.expect(CALL)].map(({ payload }) => payload[0]);
  assert.equal(called.sort(), [0, 1]);
  assert.ok(back.silent, 'fifty calls are one');
  back.answer(CALL);
  back.answer(CALL);
  for (let i = 0; i < 2; i++) await back.expect(CALL);
  back.answer(CALL);
  back.answer(CALL);
  await turns(5);
  assert.ok(back.silent);
  assert.is(u64Of(await talk.frontend.ask(Request.getQueueNum)), 4n, 'the conversation was never held up');
  back.close();
  await talk.close();
});

test('a call waits for the channel, and goes to the one that replaces it', async () => {
  const talk = offer();
  const { rings } = await prepare(talk);
  rings[0]!.offer();
  rings[0]!.kick();
  await rings[0]!.used(1);
  const first = RawChannel.open(talk);
  await first.expect(CALL);
  rings[0]!.offer();
  rings[0]!.kick();
  await rings[0]!.used(2);
  const second = RawChannel.open(talk);
  await second.expect(CALL);
  assert.ok(await first.hungUp());
  for (const back of [first, second]) back.close();
  await talk.close();
  assert.is(talk.platform.openFdCount, 1, 'the guest’s memory');
});

test('a stopped ring sends no call that was held up', async () => {
  const talk = offer();
  const { rings } = await prepare(talk);
  const back = RawChannel.open(talk);
  for (const round of [1, 2]) {
    rings[0]!.offer();
    rings[0]!.kick();
    await rings[0]!.used(round);
  }
  await talk.frontend.ask(Request.getVringBase, bytes(0, 0));
  await back.expect(CALL);
  back.answer(CALL);
  await turns(10);
  assert.ok(back.silent);
  rings[0]!.kick();
  await back.expect(CALL);
  back.close();
  await talk.close();
});

test('a ring that breaks says so by message', async () => {
  const talk = offer();
  const { rings } = await prepare(talk, [0, 1]);
  const back = RawChannel.open(talk);
  rings[1]!.ring.offer(99);
  rings[1]!.kick();
  const { payload, flags } = await back.expect(ERR);
  assert.equal([flags, ...payload], [9, ...bytes(1, 0)]);
  back.answer(ERR, 1n);
  await until(() => talk.logs.some(({ message }) => message.includes('answered 1')), 'the refusal is logged');
  back.close();
  await talk.close();
});

test.run();
