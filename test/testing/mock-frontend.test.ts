/** The mock front-end against a peer that answers by hand: what it sends, and what it makes of answers. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VhostError } from '../../runtime/errors.js';
import {
  createFakePlatform,
  type FakePlatform,
  FrontendConnection,
  GuestRam,
  MockFrontend,
  type RawMessage,
} from '../../runtime/testing/index.js';
import { encodeToBytes, u64 } from '../../runtime/wire/index.js';
import { FrontendRequestId } from '../../generated/vhost-user/frontend-requests.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../generated/virtio/features.js';

const test = suite('mock front-end');

const VERSION = 1;
const REPLY = VERSION | 4;
const NEED_REPLY = VERSION | 8;

test('a request without a reply is one message, sent with the fds it was given', async () => {
  const { platform, frontend, peer } = pair();
  const fd = platform.createEventFd();
  await frontend.request('setVringKick', 3n, { fds: [fd] });
  const message = await peer.receive();
  assert.is(message.request, FrontendRequestId.setVringKick);
  assert.is(message.flags, VERSION);
  assert.equal(message.payload, encodeToBytes(u64, 3n));
  assert.is(message.fds.length, 1);
  finish(platform, frontend, peer, [fd, ...message.fds]);
});

test('a reply is decoded by the table', async () => {
  const { platform, frontend, peer } = pair();
  const asked = frontend.request('getFeatures', undefined);
  const message = await peer.receive();
  assert.is(message.payload.byteLength, 0);
  await peer.send(message.request, REPLY, encodeToBytes(u64, 0x1_4000_0000n));
  assert.is(await asked, 0x1_4000_0000n);
  finish(platform, frontend, peer);
});

test('a wrong reply is refused: other id, other flags, other size, fds that nobody asked for', async () => {
  const wrongs: [string, (peer: FrontendConnection, platform: FakePlatform) => Promise<void>][] = [
    ['id', (peer) => peer.send(2, REPLY, encodeToBytes(u64, 0n))],
    ['flags', (peer) => peer.send(1, VERSION, encodeToBytes(u64, 0n))],
    ['NEED_REPLY in the reply', (peer) => peer.send(1, REPLY | 8, encodeToBytes(u64, 0n))],
    ['short', (peer) => peer.send(1, REPLY, new Uint8Array(4))],
    ['long', (peer) => peer.send(1, REPLY, new Uint8Array(12))],
    [
      'fd',
      async (peer, platform) => {
        const fd = platform.createEventFd();
        await peer.send(1, REPLY, encodeToBytes(u64, 0n), [fd]);
        platform.closeFd(fd);
      },
    ],
  ];
  for (const [name, answer] of wrongs) {
    const { platform, frontend, peer } = pair();
    const asked = failure(frontend.request('getFeatures', undefined));
    await peer.receive();
    await answer(peer, platform);
    const error = await asked;
    assert.is(error.code, 'ERR_VHOST_REPLY', name);
    assert.is(error.request, 'VHOST_USER_GET_FEATURES');
    finish(platform, frontend, peer);
  }
});

test('negotiation goes in the order of QEMU, accepts what both know, and asks for acknowledgements after it', async () => {
  const { platform, frontend, peer } = pair();
  const call = platform.createEventFd();
  const offered =
    VirtioFeature.version1 | VirtioFeature.ringPacked | VirtioFeature.vhostUserProtocolFeatures | 0x60n;
  const protocol = ProtocolFeature.mq | ProtocolFeature.replyAck | ProtocolFeature.xenMmap;
  const answers: Record<number, bigint> = {
    [FrontendRequestId.getFeatures]: offered,
    [FrontendRequestId.getProtocolFeatures]: protocol,
    [FrontendRequestId.getQueueNum]: 2n,
  };
  const seen: string[] = [];
  const served = serve(peer, 8, async (message) => {
    seen.push(`${nameOf(message.request)}${message.flags === NEED_REPLY ? '!' : ''}`);
    for (const fd of message.fds) platform.closeFd(fd);
    const answer = answers[message.request] ?? (message.flags === NEED_REPLY ? 0n : null);
    if (answer !== null) await peer.send(message.request, REPLY, encodeToBytes(u64, answer));
  });
  const features = VirtioFeature.version1 | VirtioFeature.eventIdx | 0x20n;
  const negotiated = await frontend.negotiate({ features, earlyCallFds: [call, call, call] });
  await served;
  assert.equal(seen, [
    'getFeatures',
    'getProtocolFeatures',
    'setProtocolFeatures',
    'getQueueNum',
    'setOwner!',
    'setVringCall!',
    'setVringCall!',
    'setFeatures!',
  ]);
  assert.equal(negotiated, {
    offered,
    features: VirtioFeature.version1 | VirtioFeature.vhostUserProtocolFeatures | 0x20n,
    offeredProtocol: protocol,
    protocol: ProtocolFeature.mq | ProtocolFeature.replyAck,
    queueCount: 2,
  });
  finish(platform, frontend, peer, [call]);
});

test('a non-zero acknowledgement is a refusal that names the request', async () => {
  const { platform, frontend, peer } = pair();
  await acknowledgeable(frontend, peer);
  const asked = failure(frontend.request('setVringNum', { index: 0, num: 3 }));
  const message = await peer.receive();
  assert.is(message.flags, NEED_REPLY);
  await peer.send(message.request, REPLY, encodeToBytes(u64, 1n));
  const error = await asked;
  assert.is(error.code, 'ERR_VHOST_REFUSED');
  assert.match(error.message, /VHOST_USER_SET_VRING_NUM: the back-end answered 1/);
  finish(platform, frontend, peer);
});

test('a back-end that hangs up fails every wait, with the request that waited', async () => {
  const { platform, frontend, peer } = pair();
  const asked = [
    failure(frontend.request('getFeatures', undefined)),
    failure(frontend.request('getQueueNum', undefined)),
  ];
  await peer.receive();
  peer.close();
  const errors = await Promise.all(asked);
  assert.equal(
    errors.map((error) => [error.code, error.request]),
    [
      ['ERR_VHOST_DISCONNECTED', 'VHOST_USER_GET_FEATURES'],
      ['ERR_VHOST_DISCONNECTED', 'VHOST_USER_GET_QUEUE_NUM'],
    ],
  );
  assert.is((await frontend.ended).code, 'ERR_VHOST_DISCONNECTED');
  assert.is((await failure(frontend.request('setOwner', undefined))).code, 'ERR_VHOST_DISCONNECTED');
  finish(platform, frontend, peer);
});

test('an aborted wait rejects with the signal’s reason and ends the connection', async () => {
  const { platform, frontend, peer } = pair();
  const abort = new AbortController();
  const asked = frontend
    .request('getFeatures', undefined, { signal: abort.signal })
    .catch((error: unknown) => error);
  await peer.receive();
  const reason = new Error('enough');
  abort.abort(reason);
  assert.is(await asked, reason);
  assert.is((await frontend.ended).code, 'ERR_VHOST_REPLY');
  finish(platform, frontend, peer);
});

test('memory goes as one table with its fds, or slot by slot where that is negotiated', async () => {
  for (const slots of [false, true]) {
    const { platform, frontend, peer } = pair();
    await acknowledgeable(frontend, peer, slots ? ProtocolFeature.configureMemSlots : 0n);
    const ram = new GuestRam(platform, { regions: 3 });
    const shared = frontend.shareMemory(ram);
    const messages: [string, number, number][] = [];
    await serve(peer, slots ? 3 : 1, async (message) => {
      messages.push([nameOf(message.request), message.payload.byteLength, message.fds.length]);
      for (const fd of message.fds) platform.closeFd(fd);
      await peer.send(message.request, REPLY, encodeToBytes(u64, 0n));
    });
    await shared;
    assert.equal(messages, slots ? Array(3).fill(['addMemReg', 40, 1]) : [['setMemTable', 8 + 3 * 32, 3]]);
    ram[Symbol.dispose]();
    finish(platform, frontend, peer);
  }
});

test('bytes that are no message at all can be sent as well', async () => {
  const { platform, frontend, peer } = pair();
  await frontend.connection.sendBytes(new Uint8Array([1, 0, 0]));
  await frontend.connection.sendBytes(new Uint8Array([0, 0xff, 0, 0, 0, 2, 0, 0, 0, 8, 9]));
  const message = await peer.receive();
  assert.is(message.flags, 0xff);
  assert.equal([...message.payload], [8, 9]);
  finish(platform, frontend, peer);
});

/** A front-end, and the other end of its socket. */
function pair(): { platform: FakePlatform; frontend: MockFrontend; peer: FrontendConnection } {
  const platform = createFakePlatform();
  const ends = platform.socketPair().map((fd) => {
    const stream = platform.adoptSocket(fd);
    if (stream.kind !== 'stream') throw new Error('not a stream');
    return stream;
  });
  return {
    platform,
    frontend: new MockFrontend(platform, ends[0]!),
    peer: new FrontendConnection(platform, ends[1]!),
  };
}

