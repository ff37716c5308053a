import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VhostError } from '../../runtime/errors.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import type { SocketStream } from '../../runtime/platform/platform.js';
import { BackendChannel, UNANSWERED_REQUESTS } from '../../runtime/vhost-user/backend/backend-channel.js';
import { Notice } from '../../runtime/vhost-user/notice.js';
import { NegotiatedFeatures } from '../../runtime/vhost-user/negotiated-features.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { bytes, encodeMessage, RawFrontend, turn, turns, until } from '../support/raw-frontend.js';

const test = suite('the back-end’s own requests');

const PROTOCOL =
  ProtocolFeature.replyAck |
  ProtocolFeature.backendReq |
  ProtocolFeature.backendSendFd |
  ProtocolFeature.config |
  ProtocolFeature.hostNotifier |
  ProtocolFeature.sharedObject |
  ProtocolFeature.shmem;

function open(protocol = PROTOCOL) {
  const platform = createFakePlatform();
  const features = new NegotiatedFeatures(0n, protocol);
  features.acceptProtocol(protocol);
  const [mine, theirs] = platform.socketPair();
  const ends: VhostError[] = [];
  const channel = new BackendChannel({
    platform,
    stream: platform.adoptSocket(mine) as SocketStream,
    maxPayload: 4096,
    features,
    onEnd: (reason) => ends.push(reason),
  });
  const front = new RawFrontend(platform, platform.adoptSocket(theirs) as SocketStream);
  return { platform, channel, front, ends };
}

async function code(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as VhostError).code;
  }
  return 'resolved';
}

const UUID = Uint8Array.from({ length: 16 }, (_, i) => i + 1);

test('several requests are under way at once, and answered in their order', async () => {
  const { platform, channel, front } = open();
  const first = channel.request('backendConfigChangeMsg', undefined);
  const second = channel.request('backendSharedObjectAdd', { uuid: UUID });
  const seen = [await front.receive(), await front.receive()];
  assert.equal(
    seen.map((message) => [message!.request, message!.flags]),
    [
      [2, 9],
      [6, 9],
    ],
  );
  assert.equal([...seen[1]!.payload], [...UUID]);
  assert.is(channel.unanswered, 2);
  front.send(2, bytes(0n), { flags: 5 });
  await first;
  front.send(6, bytes(22n), { flags: 5 });
  assert.is(await code(second), 'ERR_VHOST_REFUSED');
  assert.is(channel.closed, false, 'a refusal is an answer');
  channel.close();
  front.close();
  assert.is(platform.openFdCount, 0);
});

test('without REPLY_ACK a request is done when it is sent; one with a reply of its own waits for it', async () => {
  const { channel, front } = open(PROTOCOL & ~ProtocolFeature.replyAck);
  await channel.request('backendConfigChangeMsg', undefined);
  assert.is((await front.receive())!.flags, 1);
  const lookup = channel.request('backendSharedObjectLookup', { uuid: UUID });
  await turn();
  assert.is(channel.unanswered, 1);
  front.send(8, bytes(0n), { flags: 5 });
  assert.is(await lookup, 0n);
  channel.close();
  front.close();
});

test('fds go with a request and come with a reply; nobody’s are closed', async () => {
  const { platform, channel, front } = open();
  const fd = platform.createSharedMemory('object', 4096n);
  const map = { shmid: 0, fdOffset: 0n, shmOffset: 0n, length: 4096n, flags: 0n };
  const mapped = channel.request('backendShmemMap', map, { fds: [fd] });
  const message = (await front.receive())!;
  assert.is(message.fds.length, 1);
  platform.closeFd(message.fds[0]!);
  front.send(9, bytes(0n), { flags: 5 });
  await mapped;

  const replyFds: number[] = [];
  const lookups = [
    channel.request('backendSharedObjectLookup', { uuid: UUID }, { replyFds }),
    channel.request('backendSharedObjectLookup', { uuid: UUID }),
  ];
  front.send(8, bytes(0n), { flags: 5, fds: [fd] });
  front.send(8, bytes(0n), { flags: 5, fds: [fd] });
  await Promise.all(lookups);
  assert.is(replyFds.length, 1);
  for (const open of [fd, ...replyFds]) platform.closeFd(open);
  channel.close();
  front.close();
  assert.is(platform.openFdCount, 0);
});

test('what may not be sent is not: closed gate, wrong number of fds', async () => {
  const { platform, channel, front } = open();
  const map = { shmid: 0, fdOffset: 0n, shmOffset: 0n, length: 4096n, flags: 0n };
  assert.is(await code(channel.request('backendShmemMap', map)), 'ERR_VHOST_FDS');
  assert.is(await code(channel.request('backendVringCall', { index: 0, num: 0 })), 'ERR_VHOST_GATE');
  assert.is(front.stream.receive(new Uint8Array(1), []), -1);
  channel.close();
  front.close();
  assert.is(platform.openFdCount, 0);
});

