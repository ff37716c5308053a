import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SocketStream } from '../../runtime/platform/platform.js';
import { Conversation, RunningRing, SharedGuest } from '../support/conversation.js';
import { bytes, Protocol, RawFrontend, Request, turns, until, u64Of } from '../support/raw-frontend.js';

const test = suite('configuration space and back-end channel');

/** The payload of GET_CONFIG and SET_CONFIG. */
function piece(offset: number, content: Uint8Array | number, flags = 0): Uint8Array {
  const body = typeof content === 'number' ? new Uint8Array(content) : content;
  return bytes(offset, body.byteLength, flags, body);
}

async function open(protocol?: bigint): Promise<Conversation> {
  const talk = Conversation.open();
  await talk.negotiate(undefined, protocol);
  return talk;
}

async function read(talk: Conversation, offset: number, size: number): Promise<number[] | null> {
  const { payload } = await talk.frontend.ask(Request.getConfig, piece(offset, size));
  if (payload.byteLength === 0) return null;
  assert.equal([...payload.subarray(0, 8)], [...bytes(offset, size)]);
  return [...payload.subarray(12)];
}

test('any piece inside is answered with its bytes, from its offset', async () => {
  const talk = await open();
  assert.equal(await read(talk, 0, 4), [1, 2, 3, 4]);
  assert.equal(await read(talk, 7, 3), [8, 9, 10], 'trap 6: the offset counts');
  assert.equal(await read(talk, 19, 1), [20]);
  assert.equal(await read(talk, 3, 0), []);
  await talk.close();
});

test('peers 4: 256 bytes are answered, zero padded', async () => {
  const talk = await open();
  const all = await read(talk, 0, 256);
  assert.is(all!.length, 256);
  assert.equal(all!.slice(0, 21), [...Array.from({ length: 20 }, (_, i) => i + 1), 0]);
  assert.equal(await read(talk, 18, 4), [19, 20, 0, 0]);
  await talk.close();
});

test('what cannot be answered gets an empty payload, and the session goes on', async () => {
  const talk = await open();
  assert.is(await read(talk, 21, 4), null);
  assert.is(await read(talk, 0xffff_ffff, 4), null);
  assert.equal(await read(talk, 0, 1), [1]);
  await talk.close();
});

test('the driver writes writable fields; others are refused, except to a migration', async () => {
  const talk = await open();
  const { frontend, device } = talk;
  assert.is(await frontend.acknowledged(Request.setConfig, piece(4, Uint8Array.of(9))), 0n);
  assert.is(device.space[4], 9);
  assert.is(await frontend.acknowledged(Request.setConfig, piece(5, Uint8Array.of(9))), 1n);
  assert.is(device.space[5], 6);
  assert.is(await frontend.acknowledged(Request.setConfig, piece(5, Uint8Array.of(9), 1)), 0n);
  assert.is(device.space[5], 9);
  assert.is(
    await frontend.acknowledged(Request.setConfig, piece(18, new Uint8Array(3), 1)),
    1n,
    'beyond the space',
  );
  assert.is(await frontend.acknowledged(Request.setConfig, piece(0xffff_fffc, new Uint8Array(4), 1)), 1n);
  await talk.close();
});

test('a piece whose size does not match its bytes ends the session', async () => {
  const talk = await open();
  talk.frontend.send(Request.getConfig, bytes(0, 5, 0, 0));
  assert.is((await talk.frontend.receive())!.payload.byteLength, 0);
  assert.is((await talk.ended())?.code, 'ERR_VHOST_PAYLOAD');
});

/** Opens the back-end channel; what comes out of it. */
function channel(talk: Conversation): RawFrontend {
  const [mine, theirs] = talk.platform.socketPair();
  talk.frontend.send(Request.setBackendReqFd, bytes(), { fds: [theirs] });
  talk.platform.closeFd(theirs);
  return new RawFrontend(talk.platform, talk.platform.adoptSocket(mine) as SocketStream);
}

