import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SocketStream } from '../../runtime/platform/platform.js';
import {
  Conversation,
  memoryTable,
  RunningRing,
  SharedGuest,
  vringAddress,
} from '../support/conversation.js';
import {
  bytes,
  PROTOCOL_FEATURES,
  Protocol,
  Request,
  RING_PACKED,
  turns,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';
import { WRITE } from '../support/raw-rings.js';

/** What front-ends do that the text does not say, and back-ends before this one put up with. */
const test = suite('habits of front-ends');

const SPLIT = VERSION_1 | PROTOCOL_FEATURES;

async function open(features = SPLIT): Promise<{ talk: Conversation; guest: SharedGuest }> {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate(features);
  return { talk, guest };
}

/** Whether a request came to its answer by now. */
function watched<Value>(answer: Promise<Value>): { readonly answer: Promise<Value>; done: boolean } {
  const state = { answer, done: false };
  void answer.then(() => (state.done = true));
  return state;
}

// --- the configuration space, counted from the beginning of the registers (cloud-hypervisor before 2026)

test('a piece of the configuration space at 0x100 is the one at 0, and answered by the offset it was asked by', async () => {
  const { talk } = await open();
  const { frontend, device } = talk;
  for (const [offset, size, expected] of [
    [0x100, 4, [1, 2, 3, 4]],
    [0x107, 3, [8, 9, 10]],
    [0x112, 4, [19, 20, 0, 0]],
    [0x115, 4, null],
    [0xff, 1, null],
  ] as const) {
    const asked = bytes(offset, size, 1, new Uint8Array(size));
    const { payload } = await frontend.ask(Request.getConfig, asked);
    if (expected === null) assert.is(payload.byteLength, 0);
    else assert.equal([...payload], [...bytes(offset, size, 1), ...expected]);
  }
  assert.is(await frontend.acknowledged(Request.setConfig, bytes(0x104, 1, 0, Uint8Array.of(9))), 0n);
  assert.is(device.space[4], 9);
  assert.is(await frontend.acknowledged(Request.setConfig, bytes(0x105, 1, 0, Uint8Array.of(9))), 1n);
  assert.is(await frontend.acknowledged(Request.setConfig, bytes(0x113, 2, 1, new Uint8Array(2))), 1n);
  await talk.close();
});

test('a space that reaches as far as that is read where it says', async () => {
  const { talk } = await open();
  talk.device.space = Uint8Array.from({ length: 0x110 }, (_, i) => i & 0xff);
  Object.assign(talk.device.config, { size: 0x110 });
  const { payload } = await talk.frontend.ask(Request.getConfig, bytes(0x102, 1, 0, new Uint8Array(1)));
  assert.is(payload[12], 2);
  talk.device.space[2] = 77;
  assert.is(
    (await talk.frontend.ask(Request.getConfig, bytes(0x102, 1, 0, new Uint8Array(1)))).payload[12],
    2,
  );
  await talk.close();
});

// --- calls through a socket, a memory table with room to spare (user mode Linux)

test('a socket takes calls, 8 bytes each, one at once', async () => {
  const { talk, guest } = await open();
  const { frontend, platform } = talk;
  const ring = RunningRing.start(talk, guest);
  const [mine, theirs] = platform.socketPair();
  assert.is(await frontend.acknowledged(Request.setVringCall, bytes(0n), [theirs]), 0n);
  platform.closeFd(theirs);
  const stream = platform.adoptSocket(mine) as SocketStream;
  const into = new Uint8Array(64);
  assert.is(stream.receive(into, []), 8, 'signalled when it came');
  ring.offer();
  await ring.used(1);
  assert.is(stream.receive(into, []), 8);
  assert.equal([...into.subarray(0, 8)], [1, 0, 0, 0, 0, 0, 0, 0]);
  stream.close();
  await talk.close();
});

test('a socket that nobody reads any more is mentioned once, and the ring goes on', async () => {
  const { talk, guest } = await open();
  const { frontend, platform } = talk;
  const ring = RunningRing.start(talk, guest);
  const [mine, theirs] = platform.socketPair();
  assert.is(await frontend.acknowledged(Request.setVringCall, bytes(0n), [theirs]), 0n);
  platform.closeFd(theirs);
  platform.closeFd(mine);
  const before = platform.openFdCount;
  for (let i = 1; i <= 3; i++) {
    ring.offer();
    await ring.used(i);
  }
  assert.is(talk.logs.filter(({ message }) => message.includes('cannot signal its call fd')).length, 1);
  assert.is(platform.openFdCount, before - 1);
  await talk.close();
});

test('kicks come by eventfd alone', async () => {
  const { talk } = await open();
  const [mine, theirs] = talk.platform.socketPair();
  assert.is(await talk.frontend.acknowledged(Request.setVringKick, bytes(0n), [theirs]), 1n);
  talk.platform.closeFd(mine);
  talk.platform.closeFd(theirs);
  await talk.close();
});

test('whole regions of zeros behind the last region of a memory table are nothing', async () => {
  const { talk, guest } = await open();
  const padded = bytes(memoryTable(guest), new Uint8Array(32));
  assert.is(await talk.frontend.acknowledged(Request.setMemTable, padded, [guest.fd]), 0n);
  const ring = RunningRing.start(talk, guest, { table: false });
  ring.offer();
  await ring.used(1);
  await talk.close();
});

const guestOf = (talk: Conversation): SharedGuest => new SharedGuest(talk.platform);
for (const [what, rest] of [
  ['half a region', () => new Uint8Array(16)],
  ['a region that is not told of', (guest: SharedGuest) => guest.region],
  ['more than a table holds', () => new Uint8Array(32 * 8)],
] as const) {
  test(`${what} behind the last region ends the session`, async () => {
    const { talk } = await open();
    const guest = guestOf(talk);
    talk.frontend.send(Request.setMemTable, bytes(memoryTable(guest), rest(guest)), { fds: [guest.fd] });
    assert.is((await talk.ended())?.code, 'ERR_VHOST_PAYLOAD');
  });
}

// --- a pause by SET_VRING_ENABLE alone (cloud-hypervisor)

test('a ring that is disabled is acknowledged when nothing is written any more', async () => {
  const { talk, guest } = await open();
  const { frontend, device } = talk;
  device.hold = true;
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  ring.offer();
  await until(() => device.held.length === 2, 'both chains are taken');
  const disabled = watched(frontend.acknowledged(Request.setVringEnable, bytes(0, 0)));
  await turns(5);
  assert.not.ok(disabled.done);
  const [first] = device.held.splice(0, 1);
  first!.queue.complete(first!.handle, 0);
  first!.queue.commit();
  await turns(5);
  assert.not.ok(disabled.done);
  device.finish();
  assert.is(await disabled.answer, 0n);
  assert.is(ring.ring.usedIndex, 2, 'told of before it is acknowledged');
  ring.offer();
  await turns(5);
  assert.is(ring.ring.usedIndex, 2);
  device.hold = false;
  frontend.send(Request.setVringEnable, bytes(0, 1));
  await ring.used(3);
  await talk.close();
});

test('a device that fails, or a front-end that leaves, ends the wait for a disabled ring', async () => {
  for (const how of ['fails', 'leaves'] as const) {
    const { talk, guest } = await open();
    const { frontend, device } = talk;
    device.hold = true;
    const ring = RunningRing.start(talk, guest);
    ring.offer();
    await until(() => device.held.length === 1, 'the chain is taken');
    if (how === 'fails') {
      const disabled = watched(frontend.acknowledged(Request.setVringEnable, bytes(0, 0)));
      await turns(5);
      device.held[0]!.queue.fail(new Error('out of order'));
      assert.is(await disabled.answer, 0n);
    } else {
      frontend.send(Request.setVringEnable, bytes(0, 0), { needReply: true });
      await turns(5);
    }
    await talk.close();
    device.finish();
  }
});

// --- rings that are only disabled before they are described anew (user mode Linux, cloud-hypervisor until 2022)

/** Describes ring 0 anew, as a driver makes it at another place. */
function describe(talk: Conversation, guest: SharedGuest, size: number, kick: number): void {
  const areas = { descriptorAddress: 0x8000, driverAddress: 0x9000, deviceAddress: 0xa000 };
  talk.frontend.send(Request.setVringNum, bytes(0, size));
  talk.frontend.send(Request.setVringBase, bytes(0, 0));
  talk.frontend.send(Request.setVringAddr, vringAddress(0, areas));
  talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [kick] });
  talk.frontend.send(Request.setVringEnable, bytes(0, 1));
  const descriptor = guest.view(0x8000, 16);
  descriptor.setBigUint64(0, 0x2_0000n, true);
  descriptor.setUint32(8, 64, true);
  descriptor.setUint16(12, WRITE, true);
  guest.view(0x9000, 4).setUint16(2, 1, true);
}

