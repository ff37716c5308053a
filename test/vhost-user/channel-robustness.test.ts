/** The channel of a session with a front-end that misbehaves on it: the channel ends with a reason, the session goes on. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { RawChannel } from '../support/back-channel.js';
import {
  ALL_PROTOCOL,
  Conversation,
  RecordingDevice,
  RunningRing,
  SharedGuest,
} from '../support/conversation.js';
import {
  bytes,
  encodeMessage,
  NO_FD,
  Protocol,
  PROTOCOL_FEATURES,
  Request,
  turns,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';
import { Random } from '../support/random.js';

const test = suite('a front-end that misbehaves on the back-end’s channel');

const CALL = 4;

/** A running ring that is called in-band. */
async function open() {
  const talk = Conversation.open({ withProtocolFeatures: ProtocolFeature.inbandNotifications });
  await talk.negotiate(VERSION_1 | PROTOCOL_FEATURES, ALL_PROTOCOL | Protocol.inbandNotifications);
  const guest = new SharedGuest(talk.platform);
  const ring = RunningRing.start(talk, guest);
  talk.frontend.send(Request.setVringCall, bytes(NO_FD));
  await talk.frontend.ask(Request.getStatus);
  let used = 0;
  return {
    talk,
    /** Has the device complete a chain. */
    complete: async () => {
      ring.offer();
      await ring.used(++used);
    },
    logged: (pattern: RegExp) =>
      until(() => talk.logs.some(({ message }) => pattern.test(message)), `${pattern}`),
    end: async () => {
      ring.close();
      guest.close();
      await talk.close();
      assert.equal(talk.platform.openFds, [], 'nothing stays open');
      assert.is(talk.platform.mappingCount, 0);
    },
  };
}

for (const [what, reply, fds, reason] of [
  ['an answer to what was not asked', encodeMessage(2, bytes(0n), 5), 0, /not sent next/],
  ['a request', encodeMessage(CALL, bytes(0n), 1), 0, /expected a reply/],
  ['an answer of a wrong size', encodeMessage(CALL, bytes(0, 0, 0), 5), 0, /does not decode/],
  ['an answer with an fd', encodeMessage(CALL, bytes(0n), 5), 1, /1 file descriptors came/],
  ['an answer with nine fds', encodeMessage(CALL, bytes(0n), 5), 9, /9 file descriptors came/],
  ['half an answer', encodeMessage(CALL, bytes(0n), 5).subarray(0, 15), 0, null],
] as const) {
  test(`${what} ends the channel; a call that was not answered goes to the next one`, async () => {
    const { talk, complete, logged, end } = await open();
    const first = RawChannel.open(talk);
    await complete();
    await first.expect(CALL);
    const fd = talk.platform.createEventFd();
    first.sendBytes(reply, Array<number>(fds).fill(fd));
    talk.platform.closeFd(fd);
    if (reason === null) first.close();
    await logged(reason ?? /hung up after/);
    if (reason !== null) assert.ok(await first.hungUp());
    await complete();
    const second = RawChannel.open(talk);
    await second.expect(CALL);
    second.answer(CALL);
    await complete();
    await second.expect(CALL);
    first.close();
    second.close();
    await end();
  });
}

test('a call that a lost channel carried is told again, once', async () => {
  const { talk, complete, end } = await open();
  const first = RawChannel.open(talk);
  await complete();
  await turns(5);
  first.close();
  await turns(5);
  const second = RawChannel.open(talk);
  await second.expect(CALL);
  second.answer(CALL);
  await turns(5);
  assert.ok(second.silent);
  second.close();
  await end();
});

test('a call behind as many unanswered requests as may be is sent when one is answered', async () => {
  const talk = Conversation.open({
    withProtocolFeatures: ProtocolFeature.inbandNotifications,
    device: Object.assign(new RecordingDevice(), { sharedObject: () => null }),
    limits: { unansweredRequests: 2 },
  });
  const protocol = ALL_PROTOCOL | Protocol.inbandNotifications | Protocol.sharedObject;
  await talk.negotiate(VERSION_1 | PROTOCOL_FEATURES, protocol);
  const guest = new SharedGuest(talk.platform);
  const ring = RunningRing.start(talk, guest);
  talk.frontend.send(Request.setVringCall, bytes(NO_FD));
  const back = RawChannel.open(talk);
  await talk.frontend.ask(Request.getStatus);
  const { frontend } = talk.device.host!;
  const added = [1, 2].map((each) => frontend.addSharedObject(new Uint8Array(16).fill(each)));
  for (let i = 0; i < 2; i++) await back.expect(6);
  ring.offer();
  await ring.used(1);
  await turns(5);
  assert.ok(back.silent);
  back.answer(6);
  await back.expect(CALL);
  back.answer(6);
  await Promise.all(added);
  back.close();
  await talk.close();
});

test('a thousand channels, one after the other, leave one', async () => {
  const { talk, complete, end } = await open();
  const before = talk.platform.openFdCount;
  for (let i = 0; i < 1000; i++) {
    const back = RawChannel.open(talk);
    if (i % 10 === 0) await complete();
    back.close();
  }
  await turns(20);
  const last = RawChannel.open(talk);
  await talk.frontend.ask(Request.getStatus);
  await turns(5);
  assert.ok(talk.platform.openFdCount <= before + 2, `${talk.platform.openFdCount - before} fds more`);
  last.close();
  await end();
});

test('the session’s own socket as its channel does no harm', async () => {
  const { talk, complete } = await open();
  const { frontend } = talk;
  // What the back-end sends over its channel now comes in as a request of the front-end, with NEED_REPLY.
  frontend.send(Request.setBackendReqFd, bytes(), { fds: [frontend.stream.fd] });
  await complete();
  await turns(20);
  frontend.close();
  await talk.ended();
  talk.backend.close();
});

test('random bytes on the channel end it and nothing else', async () => {
  const { talk, complete, end } = await open();
  const random = new Random(7);
  for (let round = 0; round < 200; round++) {
    const back = RawChannel.open(talk);
    if (random.chance(2)) await complete();
    const message = random.chance(2)
      ? random.bytes(1 + random.below(64))
      : encodeMessage(CALL, random.bytes(8), 5);
    const fd = talk.platform.createEventFd();
    try {
      back.sendBytes(message, Array<number>(random.below(4)).fill(fd));
    } catch {
      // The back-end was quicker to hang up.
    }
    talk.platform.closeFd(fd);
    await turns(3);
    back.close();
  }
  await complete();
  await end();
});

test.run();
