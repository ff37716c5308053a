import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { GuestMemoryError } from '../../runtime/errors.js';
import { GuestMemory, MemoryRegion } from '../../runtime/memory/guest-memory.js';
import { Access, Iotlb } from '../../runtime/memory/iotlb.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { WINDOW_STRIDE } from '../../runtime/platform/platform.js';
import { Random } from '../support/random.js';

const test = suite('IOTLB');

const USER = 0x7f00_0000_0000n;
const PAGE = 0x1000n;

/** Memory of regions of so many bytes; adjacent in user addresses, and each in a file of its own. */
function memoryOf(...sizes: number[]): GuestMemory {
  const platform = createFakePlatform();
  let user = USER;
  return new GuestMemory(
    sizes.map((size, i) => {
      const fd = platform.createSharedMemory('guest', BigInt(size));
      const region = MemoryRegion.map(
        platform,
        {
          guestAddress: BigInt(i) << 32n,
          size: BigInt(size),
          userAddress: user,
          mmapOffset: 0n,
        },
        fd,
      );
      user += BigInt(size);
      return region;
    }),
  );
}

function tableOf(memory = memoryOf(0x10000, 0x10000), limit?: number): Iotlb {
  const iotlb = new Iotlb(limit);
  iotlb.setMemory(memory);
  return iotlb;
}

const code = (wanted: string) => (error: unknown) =>
  error instanceof GuestMemoryError && error.code === wanted;

test('an address leads through an entry to its place', () => {
  const memory = memoryOf(0x10000);
  const iotlb = tableOf(memory);
  iotlb.update(0x5000n, PAGE, USER + 0x3000n, Access.read);
  assert.equal(iotlb.find(0x5010), {
    start: 0x5000,
    end: 0x6000,
    window: memory.firstWindows[0],
    offset: 0x3000,
    permission: Access.read,
  });
  assert.is(iotlb.find(0x4fff), null);
  assert.is(iotlb.find(0x6000), null);
});

test('an entry over two regions is cut where they meet', () => {
  const memory = memoryOf(0x10000, 0x10000);
  const iotlb = tableOf(memory);
  iotlb.update(0x5000n, 2n * PAGE, USER + 0xf000n, Access.readWrite);
  assert.equal(
    iotlb.runs.map(({ start, window, offset }) => ({ start, window, offset })),
    [
      { start: 0x5000, window: memory.firstWindows[0], offset: 0xf000 },
      { start: 0x6000, window: memory.firstWindows[1], offset: 0 },
    ],
  );
});

test('entries that continue each other make one run, others do not', () => {
  const iotlb = tableOf();
  iotlb.update(0x1000n, PAGE, USER + 0x1000n, Access.readWrite);
  iotlb.update(0x2000n, PAGE, USER + 0x2000n, Access.readWrite);
  iotlb.update(0x3000n, PAGE, USER + 0x3000n, Access.read);
  iotlb.update(0x4000n, PAGE, USER + 0x9000n, Access.read);
  assert.equal(
    iotlb.runs.map(({ start, end }) => [start, end]),
    [
      [0x1000, 0x3000],
      [0x3000, 0x4000],
      [0x4000, 0x5000],
    ],
  );
});

test('a newer entry takes the place of what it overlaps, and hands it back', () => {
  const iotlb = tableOf();
  iotlb.update(0x1000n, 4n * PAGE, USER, Access.readWrite);
  const { ranges, places } = iotlb.update(0x2000n, PAGE, USER + 0x8000n, Access.readWrite);
  assert.equal(ranges, [{ start: 0x2000, end: 0x3000 }]);
  assert.is(places.length, 1);
  assert.is(places[0]!.from % WINDOW_STRIDE, 0x1000);
  assert.equal(
    iotlb.runs.map(({ start, offset }) => [start, offset]),
    [
      [0x1000, 0],
      [0x2000, 0x8000],
      [0x3000, 0x2000],
    ],
  );
});

test('the same entry again, or one that allows more, takes nothing away', () => {
  const iotlb = tableOf();
  iotlb.update(0x1000n, 4n * PAGE, USER, Access.read);
  assert.equal(iotlb.update(0x1000n, 4n * PAGE, USER, Access.read).ranges, []);
  assert.equal(iotlb.update(0x2000n, PAGE, USER + 0x1000n, Access.readWrite).ranges, []);
  assert.equal(iotlb.update(0x2000n, PAGE, USER + 0x1000n, Access.write).ranges, [
    { start: 0x2000, end: 0x3000 },
  ]);
});

test('misbehaving updates are refused and change nothing', () => {
  const iotlb = tableOf();
  iotlb.update(0x1000n, PAGE, USER, Access.readWrite);
  const before = iotlb.runs;
  for (const [iova, size, user, expected] of [
    [0x1000n, 0n, USER, 'REGION'],
    [0x1000n, (1n << 64n) - PAGE, USER, 'REGION'],
    [(1n << 64n) - PAGE, 2n * PAGE, USER, 'REGION'],
    [(1n << 53n) - PAGE + 1n, PAGE, USER, 'REGION'],
    [0x1000n, PAGE, (1n << 64n) - 1n, 'REGION'],
    [0x1000n, PAGE, USER - 1n, 'UNMAPPED'],
    [0x1000n, PAGE, USER + 0x20000n, 'UNMAPPED'],
    [0x1000n, PAGE, USER + 0x1f001n, 'UNMAPPED'],
    [0x1000n, PAGE, 0n, 'UNMAPPED'],
  ] as const) {
    assert.throws(() => iotlb.update(iova, size, user, 3), code(`ERR_GUEST_MEMORY_${expected}`));
  }
  assert.is(iotlb.runs, before);
});

