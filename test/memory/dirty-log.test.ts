import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { GuestMemoryError } from '../../runtime/errors.js';
import { DIRTY_LOG_MAX, DIRTY_PAGE, DirtyLog } from '../../runtime/memory/dirty-log.js';
import { PendingDirtyPages } from '../../runtime/memory/pending-dirty-pages.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import type { Platform } from '../../runtime/platform/platform.js';
import { Random } from '../support/random.js';

const test = suite('dirty log');

const platforms: [string, () => Platform][] = [
  ['fake', () => createFakePlatform()],
  ['linux', () => createLinuxPlatform()],
];

function open(platform: Platform, { file = 8192, offset = 0, size = 4096 } = {}) {
  const fd = platform.createSharedMemory('log', BigInt(file));
  const mapping = platform.map(fd, 0n, BigInt(file));
  const bytes = platform.windows.u8[mapping.firstWindow]!;
  const log = DirtyLog.map(platform, fd, BigInt(offset), BigInt(size));
  return {
    log,
    bytes,
    /** Numbers of the bits that are set, counted from the log's offset; -1 for bits outside of it. */
    pages(): number[] {
      const found: number[] = [];
      bytes.forEach((byte, at) => {
        for (let bit = 0; bit < 8; bit++) {
          if ((byte & (1 << bit)) === 0) continue;
          found.push(at < offset || at >= offset + size ? -1 : (at - offset) * 8 + bit);
        }
      });
      return found;
    },
    close(): void {
      log[Symbol.dispose]();
      mapping.unmap();
      platform.closeFd(fd);
    },
  };
}

for (const [name, create] of platforms) {
  test(`${name}: a bit is a page of 4 KiB, counted from guest address 0`, () => {
    const opened = open(create());
    assert.ok(opened.log.mark(0, 1));
    assert.ok(opened.log.mark(9 * DIRTY_PAGE + 4095, 1));
    assert.equal(opened.pages(), [0, 9]);
    opened.close();
  });

  test(`${name}: a range marks every page that it touches and no other`, () => {
    for (const [address, length, pages] of [
      [4095, 2, [0, 1]],
      [4096, 4096, [1]],
      [4096, 4097, [1, 2]],
      [5 * 4096 + 1, 12 * 4096, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]],
      [8 * 4096, 8 * 4096, [8, 9, 10, 11, 12, 13, 14, 15]],
      [123, 0, []],
    ] as const) {
      const opened = open(create());
      assert.ok(opened.log.mark(address, length));
      assert.equal(opened.pages(), [...pages], `${length} bytes at ${address}`);
      opened.close();
    }
  });

  test(`${name}: the log begins at its offset in the file, and bits beside it stay`, () => {
    const opened = open(create(), { file: 12288, offset: 4096, size: 4096 });
    opened.log.mark(0, 1);
    opened.log.mark(32767 * DIRTY_PAGE, DIRTY_PAGE);
    assert.equal(opened.pages(), [0, 32767]);
    assert.not(opened.log.mark(32768 * DIRTY_PAGE, 1), 'behind the last page');
    assert.equal(opened.pages(), [0, 32767]);
    opened.close();
  });

  test(`${name}: a file shorter than the log is refused`, () => {
    const platform = create();
    const fd = platform.createSharedMemory('log', 4096n);
    for (const [offset, size] of [
      [0n, 8192n],
      [4096n, 4096n],
    ] as const) {
      assert.throws(() => DirtyLog.map(platform, fd, offset, size), isError('ERR_GUEST_MEMORY_LOG'));
    }
    platform.closeFd(fd);
  });
}

test('random ranges mark exactly the pages that they touch, seeded', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = new Random(seed);
    const opened = open(createFakePlatform(), { file: 512, size: 64 + random.below(400) });
    const pending = new PendingDirtyPages();
    const expected = new Set<number>();
    const end = opened.log.size * 8 * DIRTY_PAGE;
    for (let i = 0; i < 20; i++) {
      const address = random.below(end);
      const length = 1 + random.below(random.chance(3) ? 300_000 : 5000);
      const fits = address + length <= end;
      assert.is(
        opened.log.mark(address, length),
        fits,
        `seed ${seed}: ${length} bytes at ${address} of ${end}`,
      );
      if (!fits) continue;
      pending.mark(address, length);
      for (let page = Math.floor(address / 4096); page * 4096 < address + length; page++) expected.add(page);
    }
    const pages = [...expected].sort((a, b) => a - b);
    assert.equal(opened.pages(), pages, `seed ${seed}`);
    const second = open(createFakePlatform(), { file: 512, size: 512 });
    assert.ok(pending.markIn(second.log));
    assert.equal(second.pages(), pages, `seed ${seed}: pages that waited for the log`);
    opened.close();
    second.close();
  }
});

test('C3: offset and size near 2^64, and sizes above the limit, are refused before anything is mapped', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('log', 4096n);
  for (const [offset, size, code] of [
    [0xffff_ffff_ffff_f000n, 0x2000n, 'ERR_GUEST_MEMORY_LOG'],
    [0xffff_ffff_ffff_ffffn, 1n, 'ERR_GUEST_MEMORY_LOG'],
    [0x7fff_ffff_ffff_ffffn, 1n, 'ERR_GUEST_MEMORY_LOG'],
    [0n, 0xffff_ffff_ffff_ffffn, 'ERR_GUEST_MEMORY_LIMIT'],
    [1n, 0xffff_ffff_ffff_ffffn, 'ERR_GUEST_MEMORY_LIMIT'],
    [0n, BigInt(DIRTY_LOG_MAX) + 1n, 'ERR_GUEST_MEMORY_LIMIT'],
    [0n, 0n, 'ERR_GUEST_MEMORY_LOG'],
  ] as const) {
    assert.throws(() => DirtyLog.map(platform, fd, offset, size), isError(code), `${size} at ${offset}`);
  }
  assert.throws(() => DirtyLog.map(platform, fd, 0n, 4096n, 4095), isError('ERR_GUEST_MEMORY_LIMIT'));
  assert.is(platform.mappingCount, 0);
});

test('C3: addresses near 2^53 and 2^64 lie outside, whatever the length', () => {
  const opened = open(createFakePlatform());
  for (const address of [2 ** 53 - 1, 2 ** 63, 2 ** 64, Infinity, NaN, -1]) {
    assert.not(opened.log.mark(address, 1), String(address));
    assert.not(opened.log.mark(address, 0xffff_ffff), String(address));
  }
  assert.not(opened.log.mark(0, 2 ** 53));
  assert.equal(opened.pages(), []);
  opened.close();
});

test('a log of 1 GiB, the longest, is marked at its end', () => {
  const platform = createLinuxPlatform();
  const fd = platform.createSharedMemory('log', BigInt(DIRTY_LOG_MAX));
  const log = DirtyLog.map(platform, fd, 0n, BigInt(DIRTY_LOG_MAX));
  const last = DIRTY_LOG_MAX * 8 - 1;
  assert.ok(log.mark(last * DIRTY_PAGE, DIRTY_PAGE));
  assert.not(log.mark((last + 1) * DIRTY_PAGE, 1));
  const end = platform.map(fd, BigInt(DIRTY_LOG_MAX - 4096), 4096n);
  assert.is(platform.windows.u8[end.firstWindow]![4095], 0x80);
  end.unmap();
  log[Symbol.dispose]();
  platform.closeFd(fd);
});

function isError(code: string): (error: unknown) => boolean {
  return (error) => error instanceof GuestMemoryError && error.code === code;
}

test.run();
