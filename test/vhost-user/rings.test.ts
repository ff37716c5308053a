import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  Conversation,
  memoryTable,
  RunningRing,
  SharedGuest,
  singleRegion,
  USER,
  vringAddress,
} from '../support/conversation.js';
import {
  bytes,
  NO_FD,
  PROTOCOL_FEATURES,
  Request,
  RING_PACKED,
  turns,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';
import { RawPackedRing, WRITE } from '../support/raw-rings.js';

const test = suite('ring states');

async function open(features?: bigint): Promise<{ talk: Conversation; guest: SharedGuest }> {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate(features);
  return { talk, guest };
}

/** GET_VRING_BASE's num. */
async function base(talk: Conversation, index: number): Promise<number> {
  const { payload } = await talk.frontend.ask(Request.getVringBase, bytes(index, 0));
  assert.is(Buffer.from(payload).readUInt32LE(0), index);
  return Buffer.from(payload).readUInt32LE(4);
}

test('a ring serves chains that were there before it started, without a kick', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  ring.offer(false);
  await ring.used(1);
  assert.is(ring.answer(0), 0x41);
  await talk.close();
});

test('chains, kicks and calls', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  await talk.frontend.ask(Request.getStatus);
  await turns(3);
  ring.call.take();
  for (let i = 1; i <= 40; i++) {
    ring.offer();
    await ring.used(i);
    assert.is(ring.answer(i - 1), 0x41 + ((i - 1) % 26));
    assert.is(ring.call.take(), 1n);
  }
  assert.is(talk.device.queues.get(0)!.counters.calls, 40);
  assert.ok(talk.device.queues.get(0)!.counters.kicks > 0);
  await talk.close();
});

test('the parts of a ring may come in any order', async () => {
  const parts = ['num', 'addr', 'table', 'kick', 'enable'] as const;
  for (let rotation = 0; rotation < parts.length; rotation++) {
    const { talk, guest } = await open();
    const { frontend } = talk;
    const kick = frontend.eventFd();
    const ring = new RawPackedRing(guest, 16);
    void ring;
    for (let i = 0; i < parts.length; i++) {
      const part = parts[(i + rotation) % parts.length];
      const areas = { descriptorAddress: 0x1000, driverAddress: 0x1100, deviceAddress: 0x1200 };
      if (part === 'num') frontend.send(Request.setVringNum, bytes(0, 16));
      if (part === 'addr') frontend.send(Request.setVringAddr, vringAddress(0, areas));
      if (part === 'table') frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
      if (part === 'kick') frontend.send(Request.setVringKick, bytes(0n), { fds: [kick.fd] });
      if (part === 'enable') frontend.send(Request.setVringEnable, bytes(0, 1));
      await frontend.ask(Request.getStatus);
      assert.is(talk.device.events.includes('start 0'), i === parts.length - 1, `${rotation}: after ${part}`);
    }
    await talk.close();
  }
});

test('a ring that was never started stops and answers too', async () => {
  const { talk } = await open();
  assert.is(await base(talk, 3), 0);
  talk.frontend.send(Request.setVringBase, bytes(3, 77));
  assert.is(await base(talk, 3), 77);
  await talk.close();
});

test('stop and start go on where the ring stood', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  for (let i = 1; i <= 5; i++) {
    ring.offer();
    await ring.used(i);
  }
  assert.is(await base(talk, 0), 5);
  assert.equal(
    talk.device.events.filter((event) => event.startsWith('st')),
    ['start 0', 'stop 0'],
  );
  ring.offer();
  await turns(20);
  assert.is(ring.ring.usedIndex, 5, 'a stopped ring is not touched');
  talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [ring.kick.fd] });
  await ring.used(6);
  await talk.close();
});

test('a base of 0 for a ring that was used goes on where its used entries end (DPDK as a server)', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  for (let i = 1; i <= 20; i++) {
    ring.offer();
    await ring.used(i);
  }
  assert.is(await base(talk, 0), 20);
  ring.offer();
  ring.offer();
  talk.frontend.send(Request.setVringBase, bytes(0, 0));
  talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [ring.kick.fd] });
  await ring.used(22);
  await talk.close();
});