test('a disabled ring is described anew, and stops for it', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  for (let i = 1; i <= 5; i++) {
    ring.offer();
    await ring.used(i);
  }
  talk.frontend.send(Request.setVringEnable, bytes(0, 0));
  describe(talk, guest, 32, ring.kick.fd);
  await until(() => guest.view(0xa000, 4).getUint16(2, true) === 1, 'the new ring is served');
  assert.equal(
    talk.device.events.filter((event) => event.endsWith(' 0')),
    ['start 0', 'stop 0', 'start 0'],
  );
  assert.is(ring.ring.usedIndex, 5);
  await talk.close();
});

test('features change while every ring is disabled: the rings stop', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  const other = RunningRing.start(talk, guest, { index: 1, table: false });
  ring.offer();
  await ring.used(1);
  talk.frontend.send(Request.setVringEnable, bytes(0, 0));
  assert.is(
    await talk.frontend.acknowledged(Request.setFeatures, bytes(SPLIT | RING_PACKED)),
    1n,
    'ring 1 is enabled',
  );
  talk.frontend.send(Request.setVringEnable, bytes(1, 0));
  assert.is(await talk.frontend.acknowledged(Request.setFeatures, bytes(SPLIT | RING_PACKED)), 0n);
  assert.not.ok(talk.session.running);
  assert.is(await talk.frontend.acknowledged(Request.setFeatures, bytes(SPLIT)), 0n);
  describe(talk, guest, 16, ring.kick.fd);
  await until(() => guest.view(0xa000, 4).getUint16(2, true) === 1, 'the new ring is served');
  other.close();
  await talk.close();
});

