import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import { Conversation, RecordingDevice, RunningRing, SharedGuest } from '../support/conversation.js';
import {
  bytes,
  PROTOCOL_FEATURES,
  RawFrontend,
  Request,
  RING_PACKED,
  turns,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';

const test = suite('in-flight tracking over the socket');

const SPLIT = VERSION_1 | PROTOCOL_FEATURES;

/** mmap size, mmap offset, queues, queue size; 24 bytes with the padding (trap 3). */
function description(size: number, offset: number, queues: number, queueSize: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(24));
  view.setBigUint64(0, BigInt(size), true);
  view.setBigUint64(8, BigInt(offset), true);
  view.setUint16(16, queues, true);
  view.setUint16(18, queueSize, true);
  return new Uint8Array(view.buffer);
}

async function open(platform?: FakePlatform, features = SPLIT): Promise<Conversation> {
  const talk = Conversation.open(platform === undefined ? {} : { platform });
  await talk.negotiate(features);
  return talk;
}

/** GET_INFLIGHT_FD. The fd is the caller's. */
async function region(talk: Conversation, queues = 4, queueSize = 16): Promise<{ fd: number; size: number }> {
  const { payload, fds } = await talk.frontend.ask(
    Request.getInflightFd,
    description(0, 0, queues, queueSize),
  );
  assert.is(payload.byteLength, 24, 'trap 3');
  assert.is(fds.length, 1);
  const view = Buffer.from(payload);
  assert.is(view.readBigUInt64LE(8), 0n);
  assert.is(view.readUInt16LE(16), queues);
  assert.is(view.readUInt16LE(18), queueSize);
  return { fd: fds[0]!, size: Number(view.readBigUInt64LE(0)) };
}

test('sizes are those of the peers, rounded up to 64 for each queue', async () => {
  for (const [features, queues, size, bytesOfAll] of [
    [SPLIT, 1, 128, 2112],
    [SPLIT, 4, 16, 4 * 320],
    [SPLIT | RING_PACKED, 1, 128, 4160],
    [SPLIT | RING_PACKED, 3, 7, 3 * 256],
  ] as const) {
    const talk = await open(undefined, features);
    const { fd, size: got } = await region(talk, queues, size);
    assert.is(got, bytesOfAll);
    assert.is(Number(talk.platform.fileSize(fd)), bytesOfAll);
    talk.platform.closeFd(fd);
    await talk.close();
  }
});

test('what was in flight in a back-end that is gone is done by the next one', async () => {
  const talk = await open();
  const { platform } = talk;
  const guest = new SharedGuest(platform);
  const { fd, size } = await region(talk);
  talk.frontend.send(Request.setInflightFd, description(size, 0, 4, 16), { fds: [fd] });
  const ring = RunningRing.start(talk, guest);
  for (let i = 0; i < 3; i++) ring.offer();
  await ring.used(3);
  talk.device.hold = true;
  for (let i = 0; i < 2; i++) ring.offer();
  await until(() => talk.device.held.length === 2, 'two chains are with the device');
  await talk.close();

  const next = await open(platform);
  next.frontend.send(Request.setInflightFd, description(size, 0, 4, 16), { fds: [fd] });
  // The front-end does not know better than the position at which the ring once began.
  const again = RunningRing.start(next, guest, { base: 0 });
  await again.used(5);
  assert.is(next.device.served, 2, 'the two, and not the three that were reported before');
  assert.equal(
    [again.ring.used(3).id, again.ring.used(4).id],
    [3, 4],
    'in the order in which they were taken',
  );
  await next.close();
});

