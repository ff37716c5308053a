import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import {
  Conversation,
  memoryTable,
  RunningRing,
  SharedGuest,
  singleRegion,
  USER,
} from '../support/conversation.js';
import { bytes, PROTOCOL_FEATURES, Request, u64Of, VERSION_1 } from '../support/raw-frontend.js';

const test = suite('memory of the front-end');

async function open(
  options = {},
): Promise<{ talk: Conversation; guest: SharedGuest; fds: number; mappings: number }> {
  const platform = createFakePlatform();
  const talk = Conversation.open({ platform, ...options });
  const guest = new SharedGuest(platform);
  await talk.negotiate();
  await talk.frontend.ask(Request.getStatus);
  return { talk, guest, fds: platform.openFdCount, mappings: platform.mappingCount };
}

/** A region of the guest's file, as it goes into a table. */
function region(
  guestAddress: number | bigint,
  size: number | bigint,
  user: number | bigint,
  offset: number | bigint = 0,
) {
  return bytes(BigInt(guestAddress), BigInt(size), BigInt(user), BigInt(offset));
}

test('the fds of a table are closed once its regions are mapped', async () => {
  const { talk, guest, fds, mappings } = await open();
  const table = bytes(2, 0, region(0, 0x1000, USER), region(0x1000, 0x1000, USER + 0x1000, 0x1000));
  assert.is(await talk.frontend.acknowledged(Request.setMemTable, table, [guest.fd, guest.fd]), 0n);
  assert.is(talk.platform.openFdCount, fds);
  assert.is(talk.platform.mappingCount, mappings + 2);
  await talk.close();
  assert.is(talk.platform.mappingCount, mappings);
});

test('an empty table takes all memory away', async () => {
  const { talk, guest, mappings } = await open();
  assert.is(await talk.frontend.acknowledged(Request.setMemTable, memoryTable(guest), [guest.fd]), 0n);
  assert.is(await talk.frontend.acknowledged(Request.setMemTable, bytes(0, 0)), 0n);
  assert.is(talk.platform.mappingCount, mappings);
  await talk.close();
});

const BAD_TABLES: [string, Uint8Array][] = [
  [
    'regions that overlap in the guest',
    bytes(2, 0, region(0, 0x2000, USER), region(0x1000, 0x1000, USER + 0x10000)),
  ],
  [
    'regions that overlap in user addresses',
    bytes(2, 0, region(0, 0x2000, USER), region(0x10000, 0x1000, USER + 0x1000)),
  ],
  ['an empty region', bytes(2, 0, region(0, 0, USER), region(0x10000, 0x1000, USER + 0x10000))],
  [
    'a region that wraps around',
    bytes(2, 0, region(0xffff_ffff_ffff_f000n, 0x2000, USER), region(0, 0x1000, 0)),
  ],
  [
    'a region longer than its file',
    bytes(2, 0, region(0, 0x1000, USER), region(0x10000, 0x100_0000, USER + 0x10000)),
  ],
  [
    'an offset near 2^64',
    bytes(2, 0, region(0, 0x1000, USER), region(0x10000, 0x1000, USER + 0x10000, 0xffff_ffff_ffff_f000n)),
  ],
];
for (const [what, table] of BAD_TABLES) {
  test(`${what}: the table is refused and the one before stays`, async () => {
    const { talk, guest, fds } = await open();
    const ring = RunningRing.start(talk, guest);
    ring.offer();
    await ring.used(1);
    const mapped = talk.platform.mappingCount;
    const open_ = talk.platform.openFdCount;
    assert.is(await talk.frontend.acknowledged(Request.setMemTable, table, [guest.fd, guest.fd]), 1n);
    assert.is(talk.platform.mappingCount, mapped);
    assert.is(talk.platform.openFdCount, open_);
    ring.offer();
    await ring.used(2);
    ring.close();
    await talk.close();
    assert.ok(talk.platform.openFdCount < fds);
  });
}

test('a refused table without NEED_REPLY ends the session and leaks nothing', async () => {
  const { talk, guest, fds, mappings } = await open();
  talk.frontend.send(Request.setMemTable, BAD_TABLES[0]![1], { fds: [guest.fd, guest.fd] });
  const reason = await talk.ended();
  assert.is(reason?.code, 'ERR_VHOST_PAYLOAD');
  assert.match(reason!.message, /VHOST_USER_SET_MEM_TABLE: regions overlap/);
  assert.is(talk.platform.openFdCount, fds - 1, 'the connection is closed');
  assert.is(talk.platform.mappingCount, mappings);
});

test('a mapping that fails halfway unmaps what was mapped before it', async () => {
  const { talk, guest, fds, mappings } = await open();
  const table = bytes(2, 0, region(0, 0x1000, USER), region(0x1000, 0x1000, USER + 0x1000, 0x1000));
  talk.platform.failNext('mmap', 'ENOMEM', 1);
  assert.is(await talk.frontend.acknowledged(Request.setMemTable, table, [guest.fd, guest.fd]), 1n);
  assert.is(talk.platform.mappingCount, mappings);
  assert.is(talk.platform.openFdCount, fds);
  await talk.close();
});

