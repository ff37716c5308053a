import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  ALL_PROTOCOL,
  Conversation,
  RunningRing,
  SharedGuest,
  singleRegion,
} from '../support/conversation.js';
import {
  bytes,
  NO_FD,
  PROTOCOL_FEATURES,
  Protocol,
  Request,
  RING_PACKED,
  turns,
  u64Of,
  VERSION_1,
} from '../support/raw-frontend.js';

const test = suite('negotiation');

test('what is offered: the device, the rings and the protocol', async () => {
  const talk = Conversation.open();
  talk.device.features = 1n << 5n;
  const { frontend } = talk;
  const features = u64Of(await frontend.ask(Request.getFeatures));
  for (const bit of [26n, 27n, 28n, 29n, 30n, 32n, 33n, 34n, 35n])
    assert.is((features >> bit) & 1n, 1n, `bit ${bit}`);
  assert.is(u64Of(await frontend.ask(Request.getProtocolFeatures)), ALL_PROTOCOL);
  await talk.close();
});

test('features can be held back', async () => {
  const talk = Conversation.open({ withoutFeatures: RING_PACKED });
  assert.is(u64Of(await talk.frontend.ask(Request.getFeatures)) & RING_PACKED, 0n);
  await talk.close();
});

test('the number of queues and of memory slots', async () => {
  const talk = Conversation.open();
  await talk.negotiate();
  assert.is(u64Of(await talk.frontend.ask(Request.getQueueNum)), 4n);
  assert.is(u64Of(await talk.frontend.ask(Request.getMaxMemSlots)), 509n);
  await talk.close();
});

test('a feature that was not offered is refused by name', async () => {
  const talk = Conversation.open();
  await talk.negotiate();
  assert.is(await talk.frontend.acknowledged(Request.setFeatures, bytes(VERSION_1 | (1n << 37n))), 1n);
  assert.match(talk.logs.at(-1)!.message, /VHOST_USER_SET_FEATURES: not offered: VIRTIO_F_SR_IOV/);
  assert.is(
    await talk.frontend.acknowledged(Request.setFeatures, bytes(VERSION_1)),
    0n,
    'and the talk goes on',
  );
  await talk.close();
});

test('a protocol feature that was not offered ends the session: nobody could tell the front-end', async () => {
  const talk = Conversation.open();
  talk.frontend.send(Request.setProtocolFeatures, bytes(Protocol.inbandNotifications));
  assert.is((await talk.ended())?.code, 'ERR_VHOST_PAYLOAD');
  assert.ok(await talk.frontend.hungUp());
});

test('a request whose feature was not negotiated is refused', async () => {
  const talk = Conversation.open();
  await talk.negotiate(undefined, Protocol.replyAck);
  assert.is(await talk.frontend.acknowledged(Request.getQueueNum), 1n);
  assert.match(talk.logs.at(-1)!.message, /VHOST_USER_GET_QUEUE_NUM: needs VHOST_USER_PROTOCOL_F_MQ/);
  talk.frontend.send(Request.getStatus);
  const reason = await talk.ended();
  assert.is(reason?.code, 'ERR_VHOST_GATE', 'without an acknowledgement to say so, the session ends');
});

test('the message that negotiates REPLY_ACK is acknowledged when it asks for it', async () => {
  const talk = Conversation.open();
  assert.is(await talk.frontend.acknowledged(Request.setProtocolFeatures, bytes(Protocol.replyAck)), 0n);
  await talk.close();
});

test('NEED_REPLY without REPLY_ACK is ignored', async () => {
  const talk = Conversation.open();
  talk.frontend.send(Request.setOwner, bytes(), { needReply: true });
  const reply = await talk.frontend.ask(Request.getFeatures);
  assert.is(reply.request, Request.getFeatures);
  await talk.close();
});