test('a region that contradicts itself stops the ring and nothing else, and tells the err fd', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  const { fd, size } = await region(talk);
  const mapping = talk.platform.map(fd, 0n, BigInt(size));
  const view = new DataView(talk.platform.windows.u8[mapping.firstWindow]!.buffer);
  view.setUint16(8, 1, true);
  view.setUint16(10, 16, true);
  view.setUint16(14, 3, true);
  view.setUint8(16 + 5 * 16, 1);
  view.setUint8(16 + 6 * 16, 1);
  view.setUint16(320 + 8, 2, true);
  talk.frontend.send(Request.setInflightFd, description(size, 0, 4, 16), { fds: [fd] });
  const rings = [0, 1, 2].map((index) => RunningRing.start(talk, guest, { index, enable: false }));
  rings[0]!.ring.usedIndex = rings[0]!.ring.availableIndex = 3;
  for (const ring of rings) ring.offer(false);
  for (const index of [0, 1, 2]) talk.frontend.send(Request.setVringEnable, bytes(index, 1));
  await rings[2]!.used(1);
  await turns(20);
  assert.equal(
    rings.map((ring) => ring.ring.usedIndex),
    [3, 0, 1],
  );
  assert.equal(
    rings.map((ring) => ring.err.take()),
    [1n, 1n, 0n],
  );
  const told = talk.logs.filter(({ level }) => level === 'error').map(({ message }) => message);
  assert.match(told[0]!, /in-flight region.*2 chains are in flight, the driver waits for/);
  assert.match(told[1]!, /in-flight region.*version is 2/);
  await talk.close();
});

/** SET_INFLIGHT_FD, acknowledged. */
function give(talk: Conversation, payload: Uint8Array, fds: readonly number[]): Promise<bigint> {
  return talk.frontend.acknowledged(Request.setInflightFd, payload, fds);
}

test('C7: asked for 10,000 times, nothing is left behind', async () => {
  const talk = await open();
  const { platform } = talk;
  const fds = platform.openFdCount;
  for (let i = 0; i < 10_000; i++) {
    const { fd } = await region(talk, 1 + (i % 4), 1 + (i % 256));
    platform.closeFd(fd);
  }
  assert.is(platform.openFdCount, fds);
  assert.is(platform.mappingCount, 1);
  await talk.close();
  assert.is(platform.mappingCount, 0);
});

test('C9: queues that the device does not have, and sizes that no queue has, are refused', async () => {
  const talk = await open();
  const { platform, frontend } = talk;
  const fd = platform.createSharedMemory('inflight', 1n << 24n);
  const open_ = platform.openFdCount;
  for (const [queues, size] of [
    [5, 16],
    [257, 16],
    [65535, 16],
    [0, 16],
    [4, 0],
    [4, 32769],
    [65535, 65535],
  ] as const) {
    assert.is.not(await give(talk, description(1 << 24, 0, queues, size), [fd]), 0n, `${queues} of ${size}`);
    const asked = description(0, 0, queues, size);
    assert.is.not(await frontend.acknowledged(Request.getInflightFd, asked), 0n, `${queues} of ${size}`);
  }
  assert.is(platform.openFdCount, open_);
  assert.is(platform.mappingCount, 0);
  assert.is(await give(talk, description(1 << 24, 0, 4, 16), [fd]), 0n, 'the session goes on');
  await talk.close();
});

test('C10: more or fewer fds than one end the session, and are closed', async () => {
  for (const count of [0, 2, 8]) {
    const talk = await open();
    const { platform } = talk;
    const fds = Array.from({ length: count }, () => platform.createSharedMemory('inflight', 4096n));
    const before = platform.openFdCount;
    talk.frontend.send(Request.setInflightFd, description(4096, 0, 1, 16), { fds });
    assert.match((await talk.ended())!.message, /SET_INFLIGHT_FD.*expected 1 file descriptors, got/);
    assert.ok(platform.openFdCount < before);
    for (const fd of fds) platform.closeFd(fd);
    talk.frontend.close();
    talk.backend.close();
    await turns(5);
    assert.equal(platform.openFds, []);
  }
});

