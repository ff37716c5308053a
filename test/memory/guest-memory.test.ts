import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { GuestMemoryError, PlatformError } from '../../runtime/errors.js';
import {
  GuestMemory,
  mapRegions,
  MemoryRegion,
  type RegionDescription,
} from '../../runtime/memory/guest-memory.js';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import { SEGMENT_MAX, WINDOW_STRIDE } from '../../runtime/platform/platform.js';

const PAGE = 4096n;
const USER = 0x7f00_0000_0000n;

/** Guest [0x10000, 0x14000) and, adjacent, [0x14000, 0x18000); then a hole; then [0x20000, 0x21000). */
const three: readonly RegionDescription[] = [
  { guestAddress: 0x10000n, size: 0x4000n, userAddress: USER, mmapOffset: 0n },
  { guestAddress: 0x14000n, size: 0x4000n, userAddress: USER + 0x100000n, mmapOffset: 0x4000n },
  { guestAddress: 0x20000n, size: 0x1000n, userAddress: USER + 0x4000n, mmapOffset: 0x8000n },
];

function mapThree(platform = createFakePlatform()): GuestMemory {
  const fd = platform.createSharedMemory('guest', 0x9000n);
  return new GuestMemory(
    mapRegions(
      platform,
      three,
      three.map(() => fd),
    ),
  );
}

function refused(run: () => unknown): GuestMemoryError {
  try {
    run();
  } catch (error) {
    if (error instanceof GuestMemoryError) return error;
    throw error;
  }
  throw new Error('was not refused');
}

function region(
  platform: FakePlatform,
  fields: Partial<RegionDescription>,
  fileSize = 1n << 16n,
): MemoryRegion {
  const description = { guestAddress: 0n, size: PAGE, userAddress: 0n, mmapOffset: 0n, ...fields };
  return MemoryRegion.map(platform, description, platform.createSharedMemory('guest', fileSize));
}

test('an address is found in its region, at its distance from the start', () => {
  const memory = mapThree();
  const [first, second, third] = memory.regions.map(({ mapping }) => mapping.firstWindow);
  assert.equal(memory.translate(0x10000, 1), { window: first, offset: 0 });
  assert.equal(memory.translate(0x13fff, 1), { window: first, offset: 0x3fff });
  assert.equal(memory.translate(0x14010, 16), { window: second, offset: 0x10 });
  assert.equal(memory.translate(0x20000, 0x1000), { window: third, offset: 0 });
});

test('both ways of naming a place lead to the same bytes of the file', () => {
  const platform = createFakePlatform();
  const memory = mapThree(platform);
  const byGuest = memory.translate(0x20010, 4)!;
  const byUser = memory.translateUser(USER + 0x4010n, 4)!;
  assert.equal(byGuest, byUser);
  platform.windows.u32[byGuest.window]![byGuest.offset >> 2] = 0x01020304;
  assert.is(platform.windows.u8[byUser.window]![byUser.offset], 4);
});

test('C1: a range that straddles two adjacent regions is in neither', () => {
  const memory = mapThree();
  assert.is(memory.translate(0x13ff0, 0x20), null);
  assert.is(memory.translate(0x13fff, 2), null);
  assert.ok(memory.translate(0x13ff0, 0x10));
});

test('C1: a range that begins inside and ends past the last region is refused', () => {
  const memory = mapThree();
  assert.is(memory.translate(0x20ff0, 0x11), null);
  assert.is(memory.translate(0x21000, 1), null);
  assert.is(memory.translateUser(USER + 0x4ff0n, 0x11), null);
});

test('C1, C25: a range in a hole, before the first region or over a region border by one byte is refused', () => {
  const memory = mapThree();
  for (const address of [0, 0xffff, 0x18000, 0x1ffff, 0x21001]) assert.is(memory.translate(address, 1), null);
  assert.is(memory.translate(0xffff, 2), null);
  assert.is(memory.translate(0x17fff, 2), null);
});

test('C3: addresses near 2^53 and 2^64 are refused, however the sum is rounded', () => {
  const platform = createFakePlatform();
  const top = (1n << 53n) - 2n * PAGE;
  const memory = new GuestMemory([region(platform, { guestAddress: top, size: 2n * PAGE - 16n })]);
  assert.ok(memory.translate(Number(top), 8192 - 16));
  for (let over = 1; over < 40; over++) assert.is(memory.translate(Number(top), 8192 - 16 + over), null);
  assert.is(memory.translate(2 ** 53, 1), null);
  assert.is(memory.translate(2 ** 53 - 1, 2), null);
  for (const address of [2 ** 63, 2 ** 64 - 2048, 2 ** 64]) assert.is(memory.translate(address, 4096), null);
});