test('trap 5: a reply has flags exactly 0x5, asked for with NEED_REPLY or not', async () => {
  const talk = Conversation.open();
  await talk.negotiate();
  // `ask` checks the flags.
  await talk.frontend.ask(Request.getFeatures, bytes(), { needReply: true });
  await talk.frontend.ask(Request.setOwner, bytes(), { needReply: true });
  await talk.close();
});

test('peers 9: with REPLY_ACK every request is answered exactly once', async () => {
  const talk = Conversation.open();
  await talk.negotiate();
  const { frontend } = talk;
  frontend.send(Request.getQueueNum, bytes(), { needReply: true });
  frontend.send(Request.setOwner, bytes(), { needReply: true });
  frontend.send(Request.getVringBase, bytes(0, 0), { needReply: true });
  frontend.send(Request.setOwner, bytes());
  frontend.send(Request.getStatus, bytes());
  const answers = [];
  for (let i = 0; i < 4; i++) answers.push((await frontend.receive())!.request);
  assert.equal(answers, [Request.getQueueNum, Request.setOwner, Request.getVringBase, Request.getStatus]);
  await talk.close();
});

test('an unknown request is answered with a failure where one is asked for, else it ends the session', async () => {
  const talk = Conversation.open();
  await talk.negotiate();
  assert.is.not(await talk.frontend.acknowledged(1234, bytes(1, 2, 3)), 0n);
  assert.is.not(await talk.frontend.acknowledged(0), 0n);
  assert.is(await talk.frontend.acknowledged(Request.setOwner), 0n);
  talk.frontend.send(46);
  const reason = await talk.ended();
  assert.is(reason?.code, 'ERR_VHOST_REQUEST');
});

test('trap 14, peers 2: SET_VRING_CALL for every ring comes before SET_FEATURES and SET_VRING_NUM', async () => {
  const talk = Conversation.open();
  const { frontend } = talk;
  await frontend.ask(Request.getFeatures);
  const calls = [0, 1, 2, 3].map((index) => {
    const call = frontend.eventFd();
    frontend.send(Request.setVringCall, bytes(BigInt(index)), { fds: [call.fd] });
    return call;
  });
  await frontend.ask(Request.getFeatures);
  assert.equal(
    calls.map((call) => call.take()),
    [1n, 1n, 1n, 1n],
    'peers 1: each is signalled once',
  );
  await talk.close();
});

test('without bit 30 every ring is enabled at once, those mentioned later too', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  talk.frontend.send(Request.setVringCall, bytes(NO_FD | 0n));
  talk.frontend.send(Request.setFeatures, bytes(VERSION_1));
  const first = RunningRing.start(talk, guest, { index: 0, enable: false });
  const second = RunningRing.start(talk, guest, { index: 1, enable: false, table: false });
  for (const ring of [first, second]) {
    ring.offer();
    await ring.used(1);
  }
  await talk.close();
});

test('with bit 30 a ring starts disabled, and SET_FEATURES leaves the enable bits alone', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate();
  const ring = RunningRing.start(talk, guest, { enable: false });
  ring.offer();
  await turns(50);
  assert.is(ring.ring.usedIndex, 0, 'a disabled ring leaves its chains alone');
  assert.not.ok(talk.device.events.includes('start 0'));
  talk.frontend.send(Request.setVringEnable, bytes(0, 1));
  await ring.used(1);
  talk.frontend.send(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES));
  ring.offer();
  await ring.used(2);
  talk.frontend.send(Request.setVringEnable, bytes(0, 0));
  await talk.frontend.ask(Request.getStatus);
  talk.frontend.send(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES));
  ring.offer();
  await turns(50);
  assert.is(ring.ring.usedIndex, 2, 'nor does it enable a disabled ring');
  await talk.close();
});

test('QEMU before 7.2: protocol features and SET_VRING_ENABLE are used although bit 30 is never accepted', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate(VERSION_1);
  const ring = RunningRing.start(talk, guest, { enable: true });
  ring.offer();
  await ring.used(1);
  assert.is(await talk.frontend.acknowledged(Request.setVringEnable, bytes(0, 1)), 0n);
  await talk.close();
});

