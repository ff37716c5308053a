import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { VhostError } from '../../runtime/errors.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import type { SocketStream } from '../../runtime/platform/platform.js';
import { OwnedFd } from '../../runtime/vhost-user/fd-bundle.js';
import { MessageStream, type ReceivedMessage } from '../../runtime/vhost-user/message-stream.js';
import type { MessageTrace } from '../../runtime/vhost-user/message-trace.js';
import { bytes, encodeMessage, RawFrontend, turns, until } from '../support/raw-frontend.js';

const test = suite('messages over a socket');

function open(receives: 'requests' | 'replies' = 'requests', sendCapacity = 212_992) {
  const platform = createFakePlatform({ sendCapacity });
  const [near, far] = platform.socketPair();
  const received: ReceivedMessage[] = [];
  const ends: (VhostError | null)[] = [];
  const messages = new MessageStream({
    platform,
    stream: platform.adoptSocket(near) as SocketStream,
    socket: 'main',
    receives,
    maxPayload: 64,
    onMessage: (message) => received.push(message),
    onEnd: (error) => ends.push(error),
  });
  messages.start();
  const peer = new RawFrontend(platform, platform.adoptSocket(far) as SocketStream);
  const before = platform.openFdCount;
  return { platform, messages, peer, received, ends, before };
}

test('a message is put together from single bytes', async () => {
  const { peer, received } = open();
  for (const byte of encodeMessage(7, bytes(1, 2), 1)) {
    peer.sendBytes(Uint8Array.of(byte));
    await turns(1);
  }
  await until(() => received.length === 1, 'a message');
  assert.equal(
    { ...received[0], payload: [...received[0]!.payload], fds: received[0]!.fds.count },
    {
      request: 7,
      flags: 1,
      payload: [1, 0, 0, 0, 2, 0, 0, 0],
      fds: 0,
    },
  );
});

test('several messages in one write stay apart, each with its own fds', async () => {
  const { platform, peer, received, before } = open();
  const event = platform.createEventFd();
  peer.sendBytes(bytes(encodeMessage(1, bytes(), 1), encodeMessage(2, bytes(5), 1)));
  peer.sendBytes(encodeMessage(3, bytes(6), 1), [event, event]);
  peer.sendBytes(encodeMessage(4, bytes(), 1));
  await until(() => received.length === 4, 'four messages');
  assert.equal(
    received.map(({ request, fds }) => [request, fds.count]),
    [
      [1, 0],
      [2, 0],
      [3, 2],
      [4, 0],
    ],
  );
  for (const { fds } of received) fds.close();
  platform.closeFd(event);
  assert.is(platform.openFdCount, before);
});

test('fds that come with the payload instead of the header belong to the message', async () => {
  const { platform, peer, received } = open();
  const event = platform.createEventFd();
  const message = encodeMessage(3, bytes(6, 7), 1);
  for (const split of [12, 15]) {
    peer.sendBytes(message.subarray(0, split));
    await turns(2);
    peer.sendBytes(message.subarray(split), [event]);
  }
  await until(() => received.length === 2, 'two messages');
  assert.equal(
    received.map(({ fds }) => fds.count),
    [1, 1],
  );
});

for (const [what, request, flags, size] of [
  ['version 0', 1, 0, 0],
  ['version 2', 1, 2, 0],
  ['version 3', 1, 3, 0],
  ['the REPLY flag in a request', 1, 5, 0],
  ['an unknown flag', 1, 0x11, 0],
  ['the highest flag', 1, 0x8000_0001, 0],
  ['a payload above the limit', 1, 1, 65],
  ['a payload of 2^32 - 1 bytes', 1, 1, 0xffff_ffff],
] as const) {
  test(`a header with ${what} ends the stream and closes its fds`, async () => {
    const { platform, peer, received, ends, before } = open();
    const event = platform.createEventFd();
    peer.sendBytes(bytes(request, flags, size), [event]);
    await until(() => ends.length === 1, 'the end');
    assert.is(ends[0]?.code, 'ERR_VHOST_HEADER');
    assert.match(ends[0]!.message, /request 1: expected .*, got /);
    assert.is(received.length, 0);
    platform.closeFd(event);
    assert.is(platform.openFdCount, before - 1, 'the stream is closed, and so is the fd');
  });
}

test('a request where replies are expected ends the stream', async () => {
  const { peer, ends } = open('replies');
  peer.sendBytes(encodeMessage(2, bytes(), 1));
  await until(() => ends.length === 1, 'the end');
  assert.is(ends[0]?.code, 'ERR_VHOST_HEADER');
});

test('the end between two messages has no error, the end inside one has', async () => {
  const message = encodeMessage(3, bytes(6, 7), 1);
  for (let length = 0; length <= message.byteLength; length++) {
    const { platform, peer, ends } = open();
    const event = platform.createEventFd();
    peer.sendBytes(message.subarray(0, length), [event]);
    platform.closeFd(event);
    peer.close();
    await until(() => ends.length === 1, 'the end');
    const whole = length === 0 || length === message.byteLength;
    assert.is(ends[0]?.code ?? null, whole ? null : 'ERR_VHOST_DISCONNECTED', `${length} bytes`);
    if (length < message.byteLength) assert.is(platform.openFdCount, 0, `${length} bytes`);
  }
});

