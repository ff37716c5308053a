/** A back-end that misbehaves on its channel: it is refused or cut off there, and the conversation goes on. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { VhostUserError } from '../../../runtime/errors.js';
import { SharedMemory } from '../../../runtime/memory/shared-memory.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/platform/fake.js';
import type { SocketStream } from '../../../runtime/platform/platform.js';
import { Frontend } from '../../../runtime/vhost-user/frontend/frontend.js';
import { SharedObjectRegistry } from '../../../runtime/vhost-user/frontend/shared-objects.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { RawBackend } from '../../support/raw-backend.js';
import {
  bytes,
  encodeMessage,
  Protocol,
  PROTOCOL_FEATURES,
  RawFrontend,
  turn,
  turns,
  until,
  VERSION_1,
} from '../../support/raw-frontend.js';

const test = suite('a back-end that misbehaves on its channel');

const PROTOCOL =
  Protocol.mq |
  Protocol.replyAck |
  Protocol.backendReq |
  Protocol.backendSendFd |
  Protocol.config |
  Protocol.hostNotifier |
  Protocol.sharedObject |
  Protocol.shmem;

interface World {
  readonly platform: FakePlatform;
  readonly backend: RawBackend;
  readonly frontend: Frontend;
  readonly back: RawFrontend;
  readonly troubles: VhostUserError[];
}

interface Variant {
  readonly inband?: boolean;
  readonly iommu?: boolean;
  /** The conversation is to be over, with this message. */
  readonly ends?: RegExp;
}

async function session(use: (world: World) => Promise<void>, variant: Variant = {}): Promise<void> {
  const { inband = false, iommu = false, ends } = variant;
  const platform = createFakePlatform();
  const offered = VERSION_1 | PROTOCOL_FEATURES | (iommu ? VirtioFeature.accessPlatform : 0n);
  const { backend, stream } = RawBackend.pair(platform, {
    getFeatures: bytes(offered),
    getProtocolFeatures: bytes(PROTOCOL | (inband ? Protocol.inbandNotifications : 0n)),
    getShmemConfig: bytes(1, 0, 0x10_0000n, new Uint8Array(255 * 8)),
  });
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const frontend = await Frontend.attach({
    platform,
    memory,
    features: { supported: VirtioFeature.version1 | VirtioFeature.accessPlatform },
    stream,
    queues: 2,
    inbandNotifications: inband,
    hostNotifiers: {},
    shmem: {},
    sharedObjects: new SharedObjectRegistry(),
  });
  const troubles: VhostUserError[] = [];
  frontend.on('trouble', (error) => troubles.push(error));
  const [fd] = backend.last('setBackendReqFd').fds.splice(0);
  const back = new RawFrontend(platform, platform.adoptSocket(fd!) as SocketStream);
  await use({ platform, backend, frontend, back, troubles });
  if (ends === undefined) assert.ok(frontend.connected, 'the conversation goes on');
  else assert.match((await frontend.ended).message, ends);
  frontend.close();
  memory[Symbol.dispose]();
  await until(() => backend.hungUp, 'the front-end hangs up');
  backend.close();
  back.close();
  await turns(5);
  assert.equal(platform.openFds, [], 'nothing stays open');
}

test('ids that nobody knows are refused, those of crosvm among them', async () => {
  await session(async ({ back, troubles }) => {
    const ids = [0, 11, 77, 1002, 1003, 1004, 1005, 1006, 1007, 0xffff_ffff];
    for (const id of ids) assert.is(await back.acknowledged(id, new Uint8Array(40)), 1n, `request ${id}`);
    assert.equal(
      troubles.map(({ code }) => code),
      ids.map(() => 'ERR_VHOST_REQUEST'),
    );
    assert.is(await back.acknowledged(2), 0n, 'the channel goes on');
  });
});