test('an enabled ring that runs is described by nobody', async () => {
  const { talk, guest } = await open();
  RunningRing.start(talk, guest);
  assert.is(await talk.frontend.acknowledged(Request.setVringNum, bytes(0, 32)), 1n);
  assert.is(await talk.frontend.acknowledged(Request.setVringBase, bytes(0, 3)), 1n);
  await talk.close();
});

test('a front-end that leaves while a disabled ring is being stopped leaves nothing behind', async () => {
  const { talk, guest } = await open();
  const { frontend, device, platform } = talk;
  device.hold = true;
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await until(() => device.held.length === 1, 'the chain is taken');
  // Not waited for, since a connection that reads no answer waits for none.
  frontend.send(Request.setVringEnable, bytes(0, 0));
  frontend.send(Request.setFeatures, bytes(SPLIT | RING_PACKED));
  await turns(5);
  await talk.close();
  device.finish();
  ring.close();
  guest.close();
  await turns(5);
  assert.equal([platform.openFdCount, platform.mappingCount], [0, 0]);
});

test('in-flight memory that comes right before the front-end leaves is let go of', async () => {
  const { talk, guest } = await open();
  guest.close();
  const { frontend, platform } = talk;
  const wanted = Buffer.alloc(24);
  wanted.writeUInt16LE(1, 16);
  wanted.writeUInt16LE(16, 18);
  const { payload, fds } = await frontend.ask(Request.getInflightFd, wanted);
  frontend.send(Request.setInflightFd, payload, { fds });
  for (const fd of fds) platform.closeFd(fd);
  frontend.close();
  await talk.ended();
  talk.backend.close();
  await turns(5);
  assert.equal([platform.openFdCount, platform.mappingCount], [0, 0]);
});

