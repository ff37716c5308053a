/** A front-end's requests against a back-end that answers by hand, rightly and wrongly. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VhostError } from '../../../runtime/errors.js';
import { SharedMemory } from '../../../runtime/memory/shared-memory.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/platform/fake.js';
import { Frontend, type FrontendOptions } from '../../../runtime/vhost-user/frontend/frontend.js';
import { NegotiatedFeatures } from '../../../runtime/vhost-user/negotiated-features.js';
import { RequestChannel } from '../../../runtime/vhost-user/frontend/request-channel.js';
import type { FrontendRequestName } from '../../../generated/vhost-user/frontend-requests.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { type RawAnswer, RawBackend } from '../../support/raw-backend.js';
import { bytes, encodeMessage, PROTOCOL_FEATURES, turns, VERSION_1 } from '../../support/raw-frontend.js';

const test = suite('front-end requests');

type Answers = Partial<Record<FrontendRequestName, RawAnswer>>;

interface World {
  readonly platform: FakePlatform;
  readonly backend: RawBackend;
  readonly frontend: Frontend;
}

/** Runs `use` with a negotiated front-end, then sees to it that nothing stays open or mapped. */
async function withFrontend(
  answers: Answers,
  use: (world: World) => Promise<void>,
  options: Partial<FrontendOptions> = {},
): Promise<void> {
  const platform = createFakePlatform();
  const { backend, stream } = RawBackend.pair(platform, answers);
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const features = { supported: VirtioFeature.version1 };
  const frontend = await Frontend.attach({ platform, memory, features, stream, ...options });
  await use({ platform, backend, frontend });
  frontend.close();
  memory[Symbol.dispose]();
  await backend.untilHungUp();
  backend.close();
  assert.equal(platform.openFds, [], 'nothing stays open');
  assert.is(platform.mappingCount, 0, 'nothing stays mapped');
}

async function failure(promise: Promise<unknown>): Promise<VhostError> {
  try {
    await promise;
  } catch (error) {
    return error as VhostError;
  }
  throw new Error('it did not fail');
}

test('replies come in the order of the requests, several under way at once', async () => {
  await withFrontend(
    { getConfig: ({ payload }, backend) => backend.reply('getConfig', payload) },
    async (world) => {
      const { frontend, backend } = world;
      backend.asleep = true;
      const asked = [
        frontend.request('getQueueNum', undefined),
        frontend.readConfig(4),
        frontend.request('getFeatures', undefined),
        frontend.request('setVringNum', { index: 0, num: 8 }),
      ];
      await turns(5);
      backend.asleep = false;
      const [queues, config, offered, acknowledged] = await Promise.all(asked);
      assert.is(queues, 4n);
      assert.equal(config, new Uint8Array(4));
      assert.is(offered, VERSION_1 | PROTOCOL_FEATURES);
      assert.is(acknowledged, undefined);
    },
  );
});

test('REPLY_ACK is used wherever the peer has it, and nowhere else', async () => {
  const usual = { getProtocolFeatures: bytes(ProtocolFeature.mq) };
  await withFrontend(usual, async ({ frontend, backend }) => {
    await frontend.request('setVringNum', { index: 0, num: 8 });
    assert.not(backend.names.some((name) => name.endsWith('!')));
  });
  await withFrontend({}, async ({ frontend, backend }) => {
    await frontend.request('setVringNum', { index: 0, num: 8 });
    assert.equal(backend.names.slice(-3), ['setFeatures!', 'setMemTable!', 'setVringNum!']);
    // What has a reply of its own is not asked for another.
    assert.ok(backend.names.includes('getQueueNum'));
  });
});