for (const [count, ends] of [
  [1, false],
  [9, false],
  [64, false],
  [65, true],
] as const) {
  test(`${count} fds with a message that carries none: ${ends ? 'the channel ends' : 'refused'}`, async () => {
    await session(async ({ back, platform, troubles }) => {
      const fd = platform.createEventFd();
      back.send(2, bytes(), { fds: Array<number>(count).fill(fd), needReply: true });
      platform.closeFd(fd);
      await until(() => troubles.length > 0, 'it is told');
      assert.is(troubles[0]!.code, 'ERR_VHOST_FDS');
      if (ends) assert.ok(await back.hungUp());
      else {
        assert.is((await back.receive())!.payload[0], 1);
        assert.is(await back.acknowledged(2), 0n);
      }
    });
  });
}

for (const [what, message, code] of [
  ['a reply', encodeMessage(2, bytes(0n), 5), 'ERR_VHOST_HEADER'],
  ['a message of version 3', encodeMessage(2, bytes(), 3), 'ERR_VHOST_HEADER'],
  ['a message longer than any', bytes(2, 1, 0xffff_ffff), 'ERR_VHOST_HEADER'],
] as const) {
  test(`${what} ends the channel with a reason`, async () => {
    await session(async ({ back, troubles }) => {
      back.sendBytes(message);
      assert.ok(await back.hungUp());
      assert.equal(
        troubles.map((error) => error.code),
        [code],
      );
    });
  });
}

test('a flood whose answers nobody reads is held back by the socket, and the conversation is not starved', async () => {
  await session(async ({ back, frontend }) => {
    let sent = 0;
    const flood = (): void => {
      const message = encodeMessage(2, bytes(), 9);
      for (let i = 0; i < 100; i++) {
        if (back.stream.send(message, []) !== message.byteLength) return;
        sent++;
      }
    };
    let changes = 0;
    frontend.on('configurationChanged', () => changes++);
    for (let i = 0; i < 200; i++) {
      flood();
      await turn();
      if (i % 50 === 0) await frontend.request('getQueueNum', undefined);
    }
    assert.ok(changes < sent || sent === 20_000, 'what is not read is not served without end');
    assert.ok(changes > 0);
    await frontend.request('getFeatures', undefined);
  });
});

test('a channel that ends while a look-up is under way leaves no fd', async () => {
  await session(async ({ back, backend, platform, frontend }) => {
    const uuid = new Uint8Array(16).fill(3);
    assert.is(await back.acknowledged(6, uuid), 0n);
    const object = platform.createSharedMemory('object', 4096n);
    backend.answers.getSharedObject = null;
    back.send(8, uuid);
    await until(() => backend.names.includes('getSharedObject'), 'the owner is asked');
    back.close();
    await turns(5);
    backend.reply('getSharedObject', bytes(), [object]);
    platform.closeFd(object);
    await turns(5);
    await frontend.request('getFeatures', undefined);
  });
});

test('fds that come with what is refused are closed each time', async () => {
  await session(async ({ back, platform }) => {
    await turns(2);
    const before = platform.openFdCount;
    const fd = platform.createSharedMemory('file', 4096n);
    for (let i = 0; i < 500; i++) {
      assert.is(await back.acknowledged([3, 9, 10, 77][i % 4]!, bytes(99n, 1n, 2n), [fd]), 1n);
    }
    platform.closeFd(fd);
    assert.is(platform.openFdCount, before);
  });
});

for (const [what, need] of [
  ['calls come in-band', { inband: true }],
  ['misses of the IOTLB are asked', { iommu: true }],
] as const) {
  test(`where ${what} over it, its end is the end of the conversation`, async () => {
    const closed = /the back-end closed the channel of its requests/;
    await session(async ({ back }) => back.close(), { ...need, ends: closed });
    const garbage = async ({ back, frontend, troubles }: World): Promise<void> => {
      const waiting = frontend.ended;
      back.stream.send(new Uint8Array(12).fill(0xff), []);
      assert.is((await waiting).code, 'ERR_VHOST_HEADER');
      assert.is(troubles.length, 1);
    };
    await session(garbage, { ...need, ends: /got flags 0xffffffff/ });
  });
}

test.run();
