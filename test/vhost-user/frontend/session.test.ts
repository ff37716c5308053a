/** A front-end's rings and memory while they run, and the requests of its back-end, against a back-end driven by hand. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VhostError, type VhostUserError } from '../../../runtime/errors.js';
import { SharedMemory } from '../../../runtime/memory/shared-memory.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/platform/fake.js';
import type { SocketStream } from '../../../runtime/platform/platform.js';
import { OwnedFd } from '../../../runtime/vhost-user/fd-bundle.js';
import { Frontend, type FrontendOptions } from '../../../runtime/vhost-user/frontend/frontend.js';
import type { FrontendRequestName } from '../../../generated/vhost-user/frontend-requests.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { FrontendIommu, MAX_UNANSWERED_UPDATES } from '../../../runtime/vhost-user/frontend/iommu.js';
import { type RawAnswer, RawBackend } from '../../support/raw-backend.js';
import {
  bytes,
  Protocol,
  PROTOCOL_FEATURES,
  RawFrontend,
  turns,
  u64Of,
  until,
  VERSION_1,
} from '../../support/raw-frontend.js';

const test = suite('front-end session');

interface World {
  readonly platform: FakePlatform;
  readonly backend: RawBackend;
  readonly frontend: Frontend;
  readonly memory: SharedMemory;
  readonly troubles: VhostUserError[];
}

async function session(
  answers: Partial<Record<FrontendRequestName, RawAnswer>>,
  options: Partial<FrontendOptions>,
  use: (world: World) => Promise<void>,
): Promise<void> {
  const platform = createFakePlatform();
  const { backend, stream } = RawBackend.pair(platform, answers);
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const features = { supported: VirtioFeature.version1 | VirtioFeature.accessPlatform };
  const frontend = await Frontend.attach({ platform, memory, features, stream, queues: 4, ...options });
  const troubles: VhostUserError[] = [];
  frontend.on('trouble', (error) => troubles.push(error));
  await use({ platform, backend, frontend, memory, troubles });
  frontend.close();
  memory[Symbol.dispose]();
  await until(() => backend.hungUp, 'the front-end hangs up');
  backend.close();
  assert.equal(platform.openFds, [], 'nothing stays open');
  assert.is(platform.mappingCount, 0, 'nothing stays mapped');
}

async function start(frontend: Frontend, count: number, calls: number[] = [], errors: number[] = []) {
  const setups = Array.from({ length: count }, (_, index) => {
    const place = frontend.memory.allocate(4096, 4096);
    const at = (offset: number) => ({ window: place.window, offset: place.offset + offset });
    return {
      index,
      size: 8,
      base: 0,
      areas: { descriptor: at(0), driver: at(256), device: at(512) },
      onCall: () => calls.push(index),
      onError: () => errors.push(index),
    };
  });
  await frontend.startVrings(setups);
}

/** The requests since the last time this was asked. */
function since(backend: RawBackend): () => string[] {
  let seen = backend.names.length;
  return () => {
    const names = backend.names
      .slice(seen)
      .map(
        (name, i) =>
          `${name.replace('!', '')} ${Buffer.from(backend.seen[seen + i]!.payload).toString('hex')}`,
      );
    seen = backend.names.length;
    return names;
  };
}

const SLOTS = bytes(Protocol.mq | Protocol.replyAck | Protocol.configureMemSlots);

test('kicks, calls and errors travel by eventfds; every ring is kicked when it starts', async () => {
  await session({}, {}, async ({ frontend, backend, platform }) => {
    const [calls, errors]: [number[], number[]] = [[], []];
    await start(frontend, 2, calls, errors);
    const fdOf = (name: FrontendRequestName, index: number) =>
      backend.seen.findLast((each) => each.name === name && each.payload[0] === index)!.fds[0]!;
    assert.is(platform.takeEventFd(fdOf('setVringKick', 0)), 1n);
    assert.is(platform.takeEventFd(fdOf('setVringKick', 1)), 1n);
    frontend.kick(1);
    assert.is(platform.takeEventFd(fdOf('setVringKick', 1)), 1n);
    platform.signalEventFd(fdOf('setVringCall', 1));
    platform.signalEventFd(fdOf('setVringErr', 0));
    await turns(5);
    assert.equal([calls, errors], [[1], [0]]);
  });
});