test('a configuration change is told while a ring runs, and asks for an acknowledgement with REPLY_ACK', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  const back = channel(talk);
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  talk.device.host!.configurationChanged();
  const message = (await back.receive())!;
  assert.equal([message.request, message.flags, message.payload.byteLength], [2, 9, 0]);
  // Two more while the first is unanswered are one.
  talk.device.host!.configurationChanged();
  talk.device.host!.configurationChanged();
  await turns(5);
  assert.is(back.stream.receive(new Uint8Array(1), []), -1);
  back.send(2, bytes(0n), { flags: 5 });
  assert.is((await back.receive())!.request, 2);
  back.send(2, bytes(7n), { flags: 5 });
  await until(() => talk.logs.some(({ message }) => message.includes('answered 7')), 'the refusal is logged');
  back.close();
  await talk.close();
});

test('without REPLY_ACK no acknowledgement is asked for', async () => {
  const talk = await open(Protocol.config | Protocol.backendReq);
  const guest = new SharedGuest(talk.platform);
  const back = channel(talk);
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  talk.device.host!.configurationChanged();
  talk.device.host!.configurationChanged();
  assert.is((await back.receive())!.flags, 1);
  assert.is((await back.receive())!.flags, 1);
  back.close();
  await talk.close();
});

test('a change while every ring is stopped is told when one starts', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  await talk.frontend.ask(Request.getStatus);
  talk.device.host!.configurationChanged();
  const back = channel(talk);
  await turns(10);
  assert.is(back.stream.receive(new Uint8Array(1), []), -1);
  RunningRing.start(talk, guest);
  assert.is((await back.receive())!.request, 2);
  back.close();
  await talk.close();
});

test('a second channel replaces the first, whose socket is closed', async () => {
  const talk = await open();
  const first = channel(talk);
  const second = channel(talk);
  assert.ok(await first.hungUp());
  second.close();
  await until(
    () => talk.logs.some(({ message }) => message.includes('closed the back-end request channel')),
    'noticed',
  );
  assert.is(u64Of(await talk.frontend.ask(Request.getQueueNum)), 4n, 'the session goes on');
  await talk.close();
  first.close();
  assert.is(talk.platform.openFdCount, 0);
});

test('rubbish on the channel closes it and nothing else', async () => {
  const talk = await open();
  const back = channel(talk);
  back.send(2, bytes(0n), { flags: 5 });
  await until(() => talk.logs.some(({ message }) => message.includes('which was not sent')), 'noticed');
  assert.ok(await back.hungUp());
  assert.is(await talk.frontend.acknowledged(Request.setOwner), 0n);
  await talk.close();
});

test('a channel that is no socket, or a listening one, is refused and closed', async () => {
  const talk = await open();
  const { platform, frontend } = talk;
  const event = frontend.eventFd();
  const listening = platform.createListeningFd('/run/other.sock');
  const before = platform.openFdCount;
  assert.is(await frontend.acknowledged(Request.setBackendReqFd, bytes(), [event.fd]), 1n);
  assert.is(await frontend.acknowledged(Request.setBackendReqFd, bytes(), [listening]), 1n);
  assert.is(platform.openFdCount, before);
  await talk.close();
});

test('requests of features that are not offered are refused', async () => {
  const talk = await open();
  const iotlb = new Uint8Array(32);
  iotlb[25] = 2;
  for (const [request, payload] of [
    [Request.sendRarp, new Uint8Array(8)],
    [Request.netSetMtu, bytes(1500n)],
    [Request.iotlbMsg, iotlb],
    [Request.getInflightFd, new Uint8Array(24)],
    [Request.setLogBase, new Uint8Array(16)],
  ] as const) {
    assert.is(await talk.frontend.acknowledged(request, payload), 1n, `request ${request}`);
  }
  await talk.close();
});

test.run();