test('a region that does not fit its file or its message, or is no memory, is refused', async () => {
  const talk = await open();
  const { platform } = talk;
  const fd = platform.createSharedMemory('inflight', 1280n);
  const pipe = platform.createEventFd();
  for (const [name, payload, file] of [
    ['smaller than its queues take', description(1279, 0, 4, 16), fd],
    ['longer than the file', description(1280, 64, 4, 16), fd],
    ['longer than the file, beyond what its queues take', description(1281, 0, 4, 16), fd],
    ['a size near 2^64 at the beginning', bytes((1n << 64n) - 1n, 0n, 4 | (16 << 16), 0), fd],
    ['an offset near 2^64', bytes(1280n, (1n << 64n) - 64n, 4 | (16 << 16), 0), fd],
    ['a size near 2^64', bytes((1n << 64n) - 1n, 64n, 4 | (16 << 16), 0), fd],
    ['an offset between two lines', description(1280, 8, 3, 16), fd],
    ['an eventfd', description(1280, 0, 4, 16), pipe],
  ] as const) {
    assert.is.not(await give(talk, payload, [file]), 0n, name);
  }
  assert.is(platform.mappingCount, 0);
  talk.frontend.send(Request.setInflightFd, description(1280, 0, 4, 16).subarray(0, 20), { fds: [fd] });
  assert.match((await talk.ended())!.message, /payload of 20 bytes/, 'trap 3');
  talk.backend.close();
});

test('the region stays while rings stop and start; it cannot be replaced while they run', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  const { fd, size } = await region(talk);
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  assert.is.not(await give(talk, description(size, 0, 4, 16), [fd]), 0n, 'a ring runs');
  const mapping = talk.platform.map(fd, 0n, BigInt(size));
  const view = new DataView(talk.platform.windows.u8[mapping.firstWindow]!.buffer);
  const marks = () => Array.from({ length: 16 }, (_, i) => view.getUint8(16 + 16 * i));
  assert.is(view.getUint16(8, true), 1, 'kept although the front-end did not hand it back');
  talk.device.hold = true;
  ring.offer();
  ring.offer();
  await until(() => talk.device.held.length === 2, 'two chains are with the device');
  assert.equal(marks().slice(0, 4), [0, 1, 1, 0]);
  talk.frontend.send(Request.getVringBase, bytes(0, 0));
  await turns(10);
  talk.device.finish();
  assert.is(Buffer.from((await talk.frontend.receive())!.payload).readUInt32LE(4), 3);
  assert.not(marks().includes(1), 'nothing is in flight in a stopped ring');
  assert.is(view.getUint16(14, true), 3, 'it stands where the ring does');
  talk.device.hold = false;
  talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [ring.kick.fd] });
  ring.offer();
  await ring.used(4);
  assert.is(talk.device.served, 4);
  await talk.close();
});

test('a ring beyond the region is served without it, one larger than the region is not started', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  await region(talk, 1, 8);
  const large = RunningRing.start(talk, guest, { index: 0, size: 16 });
  const beyond = RunningRing.start(talk, guest, { index: 1, size: 16 });
  large.offer();
  beyond.offer();
  await beyond.used(1);
  assert.is(large.ring.usedIndex, 0);
  assert.is(large.err.take(), 1n);
  assert.match(
    talk.logs.find(({ level }) => level === 'error')!.message,
    /room for 8 descriptors, the ring has 16/,
  );
  await talk.close();
});

test('memory that is replaced with a chain in flight: the record goes on in the same place', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  const { fd, size } = await region(talk);
  const ring = RunningRing.start(talk, guest);
  talk.device.hold = true;
  ring.offer();
  await until(() => talk.device.held.length === 1, 'one chain is with the device');
  const more = new SharedGuest(talk.platform, 0x1000, 0x10_0000);
  talk.frontend.send(Request.addMemReg, bytes(0n, more.region), { fds: [more.fd] });
  ring.offer();
  await turns(10);
  assert.is(talk.device.held.length, 1, 'waits for the one in flight');
  talk.device.finish();
  await until(() => talk.device.held.length === 1, 'the next is with the device');
  await talk.close();
  const next = await open(talk.platform);
  assert.is(await give(next, description(size, 0, 4, 16), [fd]), 0n);
  const again = RunningRing.start(next, guest);
  await again.used(2);
  assert.is(next.device.served, 1);
  await next.close();
});

test('a guest that starts over: the region is begun anew, with another size as well', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  const { fd, size } = await region(talk);
  const ring = RunningRing.start(talk, guest);
  for (let i = 0; i < 3; i++) ring.offer();
  await ring.used(3);
  await talk.close();
  // The back-end was away while the guest rebooted: nobody asked it where the ring stood.
  new Uint8Array(guest.view(0, guest.size).buffer).fill(0);
  const next = await open(talk.platform);
  assert.is(await give(next, description(size, 0, 4, 16), [fd]), 0n);
  const again = RunningRing.start(next, guest, { size: 8 });
  for (let i = 0; i < 5; i++) again.offer();
  await again.used(5);
  await next.close();
});