for (const [what, table, count] of [
  ['fewer fds than regions', bytes(2, 0, region(0, 0x1000, USER), region(0x1000, 0x1000, USER + 0x1000)), 1],
  ['more fds than regions', bytes(1, 0, region(0, 0x1000, USER)), 3],
  ['no fd', bytes(1, 0, region(0, 0x1000, USER)), 0],
  [
    'nine regions',
    bytes(9, 0, ...Array.from({ length: 9 }, (_, i) => region(i << 12, 0x1000, USER + (i << 12)))),
    9,
  ],
  ['2^32 - 1 regions', bytes(0xffff_ffff, 0), 0],
  ['a table shorter than its count', bytes(2, 0, region(0, 0x1000, USER)), 2],
] as const) {
  test(`${what}: a failure reply, then the end, and nothing leaked`, async () => {
    const { talk, guest, fds, mappings } = await open();
    assert.is(
      await talk.frontend.acknowledged(Request.setMemTable, table, Array<number>(count).fill(guest.fd)),
      1n,
    );
    assert.ok(['ERR_VHOST_FDS', 'ERR_VHOST_PAYLOAD'].includes((await talk.ended())!.code));
    assert.is(talk.platform.openFdCount, fds - 1);
    assert.is(talk.platform.mappingCount, mappings);
  });
}

test('regions are added and removed one by one', async () => {
  const { talk, guest, fds, mappings } = await open();
  const { frontend } = talk;
  const more = new SharedGuest(talk.platform, 0x1_0000, 0x10_0000);
  assert.is(await frontend.acknowledged(Request.addMemReg, singleRegion(guest), [guest.fd]), 0n);
  assert.is(await frontend.acknowledged(Request.addMemReg, singleRegion(more), [more.fd]), 0n);
  const shifted = bytes(0n, region(more.address, more.size, USER + 0x100_0000));
  assert.is(await frontend.acknowledged(Request.addMemReg, shifted, [more.fd]), 1n, 'it overlaps');
  assert.is(talk.platform.mappingCount, mappings + 3);
  // The offset in the file does not matter.
  const gone = bytes(0n, region(guest.address, guest.size, USER, 0x1234n));
  assert.is(await frontend.acknowledged(Request.remMemReg, gone), 0n);
  assert.is(await frontend.acknowledged(Request.remMemReg, gone), 1n, 'it is gone already');
  assert.is(talk.platform.mappingCount, mappings + 2);
  assert.is(talk.platform.openFdCount, fds + 1);
  await talk.close();
  assert.is(talk.platform.mappingCount, mappings + 1);
});

test('a region that is added twice, as QEMU 7.2 does for each pair of queues, is there until it is removed twice', async () => {
  const { talk, guest, fds, mappings } = await open();
  const { frontend } = talk;
  const same = singleRegion(guest);
  for (let i = 0; i < 3; i++) assert.is(await frontend.acknowledged(Request.addMemReg, same, [guest.fd]), 0n);
  assert.is(talk.platform.mappingCount, mappings + 1);
  assert.is(talk.platform.openFdCount, fds);
  for (let i = 0; i < 2; i++) assert.is(await frontend.acknowledged(Request.remMemReg, same), 0n);
  assert.is(talk.platform.mappingCount, mappings + 1);
  assert.is(await frontend.acknowledged(Request.remMemReg, same), 0n);
  assert.is(talk.platform.mappingCount, mappings);
  assert.is(await frontend.acknowledged(Request.remMemReg, same), 1n, 'it is gone');
  await talk.close();
});

test('a table sent again maps only what changed, and a ring with a chain in flight goes on', async () => {
  const { talk, guest, mappings } = await open();
  const { frontend, platform } = talk;
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  const window = talk.session.memory.current!.regions[0]!.mapping.firstWindow;
  const more = new SharedGuest(platform, 0x1_0000, 0x10_0000);
  // A duplicate is another fd of the same file. The second mmap, if there were one, would fail.
  const again = platform.duplicateFd(guest.fd);
  platform.failNext('mmap', 'ENOMEM', 1);
  assert.is(await frontend.acknowledged(Request.setMemTable, memoryTable(guest, more), [again, more.fd]), 0n);
  assert.is(talk.session.memory.current!.regions[0]!.mapping.firstWindow, window);
  assert.is(platform.mappingCount, mappings + 3);
  ring.offer();
  await ring.used(2);
  assert.is(await frontend.acknowledged(Request.setMemTable, memoryTable(guest), [guest.fd]), 0n);
  assert.is(platform.mappingCount, mappings + 2);
  ring.offer();
  await ring.used(3);
  ring.close();
  await talk.close();
  assert.is(platform.mappingCount, mappings + 1);
});