const REPLY = 'VHOST_USER_GET_QUEUE_NUM';
const wrongReplies: [string, RawAnswer][] = [
  ['another id', (_, backend) => backend.reply('getFeatures', bytes(0n))],
  ['trap 5: NEED_REPLY left in the flags', (_, backend) => backend.reply('getQueueNum', bytes(1n), [], 0xd)],
  ['no REPLY flag', (_, backend) => backend.reply('getQueueNum', bytes(1n), [], 1)],
  ['another version', (_, backend) => backend.reply('getQueueNum', bytes(1n), [], 6)],
  ['a short payload', bytes(1)],
  ['a long payload', bytes(1n, 1)],
  ['no payload', new Uint8Array(0)],
  ['a payload of 2 GiB announced', (_, backend) => backend.send(bytes(17, 5, 0x8000_0000))],
  [
    'an fd',
    (_, backend) => {
      const fd = backend.platform.createEventFd();
      backend.reply('getQueueNum', bytes(1n), [fd]);
      backend.platform.closeFd(fd);
    },
  ],
];

for (const [what, answer] of wrongReplies) {
  test(`a wrong reply ends the connection, and everything that waits fails: ${what}`, async () => {
    await withFrontend({}, async ({ frontend, backend, platform }) => {
      backend.answers.getQueueNum = answer;
      const asked = [
        failure(frontend.request('getQueueNum', undefined)),
        failure(frontend.request('setOwner', undefined)),
      ];
      const [wrong, behind] = await Promise.all(asked);
      assert.instance(wrong, VhostError);
      assert.is(wrong!.code, 'ERR_VHOST_REPLY');
      assert.is(wrong!.request, REPLY);
      assert.is(behind!.code, 'ERR_VHOST_REPLY');
      assert.is(behind!.request, 'VHOST_USER_SET_OWNER');
      assert.instance(await frontend.ended, VhostError);
      await backend.untilHungUp();
      assert.instance(await failure(frontend.request('getFeatures', undefined)), VhostError);
      backend.close();
      frontend.close();
      // Only the memory file is left.
      assert.is(platform.openFdCount, 1);
    });
  });
}

test('a reply that nobody asked for ends the connection', async () => {
  await withFrontend({}, async ({ frontend, backend }) => {
    backend.reply('getFeatures', bytes(0n));
    const reason = await frontend.ended;
    assert.is(reason.code, 'ERR_VHOST_REPLY');
    assert.match(reason.message, /none is due/);
  });
});

test('a refusal names the request, and the conversation goes on', async () => {
  await withFrontend({ setVringNum: bytes(7n), getConfig: new Uint8Array(0) }, async ({ frontend }) => {
    const refused = await failure(frontend.request('setVringNum', { index: 0, num: 3 }));
    assert.is(refused.code, 'ERR_VHOST_REFUSED');
    assert.match(refused.message, /VHOST_USER_SET_VRING_NUM: the back-end answered 7/);
    assert.is((await failure(frontend.readConfig(8))).code, 'ERR_VHOST_REFUSED', 'an empty GET_CONFIG');
    assert.is(await frontend.request('getQueueNum', undefined), 4n);
  });
});

test('a back-end that never answers is left by the signal, and its connection closed', async () => {
  await withFrontend({}, async ({ frontend, backend }) => {
    backend.answers.getQueueNum = backend.answers.setOwner = null;
    const abort = new AbortController();
    const asked = failure(frontend.request('getQueueNum', undefined, { signal: abort.signal }));
    const behind = failure(frontend.request('setOwner', undefined));
    await turns(20);
    const reason = new Error('patience is over');
    abort.abort(reason);
    assert.is(await asked, reason as VhostError);
    assert.is((await behind).request, 'VHOST_USER_SET_OWNER');
    assert.is((await frontend.ended).code, 'ERR_VHOST_REPLY');
  });
});

test('a back-end that hangs up in the middle of a reply fails the request with that reason', async () => {
  await withFrontend({}, async ({ frontend, backend }) => {
    backend.answers.getQueueNum = (_, self) => {
      self.send(bytes(17, 5, 8, 1));
      self.close();
    };
    const error = await failure(frontend.request('getQueueNum', undefined));
    assert.is(error.code, 'ERR_VHOST_DISCONNECTED');
    assert.match(error.message, /hung up after 4 of 8 payload bytes/);
    backend.hungUp = true;
  });
});