test('what a device that failed has left is done again, but not for a guest that has started over', async () => {
  for (const anew of [false, true]) {
    const talk = await open();
    const guest = new SharedGuest(talk.platform);
    await region(talk);
    const ring = RunningRing.start(talk, guest);
    ring.offer();
    await ring.used(1);
    talk.device.hold = true;
    ring.offer();
    await until(() => talk.device.held.length === 1, 'one chain is with the device');
    talk.device.held[0]!.queue.fail(new Error('broken'));
    talk.device.held.splice(0);
    talk.device.hold = false;
    talk.frontend.send(Request.resetDevice);
    await talk.frontend.ask(Request.getVringBase, bytes(0, 0));
    talk.frontend.send(Request.setFeatures, bytes(SPLIT));
    if (anew) {
      new Uint8Array(guest.view(0, guest.size).buffer).fill(0);
      talk.frontend.send(Request.setVringBase, bytes(0, 0));
    }
    talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [ring.kick.fd] });
    talk.frontend.send(Request.setVringEnable, bytes(0, 1));
    await turns(20);
    assert.is(talk.device.served, anew ? 2 : 3);
    assert.is(ring.ring.usedIndex, anew ? 0 : 2);
    await talk.close();
  }
});

// --- GET_VRING_BASE_SKIP_DRAIN

async function skipDrain(talk: Conversation): Promise<number> {
  const { payload } = await talk.frontend.ask(Request.getVringBaseSkipDrain, bytes(0, 0));
  return Buffer.from(payload).readUInt32LE(4);
}

test('SKIP_DRAIN: chains stay in the region, what completes later is dropped, the next start does them', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  await region(talk);
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  talk.device.hold = talk.device.lets = true;
  ring.offer();
  ring.offer();
  await until(() => talk.device.held.length === 2, 'two chains are with the device');
  assert.is(await skipDrain(talk), 3, 'where the driver will go on, two ahead of the used index');
  assert.is(ring.ring.usedIndex, 1);
  const old = talk.device.held.splice(0);
  const mappings = talk.platform.mappingCount;
  talk.frontend.send(Request.remMemReg, bytes(0n, guest.region));
  await talk.frontend.ask(Request.getStatus);
  assert.is(talk.platform.mappingCount, mappings, 'the chains are in memory that stays mapped');
  for (const { queue, handle } of old) queue.complete(handle, 64);
  assert.is(talk.platform.mappingCount, mappings - 1);
  assert.is(ring.ring.usedIndex, 1, 'nobody is told');
  talk.device.hold = false;
  talk.frontend.send(Request.addMemReg, bytes(0n, guest.region), { fds: [guest.fd] });
  talk.frontend.send(Request.setVringBase, bytes(0, 3));
  talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [ring.kick.fd] });
  await ring.used(3);
  assert.is(talk.device.served, 5);
  assert.equal([ring.ring.used(1).id, ring.ring.used(2).id], [1, 2]);
  await talk.close();
});

test('SKIP_DRAIN: a device that cannot take its writes back is waited for, and so is one without a region', async () => {
  for (const [lets, tracked] of [
    [false, true],
    [true, false],
  ] as const) {
    const talk = await open();
    const guest = new SharedGuest(talk.platform);
    if (tracked) await region(talk);
    const ring = RunningRing.start(talk, guest);
    talk.device.hold = true;
    talk.device.lets = lets;
    ring.offer();
    await until(() => talk.device.held.length === 1, 'one chain is with the device');
    let told = false;
    const base = skipDrain(talk).then((at) => {
      told = true;
      return at;
    });
    await turns(20);
    assert.not(told);
    talk.device.finish();
    assert.is(await base, 1);
    assert.is(ring.ring.usedIndex, 1, 'what it has done is reported');
    await talk.close();
  }
});

// --- a front-end that comes back to the same process