test('a region of another file at the same place takes the place of the one before, or is refused beside it', async () => {
  const { talk, guest, mappings } = await open();
  const { frontend, platform } = talk;
  const other = new SharedGuest(platform);
  assert.is(await frontend.acknowledged(Request.setMemTable, memoryTable(guest), [guest.fd]), 0n);
  assert.is(
    await frontend.acknowledged(Request.addMemReg, singleRegion(other), [other.fd]),
    1n,
    'it overlaps',
  );
  assert.is(await frontend.acknowledged(Request.setMemTable, memoryTable(other), [other.fd]), 0n);
  other.view(0, 1).setUint8(0, 0x77);
  const window = talk.session.memory.current!.regions[0]!.mapping.firstWindow;
  platform.windows.show(window);
  assert.is(platform.windows.u8[window]![0], 0x77);
  assert.is(platform.mappingCount, mappings + 2);
  await talk.close();
});

test('a table counts afresh how often a region has to be removed', async () => {
  const { talk, guest, mappings } = await open();
  const { frontend, platform } = talk;
  for (let i = 0; i < 2; i++) {
    assert.is(await frontend.acknowledged(Request.addMemReg, singleRegion(guest), [guest.fd]), 0n);
  }
  assert.is(await frontend.acknowledged(Request.setMemTable, memoryTable(guest), [guest.fd]), 0n);
  assert.is(await frontend.acknowledged(Request.remMemReg, singleRegion(guest)), 0n);
  assert.is(platform.mappingCount, mappings);
  await talk.close();
});

test('trap 7: REM_MEM_REG with a stray fd is served and the fd closed', async () => {
  const { talk, guest, fds } = await open();
  assert.is(await talk.frontend.acknowledged(Request.addMemReg, singleRegion(guest), [guest.fd]), 0n);
  assert.is(await talk.frontend.acknowledged(Request.remMemReg, singleRegion(guest), [guest.fd]), 0n);
  assert.is(talk.platform.openFdCount, fds);
  await talk.close();
});

test('trap 8: ADD_MEM_REG is not answered unless asked', async () => {
  const { talk, guest } = await open();
  talk.frontend.send(Request.addMemReg, singleRegion(guest), { fds: [guest.fd] });
  await talk.frontend.ask(Request.getStatus);
  await talk.close();
});

test('trap 9: 509 slots are offered and can be used; one more is refused', async () => {
  const { talk, guest, mappings } = await open();
  const slots = Number(u64Of(await talk.frontend.ask(Request.getMaxMemSlots)));
  assert.is(slots, 509);
  for (let i = 0; i < slots; i++) {
    talk.frontend.send(Request.addMemReg, bytes(0n, region(i << 12, 0x1000, USER + (i << 12))), {
      fds: [guest.fd],
    });
    if (i % 32 === 0) await talk.frontend.ask(Request.getStatus);
  }
  const last = bytes(0n, region(slots << 12, 0x1000, USER + (slots << 12)));
  assert.is(await talk.frontend.acknowledged(Request.addMemReg, last, [guest.fd]), 1n);
  assert.is(talk.platform.mappingCount, mappings + slots);
  await talk.close();
  assert.is(talk.platform.mappingCount, mappings);
});

test('peers 7: an ADD_MEM_REG of one zero u64 without an fd means "go on" and does no harm', async () => {
  const { talk, mappings } = await open();
  talk.frontend.send(Request.addMemReg, bytes(0n));
  assert.is(await talk.frontend.acknowledged(Request.addMemReg, bytes(0n)), 0n);
  assert.is(talk.platform.mappingCount, mappings);
  await talk.close();
});

test('C2: a ring sized a thousand times and stray fds in a thousand messages leave nothing behind', async () => {
  const { talk, guest, fds } = await open();
  for (let i = 0; i < 1000; i++) {
    talk.frontend.send(Request.setVringNum, bytes(0, 1 << (i % 10)));
    talk.frontend.send(Request.remMemReg, singleRegion(guest), { fds: [guest.fd], needReply: true });
    assert.is(u64Of((await talk.frontend.receive())!), 1n);
  }
  assert.is(talk.platform.openFdCount, fds);
  await talk.close();
});

test('C2, C10: an fd with a message that carries none is closed, and the session ends', async () => {
  for (const [request, payload] of [
    [Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES)],
    [Request.getFeatures, bytes()],
    [Request.setVringCall, bytes(0x100n)],
    [Request.getConfig, bytes(0, 4, 0, 0)],
    [1234, bytes()],
    [Request.getInflightFd, bytes(0n, 0n, 0x0010_0001, 0)],
  ] as const) {
    const { talk, guest, fds, mappings } = await open();
    talk.frontend.send(request, payload, { fds: [guest.fd, guest.fd] });
    assert.ok(await talk.ended(), `request ${request}`);
    assert.is(talk.platform.openFdCount, fds - 1, `request ${request}`);
    assert.is(talk.platform.mappingCount, mappings);
  }
});

test.run();