test('a ring that was never used begins at its base', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest, { base: 65_533, enable: false });
  ring.ring.availableIndex = 65_533;
  for (let i = 1; i <= 5; i++) ring.offer();
  talk.frontend.send(Request.setVringEnable, bytes(0, 1));
  await ring.used(5);
  assert.is(await base(talk, 0), 2);
  await talk.close();
});

test('rings may be disabled and stopped before anything is negotiated (DPDK as a server)', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  for (let index = 0; index < 2; index++) talk.frontend.send(Request.setVringEnable, bytes(index, 0));
  for (let index = 0; index < 2; index++) assert.is(await base(talk, index), 0);
  await talk.negotiate();
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  await talk.close();
});

test('GET_VRING_BASE waits for the chains in flight, and what is asked behind it waits with it', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  talk.device.hold = true;
  ring.offer();
  ring.offer();
  await until(() => talk.device.held.length === 2, 'chains in flight');
  talk.frontend.send(Request.getVringBase, bytes(0, 0));
  talk.frontend.send(Request.getQueueNum);
  ring.offer();
  await turns(50);
  assert.is(talk.device.held.length, 2, 'a stopping ring takes no more');
  talk.device.finish();
  const answers = [(await talk.frontend.receive())!, (await talk.frontend.receive())!];
  assert.equal(
    answers.map(({ request }) => request),
    [Request.getVringBase, Request.getQueueNum],
  );
  assert.is(Buffer.from(answers[0]!.payload).readUInt32LE(4), 2);
  assert.is(ring.ring.usedIndex, 2);
  await talk.close();
});

test('a front-end that leaves while its ring drains ends the session at once; memory stays until the last completion', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  talk.device.hold = true;
  ring.offer();
  ring.offer();
  await until(() => talk.device.held.length === 2, 'chains in flight');
  talk.frontend.send(Request.getVringBase, bytes(0, 0));
  await turns(5);
  const mapped = talk.platform.mappingCount;
  await talk.close();
  assert.is(talk.platform.mappingCount, mapped, 'the device may still write there');
  const [first, second] = talk.device.held.splice(0);
  first!.queue.complete(first!.handle, 0);
  first!.queue.commit();
  assert.is(talk.platform.mappingCount, mapped);
  second!.queue.complete(second!.handle, 0);
  second!.queue.commit();
  assert.is(talk.platform.mappingCount, mapped - 1);
  assert.is(ring.ring.usedIndex, 0, 'the ring belongs to whoever comes next');
});

test('trap 10: SET_VRING_KICK without an fd means that the ring is polled', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  assert.is(await base(talk, 0), 0);
  talk.frontend.send(Request.setVringKick, bytes(NO_FD));
  for (let i = 1; i <= 5; i++) {
    ring.offer(false);
    await ring.used(i);
  }
  talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [ring.kick.fd] });
  ring.offer();
  await ring.used(6);
  await talk.close();
});

test('kick, call and err fds are replaced while the ring runs', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  const open_ = talk.platform.openFdCount;
  const [kick, call, err] = [talk.frontend.eventFd(), talk.frontend.eventFd(), talk.frontend.eventFd()];
  talk.frontend.send(Request.setVringKick, bytes(0n), { fds: [kick.fd] });
  talk.frontend.send(Request.setVringCall, bytes(0n), { fds: [call.fd] });
  talk.frontend.send(Request.setVringErr, bytes(0n), { fds: [err.fd] });
  await talk.frontend.ask(Request.getStatus);
  assert.is(talk.platform.openFdCount, open_ + 3, 'the old ones are closed');
  await turns(5);
  call.take();
  ring.offer(false);
  kick.signal();
  await ring.used(2);
  assert.is(call.take(), 1n);
  await talk.close();
});

test('size and base of a running ring cannot change', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  assert.is(await talk.frontend.acknowledged(Request.setVringNum, bytes(0, 32)), 1n);
  assert.is(await talk.frontend.acknowledged(Request.setVringBase, bytes(0, 3)), 1n);
  ring.offer();
  await ring.used(1);
  await talk.close();
});

test('SET_VRING_ADDR comes again with another log flag while the ring runs', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  assert.is(await talk.frontend.acknowledged(Request.setVringAddr, vringAddress(0, ring.ring, 1)), 0n);
  ring.offer();
  await ring.used(1);
  const nowhere = { descriptorAddress: 0x100_0000, driverAddress: 0x100_0000, deviceAddress: 0x100_0000 };
  assert.is(await talk.frontend.acknowledged(Request.setVringAddr, vringAddress(0, nowhere)), 1n);
  ring.offer();
  await ring.used(2);
  await talk.close();
});

