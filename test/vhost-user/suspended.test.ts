/**
 * A device all of whose rings are stopped is suspended (vhost-user, "Suspended device state"): it writes no guest memory, calls
 * nobody, sends nothing, and still answers. What a ring did goes on elsewhere from its base.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import type { SocketStream } from '../../runtime/platform/platform.js';
import {
  Conversation,
  memoryTable,
  RunningRing,
  SharedGuest,
  vringAddress,
} from '../support/conversation.js';
import { RawPackedRing, WRITE } from '../support/raw-rings.js';
import {
  bytes,
  LOG_ALL,
  PROTOCOL_FEATURES,
  RawFrontend,
  Request,
  RING_PACKED,
  turns,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';

const test = suite('suspended device');
const FEATURES = VERSION_1 | PROTOCOL_FEATURES;

async function suspended(hold = false) {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate(FEATURES);
  const [mine, theirs] = talk.platform.socketPair();
  talk.frontend.send(Request.setBackendReqFd, bytes(), { fds: [theirs] });
  talk.platform.closeFd(theirs);
  const back = new RawFrontend(talk.platform, talk.platform.adoptSocket(mine) as SocketStream);
  const rings = [0, 1].map((index) => RunningRing.start(talk, guest, { index, table: index === 0 }));
  for (const ring of rings) {
    ring.offer();
    await ring.used(1);
  }
  const queues = [0, 1].map((index) => talk.device.queues.get(index)!);
  talk.device.hold = hold;
  for (const index of [0, 1]) await talk.frontend.ask(Request.getVringBase, bytes(index, 0));
  for (const ring of rings) [ring.call.take(), ring.err.take()];
  return { talk, guest, rings, queues, back };
}

type Suspended = Awaited<ReturnType<typeof suspended>>;

function memoryOf({ guest }: Suspended): Buffer {
  const view = guest.view(0, guest.size);
  return Buffer.from(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
}

function silent({ stream }: RawFrontend): boolean {
  return stream.receive(new Uint8Array(1), []) === -1;
}

async function end({ talk, rings, back, guest }: Suspended): Promise<void> {
  back.close();
  await talk.close();
  for (const ring of rings) ring.close();
  guest.close();
}

test('no byte of guest memory is written and nobody is called, whatever the driver offers and the device does', async () => {
  const all = await suspended();
  const { talk, rings, queues } = all;
  for (const ring of rings) ring.offer();
  const before = memoryOf(all);
  for (const queue of queues) {
    queue.resume();
    queue.commit();
  }
  talk.frontend.send(Request.setVringEnable, bytes(0, 0));
  talk.frontend.send(Request.setVringEnable, bytes(0, 1));
  talk.frontend.send(Request.setMemTable, memoryTable(all.guest), { fds: [all.guest.fd] });
  assert.is(await talk.frontend.acknowledged(Request.setFeatures, bytes(FEATURES | LOG_ALL)), 0n);
  await turns(30);
  assert.ok(memoryOf(all).equals(before));
  for (const ring of rings) {
    assert.is(ring.call.take(), 0n);
    assert.is(ring.err.take(), 0n);
  }
  await end(all);
});

test('a change of the configuration is told when a ring runs again, and not before', async () => {
  const all = await suspended();
  const { talk, back, rings } = all;
  talk.device.host!.configurationChanged();
  await turns(20);
  assert.ok(silent(back));
  talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [rings[0]!.kick.fd] });
  assert.is((await back.receive())!.request, 2);
  await end(all);
});

test('everything that is asked is answered', async () => {
  const all = await suspended();
  const { frontend } = all.talk;
  for (const [request, payload] of [
    [Request.getFeatures, bytes()],
    [Request.getProtocolFeatures, bytes()],
    [Request.getQueueNum, bytes()],
    [Request.getStatus, bytes()],
    [Request.getConfig, bytes(0, 8, 0, new Uint8Array(8))],
    [Request.getVringBase, bytes(0, 0)],
  ] as const) {
    assert.is((await frontend.ask(request, payload)).request, request);
  }
  await end(all);
});

test('one ring that runs is enough not to be suspended; chains of it are served', async () => {
  const all = await suspended();
  const { talk, rings } = all;
  const [first, second] = rings as [RunningRing, RunningRing];
  talk.frontend.send(Request.setVringKick, bytes(1n), { fds: [second.kick.fd] });
  first.offer();
  second.offer();
  await second.used(2);
  assert.is(first.ring.usedIndex, 1, 'the other one stays stopped');
  await end(all);
});

test('a ring that was stopped goes on from its base in another back-end: split', async () => {
  const platform = createFakePlatform();
  const guest = new SharedGuest(platform);
  const first = Conversation.open({ platform });
  await first.negotiate(FEATURES);
  const ring = RunningRing.start(first, guest, { size: 4 });
  for (let i = 1; i <= 7; i++) {
    ring.offer();
    await ring.used(i);
  }
  const reply = await first.frontend.ask(Request.getVringBase, bytes(0, 0));
  assert.equal([...reply.payload], [...bytes(0, 7)]);
  const second = Conversation.open({ platform });
  await second.negotiate(FEATURES);
  const { frontend } = second;
  frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
  frontend.send(Request.setVringNum, bytes(0, 4));
  frontend.send(Request.setVringBase, reply.payload);
  frontend.send(Request.setVringAddr, vringAddress(0, ring.ring));
  frontend.send(Request.setVringKick, bytes(0n), { fds: [ring.kick.fd] });
  frontend.send(Request.setVringEnable, bytes(0, 1));
  ring.offer();
  await ring.used(8);
  assert.is(first.device.served, 7);
  assert.is(second.device.served, 1, 'nothing twice, nothing left out');
  await first.close();
  await second.close();
});

for (const bits of [16, 32]) {
  for (const chains of [0, 3, 5, 7, 10]) {
    test(`trap 1: a packed ring goes on from its base in another back-end: ${chains} chains, a peer of ${bits} bits between`, async () => {
      const platform = createFakePlatform();
      const guest = new SharedGuest(platform);
      const ring = new RawPackedRing(guest, 5);
      let told = 0x8000_8000;
      let served = 0;
      for (const count of [chains, 4]) {
        const talk = Conversation.open({ platform });
        await talk.negotiate(FEATURES | RING_PACKED);
        const { frontend } = talk;
        const kick = frontend.eventFd();
        frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
        frontend.send(Request.setVringNum, bytes(0, 5));
        frontend.send(Request.setVringBase, bytes(0, told));
        frontend.send(Request.setVringAddr, vringAddress(0, ring));
        frontend.send(Request.setVringEnable, bytes(0, 1));
        assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 0n);
        for (let i = 0; i < count; i++) {
          ring.offer(i % 5, [{ address: 0x1_0000, length: 8, flags: WRITE }]);
          kick.signal();
          await until(() => ring.poll() !== null, `chain ${i} used`);
        }
        assert.is(talk.device.served, count);
        served += count;
        const { payload } = await frontend.ask(Request.getVringBase, bytes(0, 0));
        const position = (served % 5) | (Math.floor(served / 5) % 2 === 0 ? 0x8000 : 0);
        told = Buffer.from(payload).readUInt32LE(4);
        assert.is(told, (position | (position << 16)) >>> 0);
        if (bits === 16) told &= 0xffff;
        kick.close();
        await talk.close();
      }
      guest.close();
    });
  }
}

test.run();