test('a request whose gate is closed, or whose fds are wrong, is not sent', async () => {
  await withFrontend({}, async ({ frontend, backend, platform }) => {
    const before = backend.seen.length;
    assert.is((await failure(frontend.sendRarp(new Uint8Array(6)))).code, 'ERR_VHOST_GATE');
    assert.is((await failure(frontend.request('setVringKick', 0n))).code, 'ERR_VHOST_FDS');
    const fd = platform.createEventFd();
    assert.is((await failure(frontend.request('setOwner', undefined, { fds: [fd] }))).code, 'ERR_VHOST_FDS');
    platform.closeFd(fd);
    await turns(5);
    assert.is(backend.seen.length, before);
  });
});

for (const [what, payload] of [
  ['no payload, as DPDK', new Uint8Array(0)],
  ['a u64, as libvhost-user', bytes(0n)],
] as const) {
  test(`trap 4: SET_LOG_BASE is answered by ${what}`, async () => {
    const platform = createFakePlatform();
    const { backend, stream } = RawBackend.pair(platform, { setLogBase: payload });
    const channel = new RequestChannel(platform, stream);
    channel.features = new NegotiatedFeatures(0n, ProtocolFeature.logShmfd);
    channel.features.acceptProtocol(ProtocolFeature.logShmfd);
    const log = platform.createSharedMemory('log', 4096n);
    await channel.request('setLogBase', { size: 4096n, offset: 0n }, { fds: [log] });
    platform.closeFd(log);
    channel.close();
    await backend.untilHungUp();
    backend.close();
    assert.is(platform.openFdCount, 0);
  });
}

test('an fd in a reply is the caller’s when it asks for it, and closed when not', async () => {
  const platform = createFakePlatform();
  const answer: RawAnswer = (seen, backend) => {
    const fd = backend.platform.createEventFd();
    // libvhost-user leaves the request's payload in the reply.
    backend.reply('getSharedObject', seen.payload, [fd]);
    backend.platform.closeFd(fd);
  };
  const { backend, stream } = RawBackend.pair(platform, { getSharedObject: answer });
  const channel = new RequestChannel(platform, stream);
  channel.features = new NegotiatedFeatures(0n, ProtocolFeature.sharedObject | ProtocolFeature.backendReq);
  channel.features.acceptProtocol(ProtocolFeature.sharedObject | ProtocolFeature.backendReq);
  const ask = { uuid: Uint8Array.from({ length: 16 }, (_, i) => i) };
  const replyFds: number[] = [];
  await channel.request('getSharedObject', ask, { replyFds });
  assert.is(replyFds.length, 1);
  platform.closeFd(replyFds[0]!);
  await channel.request('getSharedObject', ask);
  channel.close();
  await backend.untilHungUp();
  backend.close();
  assert.is(platform.openFdCount, 0);
});

test('trap 6: configuration space is asked for from its start on, and cut here', async () => {
  const space = Uint8Array.from({ length: 60 }, (_, i) => i);
  const libvhostUser: RawAnswer = ({ payload }, backend) => {
    const size = new DataView(payload.buffer).getUint32(4, true);
    backend.reply('getConfig', bytes(payload.slice(0, 12), space.slice(0, size)));
  };
  await withFrontend({ getConfig: libvhostUser }, async ({ frontend, backend }) => {
    assert.equal(await frontend.readConfig(4, 20), Uint8Array.of(20, 21, 22, 23));
    backend.answers.getConfig = (_, self) => self.reply('getConfig', bytes(0, 8, 0, new Uint8Array(8)));
    const error = await failure(frontend.readConfig(4, 20));
    assert.is(error.code, 'ERR_VHOST_REPLY');
    assert.match(error.message, /asked for 24 bytes of configuration space, got 8/);
  });
});

test('a peer that sends replies in pieces of one byte is understood', async () => {
  const platform = createFakePlatform({ receiveLimit: 1 });
  const { backend, stream } = RawBackend.pair(platform);
  using channel = new RequestChannel(platform, stream);
  assert.is(await channel.request('getFeatures', undefined), VERSION_1 | PROTOCOL_FEATURES);
  backend.send(encodeMessage(1, bytes(0n), 5).subarray(0, 5));
  backend.close();
  assert.match((await channel.ended).message, /hung up after 5 bytes of a header/);
});

test.run();