test('stopping disables a ring and says where it stands; starting goes on from there', async () => {
  const stop: RawAnswer = (seen, self) => self.reply('getVringBase', bytes(seen.payload[0]!, 0x1234));
  await session({ getVringBase: stop }, {}, async ({ frontend, backend }) => {
    await start(frontend, 2);
    const news = since(backend);
    assert.equal(await frontend.stopVrings([0, 1]), [0x1234, 0x1234]);
    assert.equal(news(), [
      'setVringEnable 0000000000000000',
      'setVringEnable 0100000000000000',
      'getVringBase 0000000000000000',
      'getVringBase 0100000000000000',
    ]);
    const { areas } = frontend.vring(0)!.setup!;
    await frontend.startVrings([{ index: 0, size: 8, areas }]);
    assert.equal(backend.last('setVringBase').payload, bytes(0, 0x1234));
  });
});

test('a base of another ring than was asked for ends the conversation', async () => {
  const stop: RawAnswer = (_, self) => self.reply('getVringBase', bytes(3, 0));
  await session({ getVringBase: stop }, {}, async ({ frontend }) => {
    await start(frontend, 1);
    const error = await frontend.stopVrings([0]).catch((reason: unknown) => reason);
    assert.match((error as Error).message, /asked for ring 0, got ring 3/);
    assert.is((await frontend.ended).code, 'ERR_VHOST_REPLY');
  });
});

test('queue pairs are enabled and disabled while they run', async () => {
  await session({}, {}, async ({ frontend, backend }) => {
    await start(frontend, 4);
    const news = since(backend);
    await frontend.enableQueuePairs(1);
    assert.equal(news(), [
      'setVringEnable 0000000001000000',
      'setVringEnable 0100000001000000',
      'setVringEnable 0200000000000000',
      'setVringEnable 0300000000000000',
    ]);
    await frontend.enableQueuePairs(2);
    assert.equal(news().at(-1), 'setVringEnable 0300000001000000');
    const error = await frontend.enableQueuePairs(3).catch((reason: unknown) => reason);
    assert.match((error as Error).message, /cannot enable 3 queue pairs, 2 run/);
  });
});

test('a ring that runs is not started again, and nothing is said of it', async () => {
  await session({}, {}, async ({ frontend, backend }) => {
    await start(frontend, 1);
    const news = since(backend);
    const before = frontend.vring(0)!.setup;
    const error = (await start(frontend, 2).catch((reason: unknown) => reason)) as VhostError;
    assert.equal([error.code, error.message], ['ERR_VHOST_STATE', 'ring 0 runs already']);
    assert.equal(news(), []);
    assert.is(frontend.vring(0)!.setup, before);
    assert.is(frontend.vring(0)!.base, 0);
  });
});

for (const slots of [false, true]) {
  test(`trap 12: memory is plugged with rings paused, ${slots ? 'slot by slot' : 'as a new table'}`, async () => {
    await session(slots ? { getProtocolFeatures: SLOTS } : {}, {}, async (world) => {
      const { frontend, backend, memory, platform } = world;
      await start(frontend, 2);
      await frontend.enableVring(1, false);
      const news = since(backend);
      const added = await frontend.addMemory(1 << 16);
      const { guestAddress, size } = added.region.description;
      assert.is(size, 65536n);
      assert.ok(memory.memory.translate(Number(guestAddress), 65536));
      // The ring that was disabled stays so.
      assert.equal(
        news().map((each) => each.split(' ')[0]),
        ['setVringEnable', slots ? 'addMemReg' : 'setMemTable', 'setVringEnable'],
      );
      const told = backend.last(slots ? 'addMemReg' : 'setMemTable');
      assert.is(told.fds.length, slots ? 1 : 2);
      assert.is(platform.fileSize(told.fds.at(-1)!), 65536n);
      const used = memory.allocate(4096, 4096, 1);
      const refused = await frontend.removeMemory(added).catch((reason: unknown) => reason);
      assert.match((refused as Error).message, /still allocated from/);
      used.free();
      await frontend.removeMemory(added);
      assert.equal(
        news().map((each) => each.split(' ')[0]),
        ['setVringEnable', slots ? 'remMemReg' : 'setMemTable', 'setVringEnable'],
      );
      assert.is(memory.regions.length, 1);
      assert.is(platform.mappingCount, 1);
    });
  });
}