test('without memory every update is refused', () => {
  assert.throws(() => new Iotlb().update(0n, PAGE, USER, 3), code('ERR_GUEST_MEMORY_UNMAPPED'));
});

test('entries need not be aligned to anything', () => {
  const iotlb = tableOf();
  iotlb.update(0x1003n, 5n, USER + 0x107n, Access.readWrite);
  assert.is(iotlb.find(0x1002), null);
  assert.is(iotlb.find(0x1007)!.offset + (0x1007 - 0x1003), 0x10b);
  assert.is(iotlb.find(0x1008), null);
});

test('an invalidation cuts entries', () => {
  const iotlb = tableOf();
  iotlb.update(0x1000n, 4n * PAGE, USER, Access.readWrite);
  const { ranges } = iotlb.invalidate(0x2000n, PAGE);
  assert.equal(ranges, [{ start: 0x2000, end: 0x3000 }]);
  assert.equal(
    iotlb.entries.map(({ start, end, userAddress }) => [start, end, userAddress]),
    [
      [0x1000, 0x2000, USER],
      [0x3000, 0x5000, USER + 0x2000n],
    ],
  );
  assert.equal(iotlb.invalidate(0x2000n, PAGE).ranges, []);
});

test('whole-range invalidations, whatever they look like', () => {
  for (const [iova, size] of [
    [0n, 0n],
    [0n, (1n << 64n) - 1n],
    [0n, (1n << 64n) - PAGE],
    [0x1000n, (1n << 64n) - PAGE],
    [0x1000n, (1n << 64n) - 1n],
    [0x1000n, 0n],
    [0n, 1n << 53n],
  ] as const) {
    const iotlb = tableOf();
    iotlb.update(0x1000n, PAGE, USER, Access.readWrite);
    iotlb.update((1n << 53n) - PAGE, PAGE, USER, Access.readWrite);
    iotlb.invalidate(iova, size);
    assert.equal(iotlb.runs, [], `0x${iova.toString(16)}, ${size} bytes`);
  }
  const iotlb = tableOf();
  iotlb.update(0x1000n, PAGE, USER, Access.readWrite);
  iotlb.invalidate(1n << 60n, 0n);
  assert.is(iotlb.runs.length, 1, 'above everything');
});

test('a full table drops its oldest entries, and hands them back', () => {
  const iotlb = tableOf(undefined, 4);
  for (let i = 0n; i < 4n; i++) iotlb.update(0x10000n * (4n - i), PAGE, USER + i * PAGE, Access.read);
  const { ranges } = iotlb.update(0n, PAGE, USER, Access.read);
  assert.equal(ranges, [{ start: 0x40000, end: 0x41000 }]);
  const kept = iotlb.update(0x90000n, PAGE, USER, Access.read, ({ start }) => start === 0x30000).ranges;
  assert.equal(kept, [{ start: 0x20000, end: 0x21000 }], 'but not a pinned one');
  assert.is(iotlb.entries.length, 4);
});

test('entries are looked up again in another memory map, and dropped where they lead out of it', () => {
  const iotlb = tableOf(memoryOf(0x10000, 0x10000));
  iotlb.update(0x1000n, PAGE, USER + 0x2000n, Access.readWrite);
  iotlb.update(0x5000n, PAGE, USER + 0x12000n, Access.readWrite);
  const other = memoryOf(0x8000);
  iotlb.setMemory(other);
  assert.equal(
    iotlb.runs.map(({ start, window }) => [start, window]),
    [[0x1000, other.firstWindows[0]]],
  );
});

for (let seed = 1; seed <= 20; seed++) {
  test(`seed ${seed}: behaves as a page table does`, () => {
    const random = new Random(seed);
    const unit = 16;
    const units = 64;
    const memory = memoryOf(unit * 40, unit * 24);
    const iotlb = tableOf(memory, 1000);
    const model: ({ place: number; permission: number } | null)[] = Array.from({ length: units }, () => null);
    const linear = (user: number) =>
      user < unit * 40
        ? memory.firstWindows[0]! * WINDOW_STRIDE + user
        : memory.firstWindows[1]! * WINDOW_STRIDE + user - unit * 40;
    for (let step = 0; step < 400; step++) {
      const first = random.below(units);
      const count = 1 + random.below(units - first);
      if (random.chance(3)) {
        const { places } = iotlb.invalidate(BigInt(first * unit), BigInt(count * unit));
        const bytes = places.reduce((sum, { from, to }) => sum + to - from, 0);
        const mapped = model.slice(first, first + count).filter((entry) => entry !== null).length;
        assert.is(bytes, mapped * unit, 'everything that goes is handed back');
        model.fill(null, first, first + count);
      } else {
        const user = random.below(80);
        const permission = random.below(4);
        const fits = user + count <= units;
        const update = () =>
          iotlb.update(BigInt(first * unit), BigInt(count * unit), USER + BigInt(user * unit), permission);
        if (!fits) {
          assert.throws(update, code('ERR_GUEST_MEMORY_UNMAPPED'));
          continue;
        }
        update();
        for (let i = 0; i < count; i++) {
          model[first + i] = { place: linear((user + i) * unit), permission };
        }
      }
      for (let i = 0; i < units; i++) {
        const run = iotlb.find(i * unit);
        const expected = model[i]!;
        const got =
          run === null
            ? null
            : {
                place: run.window * WINDOW_STRIDE + run.offset + (i * unit - run.start),
                permission: run.permission,
              };
        assert.equal(got, expected, `step ${step}, unit ${i}`);
      }
    }
  });
}

test.run();