/** Which area is off by how much: the largest offsets that are multiples of half of what is asked for. */
const MISALIGNED = {
  split: [
    ['descriptorAddress', 8],
    ['driverAddress', 1],
    ['deviceAddress', 2],
  ],
  packed: [
    ['descriptorAddress', 8],
    ['driverAddress', 2],
    ['deviceAddress', 2],
  ],
} as const;
for (const format of ['split', 'packed'] as const) {
  for (const [area, offset] of MISALIGNED[format]) {
    test(`${format}: a misaligned ${area} is refused while the ring runs, and the ring goes on`, async () => {
      const { talk, guest } = await open(format === 'packed' ? PACKED : undefined);
      let good: Parameters<typeof vringAddress>[1];
      let serve: (round: number) => Promise<void>;
      if (format === 'split') {
        const running = RunningRing.start(talk, guest);
        good = running.ring;
        serve = (round) => (running.offer(), running.used(round));
      } else {
        const ring = await startPacked(talk, guest, 8, 0x8000);
        good = ring;
        serve = async (round) => {
          ring.offer(0, [{ address: 0x1_0000, length: 8, flags: WRITE }]);
          talk.session.vring(0).host!.kick();
          await until(() => ring.poll() !== null, `chain ${round} used`);
        };
      }
      await serve(1);
      const { descriptorAddress, driverAddress, deviceAddress } = good;
      const bad = { descriptorAddress, driverAddress, deviceAddress };
      bad[area] += offset;
      assert.is(await talk.frontend.acknowledged(Request.setVringAddr, vringAddress(0, bad)), 1n);
      assert.match(talk.logs.at(-1)!.message, /expected a multiple of \d+ as user address/);
      assert.is(talk.session.vring(0).broken, null);
      await serve(2);
      // What was refused is not taken up by the next change either.
      assert.is(await talk.frontend.acknowledged(Request.setMemTable, memoryTable(guest), [guest.fd]), 0n);
      await serve(3);
      await talk.close();
    });
  }
}

test('misaligned addresses of a ring that does not run are refused and those before stay', async () => {
  const { talk, guest } = await open();
  const { frontend } = talk;
  const areas = { descriptorAddress: 0x1000, driverAddress: 0x1100, deviceAddress: 0x1200 };
  frontend.send(Request.setVringAddr, vringAddress(0, areas));
  frontend.send(Request.setVringNum, bytes(0, 16));
  const bad = vringAddress(0, { ...areas, deviceAddress: 0x1202 });
  assert.is(await frontend.acknowledged(Request.setVringAddr, bad), 1n);
  frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
  const kick = frontend.eventFd();
  assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 0n);
  assert.ok(talk.session.running);
  await talk.close();
});

for (const index of [4, 0x100, 0x1_0000, 0x1_0001, 0xffff_ffff]) {
  test(`C4, trap 11: ring ${index} of 4 is refused in every message before its index is narrowed`, async () => {
    const { talk } = await open();
    const { frontend } = talk;
    assert.is(await frontend.acknowledged(Request.setVringNum, bytes(index, 16)), 1n);
    assert.is(await frontend.acknowledged(Request.setVringBase, bytes(index, 0)), 1n);
    assert.is(await frontend.acknowledged(Request.setVringEnable, bytes(index, 1)), 1n);
    assert.is(await frontend.acknowledged(Request.getVringBase, bytes(index, 0)), 1n);
    const areas = { descriptorAddress: 0x1000, driverAddress: 0x1100, deviceAddress: 0x1200 };
    assert.is(await frontend.acknowledged(Request.setVringAddr, vringAddress(index, areas)), 1n);
    assert.is([...talk.session.vrings].length, 0);
    await talk.close();
  });
}

test('trap 11: only bits 0 to 7 of the kick, call and err payload name the ring', async () => {
  const { talk } = await open();
  const { frontend, platform } = talk;
  assert.is(await frontend.acknowledged(Request.setVringCall, bytes(NO_FD | 3n)), 0n);
  assert.is(await frontend.acknowledged(Request.setVringCall, bytes(NO_FD | 4n)), 1n);
  const event = frontend.eventFd();
  const before = platform.openFdCount;
  assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0x200n), [event.fd]), 1n);
  assert.is(await frontend.acknowledged(Request.setVringErr, bytes(1n << 63n), [event.fd]), 1n);
  assert.is(platform.openFdCount, before);
  await talk.close();
});