/** Handles the next `count` messages. */
async function serve(
  peer: FrontendConnection,
  count: number,
  handle: (message: RawMessage) => Promise<void>,
): Promise<void> {
  for (let i = 0; i < count; i++) await handle(await peer.receive());
}

/** Negotiates REPLY_ACK and what else is given. */
async function acknowledgeable(frontend: MockFrontend, peer: FrontendConnection, more = 0n): Promise<void> {
  const protocol = ProtocolFeature.replyAck | more;
  const negotiation = frontend.negotiate({ features: VirtioFeature.version1 });
  const slots = (more & ProtocolFeature.configureMemSlots) !== 0n;
  await serve(peer, slots ? 6 : 5, async (message) => {
    const values: Record<number, bigint> = {
      [FrontendRequestId.getMaxMemSlots]: 8n,
      [FrontendRequestId.getFeatures]: VirtioFeature.version1 | VirtioFeature.vhostUserProtocolFeatures,
      [FrontendRequestId.getProtocolFeatures]: protocol,
    };
    const value = values[message.request] ?? (message.flags === NEED_REPLY ? 0n : null);
    if (value !== null) await peer.send(message.request, REPLY, encodeToBytes(u64, value));
  });
  await negotiation;
}

function nameOf(id: number): string {
  return Object.entries(FrontendRequestId).find(([, value]) => value === id)?.[0] ?? `request ${id}`;
}

async function failure(promise: Promise<unknown>): Promise<VhostError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, VhostError);
    return error as VhostError;
  }
  throw new Error('it did not fail');
}

/** Ends both, and sees to it that nothing is left open. */
function finish(
  platform: FakePlatform,
  frontend: MockFrontend,
  peer: FrontendConnection,
  fds: readonly number[] = [],
): void {
  frontend.close();
  peer.close();
  for (const fd of fds) platform.closeFd(fd);
  assert.is(platform.openFdCount, 0, 'nothing stays open');
}

test.run();