test('memory that the back-end does not take is gone again, and the rings go on', async () => {
  await session({ getProtocolFeatures: SLOTS }, {}, async ({ frontend, backend, memory, platform }) => {
    await start(frontend, 1);
    backend.answers.addMemReg = bytes(1n);
    const before = platform.openFdCount - backend.seen.reduce((sum, { fds }) => sum + fds.length, 0);
    const error = await frontend.addMemory(4096).catch((reason: unknown) => reason);
    assert.match((error as Error).message, /VHOST_USER_ADD_MEM_REG: the back-end answered 1/);
    assert.is(memory.regions.length, 1);
    assert.is(backend.last('setVringEnable').payload[4], 1);
    const after = platform.openFdCount - backend.seen.reduce((sum, { fds }) => sum + fds.length, 0);
    assert.is(after, before);
  });
});

test('a ring of a front-end that is over is not kicked: its fd may be another file by then', async () => {
  await session({}, {}, async ({ frontend }) => {
    await start(frontend, 1);
    const vring = frontend.vring(0)!;
    assert.ok(vring.kickFd >= 0);
    frontend.close();
    assert.equal([vring.kickFd, vring.callFd, vring.errFd], [-1, -1, -1]);
    frontend.kick(0);
  });
});

test('a request whose fds cannot be duplicated was not sent, and waits for no reply', async () => {
  await session({}, {}, async ({ frontend, platform, memory, backend }) => {
    const { description } = memory.regions[0]!.region;
    const before = backend.seen.length;
    platform.failNext('dup', 'EMFILE');
    const failed = frontend.request(
      'setMemTable',
      { regions: [description] },
      { fds: [memory.regions[0]!.fd] },
    );
    assert.match(String(await failed.catch((error: unknown) => error)), 'EMFILE');
    assert.is(await frontend.request('getFeatures', undefined), VERSION_1 | PROTOCOL_FEATURES);
    assert.is(backend.seen.length, before + 1);
  });
});

test('memory that was given back while it was told rejects with what ended the connection', async () => {
  await session({ getProtocolFeatures: SLOTS }, {}, async ({ frontend, memory, backend }) => {
    backend.answers.addMemReg = null;
    const adding = frontend.addMemory(4096).catch((reason: unknown) => reason);
    await until(
      () => backend.names.filter((name) => name.startsWith('addMemReg')).length === 2,
      'the region',
    );
    frontend.close();
    memory[Symbol.dispose]();
    assert.is(((await adding) as VhostError).code, 'ERR_VHOST_DISCONNECTED');
  });
});

test('rings that were paused go on when one of them cannot be', async () => {
  await session({}, {}, async ({ frontend, backend, memory }) => {
    await start(frontend, 3);
    const enabled = [true, true, true];
    backend.answers.setVringEnable = ({ payload }, self) => {
      const refused = payload[0] === 1 && payload[4] === 0;
      if (!refused) enabled[payload[0]!] = payload[4] === 1;
      self.reply('setVringEnable', bytes(refused ? 1n : 0n));
    };
    const error = await frontend.addMemory(4096).catch((reason: unknown) => reason);
    assert.match((error as Error).message, /VHOST_USER_SET_VRING_ENABLE: the back-end answered 1/);
    assert.equal(enabled, [true, true, true]);
    assert.is(memory.regions.length, 1);
  });
});

test('a back-end that counts pairs of rings serves twice as many rings as it says', async () => {
  const one = { getQueueNum: bytes(1n) };
  await session(one, { ringsPerQueue: 2 }, async ({ frontend, backend }) => {
    await start(frontend, 2);
    assert.is(backend.names.filter((name) => name.startsWith('setVringKick')).length, 2);
    const error = await start(frontend, 3).catch((reason: unknown) => reason);
    assert.match((error as Error).message, /ring 2: the back-end serves 1 queues of 2 rings/);
  });
  await session(one, {}, async ({ frontend }) => {
    const error = await start(frontend, 2).catch((reason: unknown) => reason);
    assert.match((error as Error).message, /ring 1: the back-end serves 1 queues/);
  });
});

// --- the back-end's requests