test('a fd that is no eventfd is refused and closed', async () => {
  const { talk, guest } = await open();
  const before = talk.platform.openFdCount;
  for (const request of [Request.setVringKick, Request.setVringCall, Request.setVringErr]) {
    assert.is(await talk.frontend.acknowledged(request, bytes(0n), [guest.fd]), 1n);
  }
  assert.is(talk.platform.openFdCount, before);
  await talk.close();
});

for (const size of [0, 1025, 0x1_0000, 0xffff_ffff]) {
  test(`a ring of ${size} entries is refused`, async () => {
    const { talk } = await open();
    assert.is(await talk.frontend.acknowledged(Request.setVringNum, bytes(0, size)), 1n);
    await talk.close();
  });
}

test('a split ring whose size is no power of two is refused when it would start', async () => {
  const { talk, guest } = await open();
  const { frontend } = talk;
  frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
  frontend.send(Request.setVringNum, bytes(0, 12));
  const areas = { descriptorAddress: 0x1000, driverAddress: 0x1100, deviceAddress: 0x1200 };
  frontend.send(Request.setVringAddr, vringAddress(0, areas));
  const kick = frontend.eventFd();
  assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 1n);
  assert.not.ok(talk.session.vring(0).started);
  frontend.send(Request.setVringNum, bytes(0, 16));
  assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 0n);
  await talk.close();
});

test('a ring whose addresses do not lie in memory does not start', async () => {
  const { talk, guest } = await open();
  const { frontend } = talk;
  frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
  frontend.send(Request.setVringNum, bytes(0, 16));
  const kick = frontend.eventFd();
  for (const address of [guest.size, guest.size - 16, -16, 0x7fff_0000_0000]) {
    const areas = { descriptorAddress: address, driverAddress: 0x1100, deviceAddress: 0x1200 };
    frontend.send(Request.setVringAddr, vringAddress(0, areas));
    assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 1n);
  }
  assert.match(talk.logs.at(-1)!.message, /do not lie in memory regions/);
  await talk.close();
});

test('a broken ring is reported by its err fd, log and status; the others go on', async () => {
  const { talk, guest } = await open();
  const bad = RunningRing.start(talk, guest);
  const good = RunningRing.start(talk, guest, { index: 1, table: false });
  good.offer();
  await good.used(1);
  bad.ring.offer(999);
  bad.kick.signal();
  await until(() => bad.err.take() === 1n, 'the err fd is signalled');
  assert.match(talk.logs.at(-1)!.message, /queue 0: /);
  assert.is(talk.logs.at(-1)!.level, 'error');
  const status = await talk.frontend.ask(Request.getStatus);
  assert.is(status.payload[0]! & 0x40, 0x40, 'DEVICE_NEEDS_RESET');
  bad.kick.signal();
  good.offer();
  await good.used(2);
  assert.is(bad.err.take(), 0n, 'once');
  await base(talk, 0);
  assert.is((await talk.frontend.ask(Request.getStatus)).payload[0]! & 0x40, 0);
  await talk.close();
});

test('a device that throws breaks its queue and nothing else', async () => {
  const { talk, guest } = await open();
  const bad = RunningRing.start(talk, guest);
  const good = RunningRing.start(talk, guest, { index: 1, table: false });
  good.offer();
  await good.used(1);
  talk.device.failure = new Error('out of luck');
  bad.offer();
  await until(() => bad.err.take() === 1n, 'the err fd is signalled');
  assert.match(talk.logs.at(-1)!.message, /out of luck/);
  good.offer();
  await good.used(2);
  assert.is(await base(talk, 0), 0);
  await talk.close();
});

test('a device that fails with chains in flight: the ring stops at once, their memory stays until they are completed', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  talk.device.hold = true;
  ring.offer();
  await until(() => talk.device.held.length === 1, 'a chain in flight');
  talk.device.failure = new Error('out of luck');
  ring.offer();
  await until(() => ring.err.take() === 1n, 'the err fd is signalled');
  await base(talk, 0);
  const mapped = talk.platform.mappingCount;
  await talk.close();
  assert.is(talk.platform.mappingCount, mapped);
  talk.device.finish();
  assert.is(talk.platform.mappingCount, mapped - 1);
});

