import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { FakePlatform } from '../../runtime/platform/fake.js';
import { Conversation, RunningRing, SharedGuest } from '../support/conversation.js';
import {
  bytes,
  PROTOCOL_FEATURES,
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

test.run();