const CHANNEL = bytes(Protocol.mq | Protocol.replyAck | Protocol.backendReq | Protocol.config | (1n << 18n));

/** The back-end's end of its request channel. */
function channelOf({ backend, platform }: World): RawFrontend {
  const [fd] = backend.last('setBackendReqFd').fds.splice(0);
  return new RawFrontend(platform, platform.adoptSocket(fd!) as SocketStream);
}

test('a changed configuration is announced, and acknowledged where that is asked for', async () => {
  await session({ getProtocolFeatures: CHANNEL }, {}, async (world) => {
    const back = channelOf(world);
    let changes = 0;
    world.frontend.on('configurationChanged', () => changes++);
    assert.is(await back.acknowledged(2), 0n);
    back.send(2);
    await until(() => changes === 2, 'both are announced');
    back.close();
    await turns(5);
    assert.ok(world.frontend.connected, 'the conversation goes on without the channel');
  });
});

test('requests that are unknown, gated, malformed or nobody’s are refused one by one, and reported', async () => {
  const protocol =
    ProtocolFeature.replyAck |
    ProtocolFeature.backendReq |
    ProtocolFeature.config |
    ProtocolFeature.sharedObject;
  const features = { supported: VirtioFeature.version1, protocol };
  await session({ getProtocolFeatures: CHANNEL }, { features }, async (world) => {
    const back = channelOf(world);
    const fd = world.platform.createEventFd();
    assert.is(await back.acknowledged(77), 1n, 'unknown');
    assert.is(await back.acknowledged(9, new Uint8Array(40), [fd]), 1n, 'SHMEM is not negotiated');
    assert.is(await back.acknowledged(2, bytes(1)), 1n, 'a payload where none belongs');
    assert.is(await back.acknowledged(2, undefined, [fd]), 1n, 'an fd where none belongs');
    assert.is(await back.acknowledged(6, new Uint8Array(16)), 1n, 'shared objects have no handler');
    const lookup = await back.ask(8, new Uint8Array(16));
    assert.equal([u64Of(lookup), lookup.fds.length], [1n, 0], 'a failed lookup is answered without an fd');
    assert.equal(
      world.troubles.map((error) => error.code),
      [
        'ERR_VHOST_REQUEST',
        'ERR_VHOST_GATE',
        'ERR_VHOST_PAYLOAD',
        'ERR_VHOST_FDS',
        'ERR_VHOST_REFUSED',
        'ERR_VHOST_REFUSED',
      ],
    );
    world.platform.closeFd(fd);
    back.sendBytes(bytes(2, 0xffff, 0));
    assert.ok(await back.hungUp(), 'what is no message ends the channel');
    back.close();
    assert.ok(world.frontend.connected);
  });
});

test('a handler map serves what the front-end does not: typed, asynchronous, with fds both ways', async () => {
  const uuids: number[] = [];
  const sharedObjects = VirtioFeature.version1;
  const protocol =
    ProtocolFeature.replyAck |
    ProtocolFeature.backendReq |
    ProtocolFeature.sharedObject |
    ProtocolFeature.hostNotifier |
    ProtocolFeature.backendSendFd;
  const areas: bigint[] = [];
  const options: Partial<FrontendOptions> = {
    features: { supported: sharedObjects, protocol },
    handlers: {
      backendSharedObjectAdd: async (_, { uuid }) => {
        await turns(3);
        uuids.push(uuid[0]!);
      },
      backendSharedObjectLookup: (frontend, { uuid }, fds) => {
        if (!uuids.includes(uuid[0]!)) throw new VhostError('ERR_VHOST_REFUSED', 'no such object');
        fds.reply(new OwnedFd(frontend.platform, frontend.platform.createEventFd()));
        return 0n;
      },
      backendVringHostNotifierMsg: (_, area, fds) => {
        areas.push(area.size);
        fds.take()?.close();
      },
    },
  };
  await session({ getProtocolFeatures: bytes(protocol) }, options, async (world) => {
    const back = channelOf(world);
    assert.is(await back.acknowledged(6, new Uint8Array(16).fill(5)), 0n);
    const found = await back.ask(8, new Uint8Array(16).fill(5));
    assert.equal([u64Of(found), found.fds.length], [0n, 1]);
    world.platform.closeFd(found.fds[0]!);
    assert.is(u64Of(await back.ask(8, new Uint8Array(16).fill(6))), 1n);
    const fd = world.platform.createEventFd();
    assert.is(await back.acknowledged(3, bytes(0n, 4096n, 0n), [fd]), 0n);
    world.platform.closeFd(fd);
    assert.equal(areas, [4096n]);
    back.close();
  });
});