test('C3: user addresses up to the top of 64 bits are exact', () => {
  const platform = createFakePlatform();
  const memory = new GuestMemory([region(platform, { userAddress: (1n << 64n) - PAGE })]);
  assert.is(memory.translateUser((1n << 64n) - 1n, 1)?.offset, 4095);
  assert.is(memory.translateUser((1n << 64n) - 1n, 2), null);
  assert.is(memory.translateUser((1n << 64n) - PAGE - 1n, 1), null);
});

test('every range agrees with a slow model over all borders', () => {
  const memory = mapThree();
  const borders = three.flatMap(({ guestAddress, size }) => [
    Number(guestAddress),
    Number(guestAddress + size),
  ]);
  for (const border of borders) {
    for (let address = border - 3; address <= border + 3; address++) {
      for (const length of [0, 1, 2, 3, 4, 0x1000, 0x4000, 0x4001]) {
        const holder = three.findIndex(
          ({ guestAddress, size }) => address >= guestAddress && address + length <= guestAddress + size,
        );
        const expected =
          holder < 0
            ? null
            : {
                window: memory.regions[holder]!.mapping.firstWindow,
                offset: address - Number(three[holder]!.guestAddress),
              };
        assert.equal(memory.translate(address, length), expected, `${address.toString(16)} + ${length}`);
      }
    }
  }
});

test('a region above 2 GiB: places beyond the stride lie in later windows, ranges over window borders stay whole', () => {
  const platform = createFakePlatform();
  const size = 2 * WINDOW_STRIDE + 0x10000;
  const memory = new GuestMemory([
    region(platform, { guestAddress: 0x1_0000_0000n, size: BigInt(size) }, BigInt(size)),
  ]);
  const { firstWindow } = memory.regions[0]!.mapping;
  const start = 0x1_0000_0000;
  assert.equal(memory.translate(start + WINDOW_STRIDE - 1, 2), {
    window: firstWindow,
    offset: WINDOW_STRIDE - 1,
  });
  assert.equal(memory.translate(start + WINDOW_STRIDE, 2), { window: firstWindow + 1, offset: 0 });
  assert.equal(memory.translate(start + size - 16, 16), { window: firstWindow + 2, offset: 0xfff0 });
  assert.is(memory.translate(start + size - 16, 17), null);
  const straddling = memory.translate(start + WINDOW_STRIDE - 1, SEGMENT_MAX)!;
  assert.ok(straddling.offset + SEGMENT_MAX <= platform.windows.u8[straddling.window]!.byteLength);
  platform.windows.u8[firstWindow]![WINDOW_STRIDE + 3] = 0x5a;
  assert.is(platform.windows.u8[firstWindow + 1]![3], 0x5a, 'the overlap shows the same byte');
});

test('a range longer than one segment is not one place', () => {
  const platform = createFakePlatform();
  const size = BigInt(SEGMENT_MAX) + PAGE;
  const memory = new GuestMemory([region(platform, { size }, size)]);
  assert.ok(memory.translate(0, SEGMENT_MAX));
  assert.is(memory.translate(0, SEGMENT_MAX + 1), null);
  assert.is(memory.translateUser(0n, SEGMENT_MAX + 1), null);
});

for (const [what, fields] of [
  ['is empty', { size: 0n }],
  ['does not end below guest address 2^53', { guestAddress: (1n << 53n) - PAGE }],
  ['does not end below guest address 2^53', { guestAddress: (1n << 64n) - PAGE }],
  ['wraps around in user addresses', { userAddress: (1n << 64n) - PAGE, size: 2n * PAGE }],
  ['ends beyond the largest file offset', { mmapOffset: (1n << 64n) - PAGE }],
  ['starts at no multiple of 16', { guestAddress: 0x1008n }],
  ['starts at no multiple of 16', { userAddress: 0x1004n }],
  ['starts at no multiple of 16', { mmapOffset: 0x1001n }],
] as const) {
  test(`C3: a region that ${what} is refused before anything is mapped: ${Object.keys(fields).join(', ')}`, () => {
    const platform = createFakePlatform();
    const error = refused(() => region(platform, fields));
    assert.is(error.code, 'ERR_GUEST_MEMORY_REGION');
    assert.match(error.message, what);
    assert.is(platform.mappingCount, 0);
  });
}

test('a file offset that is no page boundary is served from there', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('guest', 0x4000n);
  const whole = platform.map(fd, 0n, 0x4000n);
  platform.windows.u8[whole.firstWindow]![0x1010] = 0x77;
  const memory = new GuestMemory(
    mapRegions(platform, [{ guestAddress: 0n, size: PAGE, userAddress: 0n, mmapOffset: 0x1010n }], [fd]),
  );
  const place = memory.translate(0, 1)!;
  assert.is(platform.windows.u8[place.window]![place.offset], 0x77);
});