test('RESET_DEVICE and status 0 drain, stop and disable the rings and reset the device', async () => {
  for (const [request, payload] of [
    [Request.resetDevice, bytes()],
    [Request.setStatus, bytes(0n)],
  ] as const) {
    const { talk, guest } = await open();
    const ring = RunningRing.start(talk, guest);
    talk.device.hold = true;
    talk.frontend.send(Request.setStatus, bytes(0xfn));
    ring.offer();
    await until(() => talk.device.held.length === 1, 'a chain in flight');
    talk.frontend.send(request, payload, { needReply: true });
    await turns(20);
    assert.not.ok(talk.device.events.includes('reset'), 'it waits for the chains');
    talk.device.finish();
    assert.is((await talk.frontend.receive())!.request, request);
    assert.equal(talk.device.events.slice(-2), ['stop 0', 'reset']);
    assert.is((await talk.frontend.ask(Request.getStatus)).payload[0], 0);
    assert.is(await base(talk, 0), 1, 'QEMU 7 asks for the bases after the status');
    assert.not.ok(talk.session.vring(0).enabled);
    assert.is(
      await talk.frontend.acknowledged(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES)),
      0n,
    );
    await talk.close();
  }
});

test('a ring that was reset starts afresh, from a base only when one is set', async () => {
  for (const given of [null, 0, 1]) {
    const { talk, guest } = await open();
    const before = RunningRing.start(talk, guest);
    before.offer();
    await before.used(1);
    talk.frontend.send(Request.setStatus, bytes(0n));
    assert.is(await base(talk, 0), 1);
    talk.frontend.send(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES));
    // The new ring's memory is that of the old one, where one chain is offered and used.
    if (given !== 1) before.ring.usedIndex = 0;
    const ring = RunningRing.start(talk, guest, { table: false, base: given });
    if (given === 1) {
      await turns(20);
      assert.is(ring.ring.usedIndex, 1, 'nothing new');
    } else {
      await ring.used(1);
    }
    await talk.close();
  }
});

test('the status byte is kept; more than eight bits are refused', async () => {
  const { talk } = await open();
  assert.is(await talk.frontend.acknowledged(Request.setStatus, bytes(0xbn)), 0n);
  assert.is((await talk.frontend.ask(Request.getStatus)).payload[0], 0xb);
  assert.is(await talk.frontend.acknowledged(Request.setStatus, bytes(0x100n)), 1n);
  await talk.close();
});

test('RESET_OWNER disables the rings', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  assert.is(await talk.frontend.acknowledged(Request.resetOwner), 0n);
  ring.offer();
  await turns(30);
  assert.is(ring.ring.usedIndex, 1);
  await talk.close();
});

const PACKED = VERSION_1 | PROTOCOL_FEATURES | RING_PACKED;

async function startPacked(
  talk: Conversation,
  guest: SharedGuest,
  size: number,
  start: number,
): Promise<RawPackedRing> {
  const { frontend } = talk;
  const ring = new RawPackedRing(guest, size);
  const kick = frontend.eventFd();
  frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
  frontend.send(Request.setVringNum, bytes(0, size));
  frontend.send(Request.setVringBase, bytes(0, start));
  frontend.send(Request.setVringAddr, vringAddress(0, ring));
  frontend.send(Request.setVringEnable, bytes(0, 1));
  assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 0n);
  return ring;
}

for (const [what, start] of [
  ['no SET_VRING_BASE worth the name (DPDK: 16 bits)', 0x8000],
  ['both halves', 0x8000_8000],
] as const) {
  test(`trap 1, packed 43: a packed ring starts from ${what} and answers with both halves`, async () => {
    const { talk, guest } = await open(PACKED);
    const ring = await startPacked(talk, guest, 5, start);
    for (let i = 0; i < 7; i++) {
      ring.offer(i % 5, [{ address: 0x1_0000, length: 8, flags: WRITE }]);
      talk.session.vring(0).host!.kick();
      await until(() => ring.poll() !== null, `chain ${i} used`);
    }
    // 7 slots of 5: position 2 in the second lap, whose wrap counter is 0.
    assert.is(await base(talk, 0), 0x0002_0002);
    await talk.close();
  });
}