test('calls and errors come in-band where that is negotiated', async () => {
  const protocol =
    ProtocolFeature.replyAck | ProtocolFeature.backendReq | ProtocolFeature.inbandNotifications;
  const features = { supported: VirtioFeature.version1, protocol };
  await session({ getProtocolFeatures: bytes(protocol) }, { features }, async (world) => {
    const [calls, errors]: [number[], number[]] = [[], []];
    await start(world.frontend, 2, calls, errors);
    const back = channelOf(world);
    assert.is(await back.acknowledged(4, bytes(1, 0)), 0n);
    assert.is(await back.acknowledged(5, bytes(0, 0)), 0n);
    assert.is(await back.acknowledged(4, bytes(9, 0)), 1n, 'a ring that there is none of');
    assert.equal([calls, errors], [[1], [0]]);
    back.close();
  });
});

const BEHIND_IOMMU = bytes(VERSION_1 | PROTOCOL_FEATURES | VirtioFeature.accessPlatform);

test('IOTLB misses are answered by the region that they lie in', async () => {
  const answers = { getFeatures: BEHIND_IOMMU, getProtocolFeatures: CHANNEL, iotlbMsg: bytes(0n) };
  await session(answers, {}, async (world) => {
    const back = channelOf(world);
    const miss = (iova: bigint, type = 1) => bytes(iova, 0n, 0n, new Uint8Array([1, type, 0, 0, 0, 0, 0, 0]));
    assert.is(await back.acknowledged(1, miss(0x1234n)), 0n);
    await until(() => world.backend.names.includes('iotlbMsg'), 'the update');
    assert.equal(
      world.backend.last('iotlbMsg').payload,
      bytes(0n, 65536n, 0x7e00_0000_0000n, new Uint8Array([3, 2, 0, 0, 0, 0, 0, 0])),
    );
    assert.is(await back.acknowledged(1, miss(0x10000n)), 1n, 'no memory there');
    assert.is(await back.acknowledged(1, miss(0n, 4)), 1n, 'an access that failed');
    back.close();
  });
});

test('a back-end that misses on and on and answers nothing is told a bounded number of translations', async () => {
  const answers = { getFeatures: BEHIND_IOMMU, getProtocolFeatures: CHANNEL, iotlbMsg: null };
  await session(answers, {}, async (world) => {
    const back = channelOf(world);
    const miss = bytes(0x1000n, 0n, 0n, new Uint8Array([1, 1, 0, 0, 0, 0, 0, 0]));
    for (let i = 0; i < MAX_UNANSWERED_UPDATES + 3; i++) assert.is(await back.acknowledged(1, miss), 0n);
    await until(() => world.troubles.length === 3, 'what is too much');
    assert.equal(new Set(world.troubles.map(({ code }) => code)), new Set(['ERR_VHOST_STATE']));
    const told = () => world.backend.names.filter((name) => name === 'iotlbMsg').length;
    await until(() => told() === MAX_UNANSWERED_UPDATES, 'the others');
    world.backend.reply('iotlbMsg', bytes(0n));
    await turns(5);
    assert.is(await back.acknowledged(1, miss), 0n);
    await until(() => told() === MAX_UNANSWERED_UPDATES + 1, 'one more, for the one that was answered');
    back.close();
  });
});

test('whoever takes a mapping away waits no longer than his signal says', async () => {
  const iommu = new FrontendIommu();
  const answers = { getFeatures: BEHIND_IOMMU, iotlbMsg: null };
  await session(answers, { iommu }, async ({ backend }) => {
    const abort = new AbortController();
    const waiting = iommu.unmap(0n, 4096n, abort.signal).catch((error: unknown) => error);
    await until(() => backend.names.includes('iotlbMsg'), 'the invalidation');
    const reason = new Error('no more');
    abort.abort(reason);
    assert.is(await waiting, reason);
  });
});

test.run();