test('a region that its file does not hold says so, with the system call as its cause', () => {
  const platform = createFakePlatform();
  const error = refused(() => region(platform, { guestAddress: 0xabc0000n, size: 1n << 20n }));
  assert.match(error.message, '0xabc0000');
  assert.instance(error.cause, PlatformError);
  assert.is((error.cause as PlatformError).syscall, 'mmap');
});

test('overlap in guest addresses, or in user addresses, is refused by one byte and by inclusion', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('guest', 0x10000n);
  const at = (guestAddress: bigint, userAddress: bigint, size = PAGE): RegionDescription => ({
    guestAddress,
    userAddress,
    size,
    mmapOffset: 0n,
  });
  const overlapping = [
    ['guestAddress', at(0x1000n, 0x10000n), at(0x1ff0n, 0x20000n)],
    ['guestAddress', at(0x1000n, 0x10000n, 0x4000n), at(0x2000n, 0x20000n)],
    ['guestAddress', at(0x1000n, 0x10000n), at(0x1000n, 0x20000n)],
    ['userAddress', at(0x1000n, 0x10ff0n), at(0x2000n, 0x10000n)],
  ] as const;
  for (const [key, a, b] of overlapping) {
    const error = refused(() => mapRegions(platform, [a, b], [fd, fd]));
    assert.match(error.message, key);
    assert.is(platform.mappingCount, 0, 'refused before anything is mapped');
    const parts = [a, b].map((description) => MemoryRegion.map(platform, description, fd));
    refused(() => new GuestMemory(parts));
    for (const part of parts) part.release();
  }
  const apart = mapRegions(platform, [at(0x2000n, 0x11000n), at(0x1000n, 0x10000n)], [fd, fd]);
  assert.is(new GuestMemory(apart).count, 2, 'touching is no overlap');
});

test('C2: when the third of five regions cannot be mapped, the first two are let go and no fd is used up', () => {
  const platform = createFakePlatform();
  const fds = Array.from({ length: 5 }, () => platform.createSharedMemory('guest', PAGE));
  const descriptions = fds.map((_, i) => ({
    guestAddress: BigInt(i) << 20n,
    userAddress: USER + (BigInt(i) << 20n),
    size: PAGE,
    mmapOffset: 0n,
  }));
  platform.failNext('mmap', 'ENOMEM', 2);
  const error = refused(() => mapRegions(platform, descriptions, fds));
  assert.match(error.message, '0x200000');
  assert.is((error.cause as PlatformError).errno, 'ENOMEM');
  assert.is(platform.mappingCount, 0);
  assert.is(platform.openFdCount, 5);
  refused(() => mapRegions(platform, descriptions, fds.slice(1)));
  assert.is(platform.mappingCount, 0);
});

test('a region is unmapped when the last snapshot that holds it lets go, and not before', () => {
  const platform = createFakePlatform();
  const [kept, dropped] = [
    region(platform, {}),
    region(platform, { guestAddress: 0x10000n, userAddress: 0x10000n }),
  ];
  const before = new GuestMemory([kept, dropped]);
  const after = new GuestMemory([kept.retain()]);
  before.retain();
  before.release();
  assert.is(platform.mappingCount, 2, 'an in-flight chain still holds the old snapshot');
  before.release();
  assert.is(platform.mappingCount, 1);
  assert.ok(after.translate(0, 1));
  after[Symbol.dispose]();
  assert.is(platform.mappingCount, 0);
});

test('letting go twice, or holding on to what is gone, is an error', () => {
  const memory = mapThree();
  memory.release();
  assert.is(refused(() => memory.release()).code, 'ERR_GUEST_MEMORY_UNMAPPED');
  assert.is(refused(() => memory.retain()).code, 'ERR_GUEST_MEMORY_UNMAPPED');
  assert.is(refused(() => memory.regions[0]!.retain()).code, 'ERR_GUEST_MEMORY_UNMAPPED');
});

test('after the last release the windows are empty: stale places read as nothing', () => {
  const platform = createFakePlatform();
  const memory = mapThree(platform);
  const place = memory.translate(0x10000, 4)!;
  memory.release();
  assert.is(platform.windows.u8[place.window]![place.offset], undefined);
  assert.is(platform.windows.u32[place.window]!.length, 0);
});

test('a file truncated below a region shows as damage of the whole map', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('guest', 0x9000n);
  const memory = new GuestMemory(mapRegions(platform, three, [fd, fd, fd]));
  assert.is(memory.damaged, false);
  platform.truncateSharedMemory(fd, 0x8000);
  assert.is(memory.damaged, true);
});

test('an empty map holds no address', () => {
  const memory = new GuestMemory([]);
  assert.is(memory.translate(0, 0), null);
  assert.is(memory.translateUser(0n, 0), null);
  memory.release();
});

test.run();
