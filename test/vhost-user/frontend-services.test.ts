/** What a device asks of a front-end beyond its rings, with a front-end driven by hand. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SharedMemoryDeclaration } from '../../runtime/device/index.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { RawChannel } from '../support/back-channel.js';
import {
  ALL_PROTOCOL,
  Conversation,
  RecordingDevice,
  RunningRing,
  SharedGuest,
} from '../support/conversation.js';
import { bytes, NO_FD, Protocol, Request, u64Of } from '../support/raw-frontend.js';

const test = suite('what a front-end does for a device');

const UUID = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
const EVERYTHING =
  ALL_PROTOCOL | Protocol.backendSendFd | Protocol.hostNotifier | Protocol.sharedObject | Protocol.shmem;

class SharingDevice extends RecordingDevice {
  readonly hostNotifiers = true;
  readonly sharedMemory: readonly SharedMemoryDeclaration[] = [
    { id: 0, size: 0x4000n },
    { id: 7, size: 0x1_0000n },
  ];
  readonly objects = new Map<string, number>();
  sharedObject(uuid: Uint8Array): number | null {
    return this.objects.get(Buffer.from(uuid).toString('hex')) ?? null;
  }
}

async function open({ protocol = EVERYTHING } = {}) {
  const device = new SharingDevice();
  const talk = Conversation.open({ device });
  await talk.negotiate(undefined, protocol);
  const guest = new SharedGuest(talk.platform);
  const back = RawChannel.open(talk);
  const ring = RunningRing.start(talk, guest);
  await talk.frontend.ask(Request.getStatus);
  const fd = talk.platform.createSharedMemory('file', 0x1_0000n);
  const end = async (): Promise<void> => {
    back.close();
    ring.close();
    guest.close();
    talk.platform.closeFd(fd);
    await talk.close();
    assert.equal(talk.platform.openFds, [], 'nothing stays open');
    assert.is(talk.platform.mappingCount, 0, 'nothing stays mapped');
  };
  return { talk, device, back, ring, fd, services: device.host!.frontend, end };
}

async function code(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as { code: string }).code;
  }
  return 'resolved';
}

test('each feature is offered for a device that has a use for it, and for no other', async () => {
  const wanted = Protocol.backendSendFd | Protocol.hostNotifier | Protocol.sharedObject | Protocol.shmem;
  for (const [device, expected] of [
    [new RecordingDevice(), 0n],
    [new SharingDevice(), wanted],
  ] as const) {
    const talk = Conversation.open({ device });
    await talk.frontend.ask(Request.getFeatures);
    const offered = u64Of(await talk.frontend.ask(Request.getProtocolFeatures));
    assert.is(offered & wanted, expected);
    await talk.close();
  }
});

test('a host notifier is offered with its fd, and withdrawn without one', async () => {
  const { back, fd, services, end, talk } = await open();
  const offered = services.offerHostNotifier(0, { fd, offset: 0x2000n, size: 0x1000n });
  const message = await back.expect(3);
  assert.equal([...message.payload], [...bytes(0n, 0x1000n, 0x2000n)]);
  assert.is(message.fds.length, 1);
  talk.platform.closeFd(message.fds[0]!);
  back.answer(3);
  await offered;
  const withdrawn = services.withdrawHostNotifier(0);
  const second = await back.expect(3);
  assert.equal([...second.payload], [...bytes(NO_FD, 0n, 0n)]);
  assert.is(second.fds.length, 0);
  back.answer(3, 1n);
  assert.is(await code(withdrawn), 'ERR_VHOST_REFUSED');
  await end();
});

test('objects are added, removed and looked up; a failed look-up is none', async () => {
  const { back, fd, services, end, talk } = await open();
  const added = services.addSharedObject(UUID);
  assert.equal([...(await back.expect(6)).payload], [...UUID]);
  back.answer(6);
  await added;
  const again = services.addSharedObject(UUID);
  await back.expect(6);
  back.answer(6, 1n);
  assert.is(await code(again), 'ERR_VHOST_REFUSED');
  const removed = services.removeSharedObject(UUID);
  await back.expect(7);
  back.answer(7);
  await removed;

  for (const [value, fds, found] of [
    [0n, [fd], true],
    [0n, [], false],
    [1n, [], false],
    [22n, [fd], false],
  ] as const) {
    const lookup = services.lookUpSharedObject(UUID);
    await back.expect(8);
    back.answer(8, value, fds);
    const result = await lookup;
    assert.is(result !== null, found);
    if (result !== null) talk.platform.closeFd(result);
  }
  await end();
});

test('GET_SHARED_OBJECT is answered with the device’s fd, or without one', async () => {
  const { device, fd, end, talk } = await open();
  device.objects.set(Buffer.from(UUID).toString('hex'), fd);
  const found = await talk.frontend.ask(Request.getSharedObject, UUID);
  assert.equal([found.payload.byteLength, found.fds.length], [0, 1]);
  assert.is(talk.platform.fileIdentity(found.fds[0]!), talk.platform.fileIdentity(fd));
  talk.platform.closeFd(found.fds[0]!);
  const missing = await talk.frontend.ask(Request.getSharedObject, new Uint8Array(16));
  assert.equal([missing.payload.byteLength, missing.fds.length], [0, 0]);
  await end();
});

test('GET_SHMEM_CONFIG counts the regions that are there and shows each at its id', async () => {
  const { end, talk } = await open();
  const { payload } = await talk.frontend.ask(Request.getShmemConfig);
  assert.is(payload.byteLength, 2056);
  const sizes = Array<bigint>(256).fill(0n);
  sizes[0] = 0x4000n;
  sizes[7] = 0x1_0000n;
  assert.equal(Buffer.from(payload), bytes(2, 0, ...sizes));
  await end();
});

test('files are mapped and unmapped; an answer that says no is no end of the channel', async () => {
  const { back, fd, services, end, talk } = await open();
  const range = { id: 7, offset: 0x2000n, length: 0x3000n };
  for (const [writable, flags] of [
    [true, 1n],
    [false, 0n],
  ] as const) {
    const mapped = services.mapSharedMemory(range, { fd, offset: 0x1000n, writable });
    const message = await back.expect(9);
    assert.equal(
      [...message.payload],
      [...bytes(7, 0, 0x1000n, 0x2000n, 0x3000n, flags)],
      'id, file offset, region offset, length, flags',
    );
    talk.platform.closeFd(message.fds[0]!);
    back.answer(9, writable ? 0n : 17n);
    assert.is(await code(mapped), writable ? 'resolved' : 'ERR_VHOST_REFUSED');
  }
  const unmapped = services.unmapSharedMemory(range);
  assert.equal([...(await back.expect(10)).payload], [...bytes(7, 0, 0n, 0x2000n, 0x3000n, 0n)]);
  back.answer(10);
  await unmapped;
  await end();
});

test('what cannot be right is not sent', async () => {
  const { back, fd, services, end } = await open();
  const source = { fd, offset: 0n, writable: true };
  const failures = [
    services.offerHostNotifier(4, { fd, offset: 0n, size: 0x1000n }),
    services.offerHostNotifier(0, { fd, offset: 0n, size: 0n }),
    services.offerHostNotifier(0, { fd, offset: 1n, size: 0x1000n }),
    services.withdrawHostNotifier(-1),
    services.mapSharedMemory({ id: 1, offset: 0n, length: 0x1000n }, source),
    services.mapSharedMemory({ id: 0, offset: 0n, length: 0n }, source),
    services.mapSharedMemory({ id: 0, offset: 0n, length: 0x800n }, source),
    services.mapSharedMemory({ id: 0, offset: 0x3000n, length: 0x2000n }, source),
    services.mapSharedMemory({ id: 0, offset: 0n, length: 0x1000n }, { ...source, offset: 5n }),
    services.unmapSharedMemory({ id: 0, offset: -0x1000n, length: 0x1000n }),
  ];
  assert.equal(
    await Promise.all(failures.map(code)),
    failures.map(() => 'ERR_DEVICE_FAILED'),
  );
  assert.is(await code(services.addSharedObject(new Uint8Array(15))), 'ERR_WIRE_VALUE');
  assert.ok(back.silent);
  await end();
});

test('a front-end that has not accepted the feature is not asked', async () => {
  const { back, fd, services, end } = await open({ protocol: ALL_PROTOCOL });
  for (const attempt of [
    services.offerHostNotifier(0, { fd, offset: 0n, size: 0x1000n }),
    services.addSharedObject(UUID),
    services.lookUpSharedObject(UUID),
    services.mapSharedMemory({ id: 0, offset: 0n, length: 0x1000n }, { fd, offset: 0n, writable: true }),
  ]) {
    assert.is(await code(attempt), 'ERR_VHOST_GATE');
  }
  assert.ok(back.silent);
  await end();
});

test('a suspended device, or one without a channel, asks nothing; a later channel serves again', async () => {
  const { back, services, end, talk } = await open();
  await talk.frontend.ask(Request.getVringBase, bytes(0, 0));
  assert.is(await code(services.addSharedObject(UUID)), 'ERR_VHOST_STATE');
  assert.ok(back.silent);
  talk.frontend.send(Request.setVringKick, bytes(NO_FD));
  await talk.frontend.ask(Request.getStatus);
  const waiting = code(services.addSharedObject(UUID));
  await back.expect(6);
  back.close();
  assert.is(await waiting, 'ERR_VHOST_DISCONNECTED');
  assert.is(await code(services.addSharedObject(UUID)), 'ERR_VHOST_STATE');
  const second = RawChannel.open(talk);
  await talk.frontend.ask(Request.getStatus);
  const again = services.addSharedObject(UUID);
  await second.expect(6);
  second.answer(6);
  await again;
  second.close();
  await end();
});

test('a second channel fails what waits on the first, with the fds under way closed', async () => {
  const { back, fd, services, end, talk } = await open();
  const range = { id: 0, offset: 0n, length: 0x1000n };
  const waiting = code(services.mapSharedMemory(range, { fd, offset: 0n, writable: true }));
  const second = RawChannel.open(talk);
  assert.is(await waiting, 'ERR_VHOST_DISCONNECTED');
  const message = await back.expect(9);
  for (const each of message.fds) talk.platform.closeFd(each);
  assert.ok(await back.hungUp());
  second.close();
  await end();
});

test('the end of the session fails what waits', async () => {
  const { services, end } = await open();
  const waiting = code(services.addSharedObject(UUID));
  await end();
  assert.is(await waiting, 'ERR_VHOST_DISCONNECTED');
  assert.is(await code(services.addSharedObject(UUID)), 'ERR_VHOST_STATE');
});

test('shared memory that cannot be told is refused before anybody connects', () => {
  for (const declared of [
    [{ id: 256, size: 0x1000n }],
    [{ id: -1, size: 0x1000n }],
    [
      { id: 1, size: 0x1000n },
      { id: 1, size: 0x2000n },
    ],
    [{ id: 0, size: 0n }],
    [{ id: 0, size: 0x1001n }],
  ]) {
    const device = Object.assign(new SharingDevice(), { sharedMemory: declared });
    assert.throws(
      () => Conversation.open({ device, platform: createFakePlatform() }),
      (error: { code: string }) => error.code === 'ERR_DEVICE_CONFIGURATION',
    );
  }
});

test.run();