test('trap 1: an upper half of zero means "as the lower half"', async () => {
  const { talk, guest } = await open(PACKED);
  const ring = await startPacked(talk, guest, 8, 0x8003);
  ring.cursor = ring.usedCursor = 3;
  ring.offer(0, [{ address: 0x1_0000, length: 8, flags: WRITE }]);
  talk.session.vring(0).host!.kick();
  await until(() => ring.poll() !== null, 'the chain is used');
  assert.is(await base(talk, 0), 0x8004_8004);
  await talk.close();
});

test('a packed ring that was never started stands at its start with both wrap counters 1', async () => {
  const { talk } = await open(PACKED);
  assert.is(await base(talk, 0), 0x8000_8000);
  await talk.close();
});

test('a base outside the ring, or of more than 16 bits for a split one, is refused', async () => {
  const split = await open();
  assert.is(await split.talk.frontend.acknowledged(Request.setVringBase, bytes(0, 0x1_0000)), 1n);
  await split.talk.close();
  const packed = await open(PACKED);
  const { frontend } = packed.talk;
  frontend.send(Request.setMemTable, memoryTable(packed.guest), { fds: [packed.guest.fd] });
  frontend.send(Request.setVringNum, bytes(0, 8));
  frontend.send(Request.setVringBase, bytes(0, 0x8008));
  frontend.send(Request.setVringAddr, vringAddress(0, new RawPackedRing(packed.guest, 8)));
  const kick = frontend.eventFd();
  assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 1n);
  await packed.talk.close();
});

test('trap 12: the memory table is replaced while rings run', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  const more = new SharedGuest(talk.platform, 0x1_0000, 0x10_0000);
  const fds = [guest.fd, more.fd];
  const mapped = talk.platform.mappingCount;
  assert.is(await talk.frontend.acknowledged(Request.setMemTable, memoryTable(guest, more), fds), 0n);
  assert.is(talk.platform.mappingCount, mapped + 1, 'the old mapping is gone');
  ring.offer();
  await ring.used(2);
  await talk.close();
});

test('trap 12: with chains in flight the table is answered at once, and the ring moves when they are done', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  talk.device.hold = true;
  ring.offer();
  await until(() => talk.device.held.length === 1, 'a chain in flight');
  const mapped = talk.platform.mappingCount;
  // Shorter than before, so it is mapped afresh.
  const table = bytes(1, 0, 0n, 0x3_0000n, BigInt(USER), 0n);
  assert.is(await talk.frontend.acknowledged(Request.setMemTable, table, [guest.fd]), 0n);
  assert.is(talk.platform.mappingCount, mapped + 1, 'the chain points into the old mapping');
  ring.offer();
  await turns(20);
  assert.is(talk.device.held.length, 1, 'nothing more is taken meanwhile');
  talk.device.finish();
  assert.is(ring.ring.usedIndex, 1);
  assert.is(talk.platform.mappingCount, mapped);
  await until(() => talk.device.held.length === 1, 'the next chain is taken');
  talk.device.finish();
  await ring.used(2);
  await talk.close();
});

test('a ring whose memory is taken away waits until it is there again', async () => {
  const { talk, guest } = await open();
  const { frontend } = talk;
  frontend.send(Request.addMemReg, singleRegion(guest), { fds: [guest.fd] });
  const ring = RunningRing.start(talk, guest, { table: false });
  ring.offer();
  await ring.used(1);
  const mapped = talk.platform.mappingCount;
  assert.is(await frontend.acknowledged(Request.remMemReg, singleRegion(guest)), 0n);
  assert.is(talk.platform.mappingCount, mapped - 1);
  ring.offer();
  await turns(20);
  assert.is(ring.ring.usedIndex, 1);
  assert.is(await frontend.acknowledged(Request.addMemReg, singleRegion(guest), [guest.fd]), 0n);
  await ring.used(2);
  assert.is(await frontend.acknowledged(Request.remMemReg, singleRegion(guest)), 0n);
  assert.is(await base(talk, 0), 2, 'it stops without its memory too');
  await talk.close();
});

test('a front-end that truncates its memory loses the session', async () => {
  const { talk, guest } = await open();
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  talk.platform.truncateSharedMemory(guest.fd, 0);
  ring.kick.signal();
  assert.is((await talk.ended())?.code, 'ERR_VHOST_STATE');
  assert.ok(await talk.frontend.hungUp());
});

test.run();