for (const [what, reply, fds, expected] of [
  ['to another request', encodeMessage(9, bytes(0n), 5), 0, 'ERR_VHOST_REPLY'],
  ['with NEED_REPLY', encodeMessage(2, bytes(0n), 0xd), 0, 'ERR_VHOST_REPLY'],
  ['that is a request', encodeMessage(2, bytes(0n), 1), 0, 'ERR_VHOST_HEADER'],
  ['of version 2', encodeMessage(2, bytes(0n), 6), 0, 'ERR_VHOST_HEADER'],
  ['of four bytes', encodeMessage(2, bytes(0), 5), 0, 'ERR_VHOST_REPLY'],
  ['without a payload', encodeMessage(2, bytes(), 5), 0, 'ERR_VHOST_REPLY'],
  ['too long to be read', bytes(2, 5, 0x8000_0000), 0, 'ERR_VHOST_HEADER'],
  ['with an fd where none belongs', encodeMessage(2, bytes(0n), 5), 1, 'ERR_VHOST_REPLY'],
  ['with more fds than any message has', encodeMessage(2, bytes(0n), 5), 65, 'ERR_VHOST_FDS'],
] as const) {
  test(`an answer ${what} ends the channel, and everything that waits fails`, async () => {
    const { platform, channel, front, ends } = open();
    const waiting = [
      channel.request('backendConfigChangeMsg', undefined),
      channel.request('backendSharedObjectAdd', { uuid: UUID }),
    ];
    const codes = Promise.all(waiting.map(code));
    const fd = platform.createEventFd();
    front.sendBytes(reply, Array<number>(fds).fill(fd));
    platform.closeFd(fd);
    await until(() => ends.length > 0, 'the channel ends');
    assert.is(ends[0]!.code, expected);
    assert.equal(await codes, [expected, expected]);
    assert.is(await code(channel.request('backendConfigChangeMsg', undefined)), expected);
    front.close();
    assert.is(platform.openFdCount, 0);
  });
}

test('an answer that nobody waits for ends the channel', async () => {
  const { front, ends } = open();
  front.send(2, bytes(0n), { flags: 5 });
  await until(() => ends.length > 0, 'the channel ends');
  assert.is(ends[0]!.code, 'ERR_VHOST_REPLY');
  front.close();
});

test('a front-end that closes the channel, in an answer too, fails everything that waits', async () => {
  for (const part of [bytes(), bytes(2, 5)]) {
    const { platform, channel, front, ends } = open();
    const waiting = code(channel.request('backendConfigChangeMsg', undefined));
    front.sendBytes(part);
    front.close();
    assert.is(await waiting, 'ERR_VHOST_DISCONNECTED');
    assert.is(ends.length, 1);
    assert.is(platform.openFdCount, 0);
  }
});

test('a front-end that never answers gets a bounded number of requests, and their fds go with the channel', async () => {
  const { platform, channel, front } = open();
  const fd = platform.createSharedMemory('file', 4096n);
  const map = { shmid: 0, fdOffset: 0n, shmOffset: 0n, length: 4096n, flags: 0n };
  const waiting = Array.from({ length: UNANSWERED_REQUESTS }, () =>
    code(channel.request('backendShmemMap', map, { fds: [fd] })),
  );
  assert.is(await code(channel.request('backendShmemMap', map, { fds: [fd] })), 'ERR_VHOST_STATE');
  channel.close();
  assert.equal(new Set(await Promise.all(waiting)), new Set(['ERR_VHOST_DISCONNECTED']));
  platform.closeFd(fd);
  front.close();
  assert.is(platform.openFdCount, 0);
});

test('a notice has one message under way; what is told meanwhile is one message more', async () => {
  const answers: { resolve: () => void; reject: (error: Error) => void }[] = [];
  const refused: Error[] = [];
  let possible = false;
  const notice = new Notice(
    () =>
      possible
        ? new Promise<void>((resolve, reject) => answers.push({ resolve: () => resolve(), reject }))
        : null,
    (error) => {
      refused.push(error);
      return error.code === 'ERR_VHOST_DISCONNECTED';
    },
  );
  notice.tell();
  notice.tell();
  assert.is(answers.length, 0);
  possible = true;
  notice.retry();
  notice.retry();
  assert.is(answers.length, 1, 'two that waited are one');
  for (let i = 0; i < 1000; i++) notice.tell();
  answers[0]!.resolve();
  await turns(2);
  assert.is(answers.length, 2);
  answers[1]!.reject(new VhostError('ERR_VHOST_REFUSED', 'no'));
  await turns(2);
  assert.is(refused.length, 1);
  assert.is(answers.length, 2, 'nothing was told since');
  notice.tell();
  assert.is(answers.length, 3);
  answers[2]!.resolve();
  await turns(2);
  assert.is(answers.length, 3);
  notice.tell();
  possible = false;
  answers[3]!.reject(new VhostError('ERR_VHOST_DISCONNECTED', 'gone'));
  await turns(2);
  assert.is(answers.length, 4);
  possible = true;
  notice.retry();
  assert.is(answers.length, 5, 'what was perhaps not read is told again');
});

test.run();