test('more than 64 fds with one message end the stream', async () => {
  const { platform, peer, ends, before } = open();
  const event = platform.createEventFd();
  const message = encodeMessage(3, bytes(1, 2, 3, 4, 5, 6, 7, 8), 1);
  for (let i = 0; i < 13; i++) peer.sendBytes(message.subarray(i, i + 1), Array<number>(5).fill(event));
  await until(() => ends.length === 1, 'the end');
  assert.is(ends[0]?.code, 'ERR_VHOST_FDS');
  platform.closeFd(event);
  assert.is(platform.openFdCount, before - 1);
});

test('sent messages arrive whole and in order through a socket that takes seven bytes at a time', async () => {
  const { platform, messages, peer, before } = open('requests', 7);
  const event = platform.createEventFd();
  messages.send(1, 4, bytes(1n, 2n));
  messages.send(2, 4, bytes(3n), [new OwnedFd(platform, event)]);
  messages.send(3, 4, bytes());
  const seen: unknown[] = [];
  for (let i = 0; i < 3; i++) {
    const message = (await peer.receive())!;
    seen.push([message.request, message.flags, message.payload.byteLength, message.fds.length]);
    for (const fd of message.fds) platform.closeFd(fd);
  }
  assert.equal(seen, [
    [1, 5, 16, 0],
    [2, 5, 8, 1],
    [3, 5, 0, 0],
  ]);
  assert.is(platform.openFdCount, before, 'the fd that was sent belongs to the peer alone');
});

test('while replies wait to be fetched no further message is delivered', async () => {
  const { messages, peer, received } = open('requests', 16);
  messages.send(1, 4, bytes(1n, 2n, 3n));
  peer.sendBytes(encodeMessage(9, bytes(), 1));
  await turns(10);
  assert.is(received.length, 0);
  await peer.receive();
  await until(() => received.length === 1, 'the message');
});

test('a paused stream reads ahead only so far and still notices the end', async () => {
  const { messages, peer, received, ends } = open();
  messages.pause();
  for (let i = 0; i < 5; i++) peer.sendBytes(encodeMessage(i, bytes(), 1));
  await turns(10);
  assert.is(received.length, 0);
  messages.resume();
  assert.is(received.length, 5);
  messages.pause();
  peer.sendBytes(encodeMessage(5, bytes(), 1));
  peer.close();
  await until(() => ends.length === 1, 'the end');
  assert.is(received.length, 5, 'nobody is there to answer');
});

test('a paused stream notices the end behind more messages than it reads ahead', async () => {
  const { platform, messages, peer, received, ends } = open();
  messages.pause();
  const event = platform.createEventFd();
  for (let i = 0; i < 30; i++) peer.sendBytes(encodeMessage(i, bytes(), 1), [event]);
  platform.closeFd(event);
  await turns(10);
  assert.is(ends.length, 0);
  peer.close();
  await until(() => ends.length === 1, 'the end');
  assert.is(ends[0]!.code, 'ERR_VHOST_DISCONNECTED');
  assert.is(received.length, 0);
  assert.is(platform.openFdCount, 0);
});

test('sending to a peer that left ends the stream and closes the fds that were to be sent', async () => {
  const { platform, messages, peer, ends } = open('requests', 4);
  messages.pause();
  messages.send(1, 4, bytes(1n));
  messages.send(2, 4, bytes(1n), [new OwnedFd(platform, platform.createEventFd())]);
  peer.close();
  await until(() => ends.length === 1, 'the end');
  assert.is(platform.openFdCount, 0);
});

test('a failing system call ends the stream with its cause', async () => {
  const { platform, peer, ends } = open();
  platform.failNext('recvmsg', 'EIO');
  peer.sendBytes(Uint8Array.of(1));
  await until(() => ends.length === 1, 'the end');
  assert.is(ends[0]?.code, 'ERR_VHOST_DISCONNECTED');
  assert.is((ends[0]!.cause as { errno: string }).errno, 'EIO');
});

test('every message in and out is published on vhost-user:message while somebody listens', async () => {
  const { messages, peer, received } = open();
  const traces: MessageTrace[] = [];
  const listen = (trace: unknown): unknown => traces.push(trace as MessageTrace);
  subscribe('vhost-user:message', listen);
  peer.sendBytes(encodeMessage(7, bytes(9), 9));
  await until(() => received.length === 1, 'a message');
  messages.send(7, 4, bytes(0n));
  unsubscribe('vhost-user:message', listen);
  messages.send(7, 4, bytes(0n));
  assert.equal(
    traces.map(({ direction, socket, request, flags, payload }) => [
      direction,
      socket,
      request,
      flags,
      payload.length,
    ]),
    [
      ['in', 'main', 7, 9, 4],
      ['out', 'main', 7, 5, 8],
    ],
  );
  assert.is(traces[0]!.connection, traces[1]!.connection);
});

test.run();