test('a front-end that comes back is served when the old chains have ended: no late write meets a newer one', async () => {
  const platform = createFakePlatform();
  const device = new RecordingDevice();
  using backend = serveDevice(device, { platform, socketPath: '/run/one.sock', spinMicroseconds: 0 });
  const connect = async (): Promise<Conversation> => {
    const frontend = new RawFrontend(platform, await platform.connect('/run/one.sock'));
    // Of a conversation, `RunningRing` and `region` use the front-end.
    const talk = { frontend, platform, device } as Conversation;
    await Conversation.prototype.negotiate.call(talk, SPLIT);
    return talk;
  };
  const first = await connect();
  const guest = new SharedGuest(platform);
  const { fd, size } = await region(first);
  const ring = RunningRing.start(first, guest);
  device.hold = true;
  ring.offer();
  await until(() => device.held.length === 1, 'a chain is with the device');
  const old = device.held.splice(0);
  first.frontend.close();
  await until(() => backend.session === null, 'the session is over');

  const second = await connect();
  device.hold = false;
  assert.is(await give(second, description(size, 0, 4, 16), [fd]), 0n);
  const again = RunningRing.start(second, guest);
  again.offer();
  await turns(50);
  await second.frontend.ask(Request.getStatus);
  assert.is(device.served, 1, 'the conversation goes on, the ring waits');
  // The old write lands; only then the request is done again, and what came after it.
  for (const { queue, handle } of old) queue.complete(handle, 64);
  await again.used(2);
  assert.is(device.served, 3);
  assert.is(again.answer(0), 0x42);
  second.frontend.close();
});

test('chains of a process before are resumed when nothing is written any more that it began', async () => {
  const talk = await open();
  const { platform } = talk;
  const guest = new SharedGuest(platform);
  const { fd, size } = await region(talk);
  talk.frontend.send(Request.setInflightFd, description(size, 0, 4, 16), { fds: [fd] });
  talk.device.hold = true;
  const rings = [0, 1].map((index) => RunningRing.start(talk, guest, { index }));
  for (const ring of rings) ring.offer();
  await until(() => talk.device.held.length === 2, 'a chain of each ring is with the device');
  assert.is(talk.device.asked, 0, 'nothing is resumed');
  await talk.close();

  const next = await open(platform);
  let settle!: () => void;
  next.device.settling = new Promise((resolve) => (settle = resolve));
  next.frontend.send(Request.setInflightFd, description(size, 0, 4, 16), { fds: [fd] });
  const again = [0, 1].map((index) => RunningRing.start(next, guest, { index, base: 0 }));
  await next.frontend.ask(Request.getFeatures);
  await turns(20);
  assert.is(next.device.asked, 1, 'once, not for each ring');
  assert.equal(
    [next.device.served, ...again.map(({ ring }) => ring.usedIndex)],
    [0, 0, 0],
    'the conversation goes on, the rings wait',
  );
  settle();
  for (const ring of again) await ring.used(1);
  await next.close();
});

test('a device that fails to say what another process still writes loses the ring that asked', async () => {
  const cause = new Error('no idea');
  const throws = (): null => {
    throw cause;
  };
  for (const fails of [() => Promise.reject(cause), throws]) {
    const talk = await open();
    const { platform } = talk;
    const guest = new SharedGuest(platform);
    const { fd, size } = await region(talk);
    talk.frontend.send(Request.setInflightFd, description(size, 0, 4, 16), { fds: [fd] });
    talk.device.hold = true;
    RunningRing.start(talk, guest).offer();
    await until(() => talk.device.held.length === 1, 'a chain is with the device');
    await talk.close();

    const next = await open(platform);
    next.device.settled = fails;
    next.frontend.send(Request.setInflightFd, description(size, 0, 4, 16), { fds: [fd] });
    const [again, other] = [0, 1].map((index) => RunningRing.start(next, guest, { index, base: 0 }));
    other!.offer();
    await other!.used(1);
    assert.is(again!.ring.usedIndex, 0);
    assert.is(again!.err.take(), 1n);
    assert.match(next.logs.map(({ message }) => message).join(), /the device failed: no idea/);
    await next.close();
  }
});

test.run();