// --- the base of a split ring (cloud-hypervisor, Firecracker, StratoVirt: what the driver has made available)

for (const tracked of [false, true]) {
  test(`buffers offered before the ring started are used, whatever its base${tracked ? '; with a fresh region' : ''}`, async () => {
    const { talk, guest } = await open();
    if (tracked) {
      const wanted = Buffer.alloc(24);
      wanted.writeUInt16LE(1, 16);
      wanted.writeUInt16LE(16, 18);
      const { payload, fds } = await talk.frontend.ask(Request.getInflightFd, wanted);
      assert.is(await talk.frontend.acknowledged(Request.setInflightFd, payload, fds), 0n);
      for (const fd of fds) talk.platform.closeFd(fd);
    }
    const ring = RunningRing.start(talk, guest, { base: 3, enable: false });
    for (let i = 0; i < 3; i++) ring.offer();
    talk.frontend.send(Request.setVringEnable, bytes(0, 1));
    await ring.used(3);
    assert.equal(
      [0, 1, 2].map((i) => ring.answer(i)),
      [0x41, 0x42, 0x43],
    );
    await talk.close();
  });
}

// --- a front-end that comes back without negotiating protocol features (StratoVirt)

test('in-flight memory is taken from a front-end that has not negotiated protocol features', async () => {
  const first = await open();
  const wanted = Buffer.alloc(24);
  wanted.writeUInt16LE(1, 16);
  wanted.writeUInt16LE(16, 18);
  const { payload, fds } = await first.talk.frontend.ask(Request.getInflightFd, wanted);
  const { platform } = first.talk;
  const talk = Conversation.open({ platform });
  const guest = new SharedGuest(platform);
  talk.frontend.send(Request.setOwner);
  talk.frontend.send(Request.setFeatures, bytes(SPLIT));
  talk.frontend.send(Request.setInflightFd, payload, { fds });
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  await talk.close();
  await first.talk.close();
});

test('it is refused from one that has negotiated others', async () => {
  const talk = Conversation.open();
  await talk.negotiate(SPLIT, Protocol.mq | Protocol.replyAck);
  talk.frontend.send(Request.getInflightFd, new Uint8Array(24), { needReply: true });
  assert.is((await talk.frontend.receive())?.payload.byteLength, 8);
  await talk.close();
});

// --- the configuration before anything else (libvhost, a client library for SPDK)

test('the configuration is read before anything is negotiated', async () => {
  const talk = Conversation.open();
  const { payload } = await talk.frontend.ask(Request.getConfig, bytes(0, 256, 0, new Uint8Array(256)));
  assert.equal([...payload.subarray(12, 16)], [1, 2, 3, 4]);
  await talk.negotiate(SPLIT, Protocol.mq);
  const refused = await talk.frontend.ask(Request.getConfig, bytes(0, 4, 0, new Uint8Array(4)));
  assert.is(refused.payload.byteLength, 0, 'negotiated without it');
  await talk.close();
});

// --- SET_VRING_ENABLE without bit 30 (DPDK's virtio-user of 2018)

test('rings are enabled and disabled without bit 30 and without protocol features; a stop is a RESET_OWNER', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  const { frontend } = talk;
  frontend.send(Request.setOwner);
  frontend.send(Request.setFeatures, bytes(VERSION_1));
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  frontend.send(Request.setVringEnable, bytes(0, 0));
  await frontend.ask(Request.getFeatures);
  ring.offer();
  await turns(5);
  assert.is(ring.ring.usedIndex, 1);
  frontend.send(Request.resetOwner);
  frontend.send(Request.setOwner);
  frontend.send(Request.setFeatures, bytes(VERSION_1));
  describe(talk, guest, 16, ring.kick.fd);
  await until(() => guest.view(0xa000, 4).getUint16(2, true) === 1, 'the new ring is served');
  await talk.close();
});

test.run();