test('features other than LOG_ALL cannot change while a ring runs', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate();
  const ring = RunningRing.start(talk, guest);
  assert.is(
    await talk.frontend.acknowledged(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES | RING_PACKED)),
    1n,
  );
  ring.offer();
  await ring.used(1);
  await talk.close();
});

test('peers 8: after a reboot the same connection starts again, with queues of other sizes', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate();
  for (const size of [16, 64, 8]) {
    talk.frontend.send(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES));
    guest.view(0, guest.size).setUint8(0, 0);
    new Uint8Array(guest.view(0x1000, 0x2000).buffer, guest.view(0x1000, 0x2000).byteOffset, 0x2000).fill(0);
    const ring = RunningRing.start(talk, guest, { size });
    for (let i = 1; i <= 10; i++) {
      ring.offer();
      await ring.used(i);
    }
    assert.is((await talk.frontend.ask(Request.getVringBase, bytes(0, 0))).payload[4], 10);
    talk.frontend.send(Request.setVringEnable, bytes(0, 0));
  }
  await talk.close();
});

test('peers 5: libblkio gets REPLY_ACK, CONFIG and CONFIGURE_MEM_SLOTS together and asks for every acknowledgement', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  const { frontend } = talk;
  frontend.send(Request.setOwner);
  const features = u64Of(await frontend.ask(Request.getFeatures));
  const needed = Protocol.replyAck | Protocol.config | Protocol.configureMemSlots;
  assert.is(u64Of(await frontend.ask(Request.getProtocolFeatures)) & needed, needed);
  frontend.send(Request.setProtocolFeatures, bytes(needed | Protocol.mq));
  assert.is(
    await frontend.acknowledged(Request.setFeatures, bytes(features & (VERSION_1 | PROTOCOL_FEATURES))),
    0n,
  );
  assert.is((await frontend.ask(Request.getConfig, bytes(0, 8, 0, 0n))).payload.byteLength, 20);
  assert.ok(u64Of(await frontend.ask(Request.getMaxMemSlots)) > 0n);
  assert.is(await frontend.acknowledged(Request.addMemReg, singleRegion(guest), [guest.fd]), 0n);
  const ring = RunningRing.start(talk, guest, { table: false });
  ring.offer();
  await ring.used(1);
  await talk.close();
});

test('DPDK: the status comes before the features, and step by step', async () => {
  const talk = Conversation.open();
  const { frontend } = talk;
  await frontend.ask(Request.getFeatures);
  await frontend.ask(Request.getProtocolFeatures);
  frontend.send(Request.setProtocolFeatures, bytes(Protocol.status | Protocol.replyAck));
  for (const status of [0n, 1n, 3n])
    assert.is(await frontend.acknowledged(Request.setStatus, bytes(status)), 0n);
  assert.is(await frontend.acknowledged(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES)), 0n);
  assert.is(await frontend.acknowledged(Request.setStatus, bytes(0xbn)), 0n);
  assert.is(u64Of(await frontend.ask(Request.getStatus)), 0xbn);
  await talk.close();
});

test('trap 2: no bit is offered that some peers take for another', async () => {
  const talk = Conversation.open();
  await talk.frontend.ask(Request.getFeatures);
  const offered = u64Of(await talk.frontend.ask(Request.getProtocolFeatures));
  const moved = Protocol.gpaAddresses | Protocol.shmem;
  assert.is(offered & moved, 0n, 'bits 21 and 22 were others while they were drafts');
  await talk.close();
});

test('a message of the wrong size ends the session after the failure reply', async () => {
  const talk = Conversation.open();
  await talk.negotiate();
  assert.is.not(await talk.frontend.acknowledged(Request.setVringNum, bytes(1)), 0n);
  const reason = await talk.ended();
  assert.is(reason?.code, 'ERR_VHOST_PAYLOAD');
  assert.match(reason!.message, /VHOST_USER_SET_VRING_NUM/);
  assert.ok(await talk.frontend.hungUp());
});

test.run();
