import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { WINDOW_SPAN, WINDOW_STRIDE } from '../../runtime/platform/platform.js';
import { errno, mapped, mappingsOf, openFds, platform } from './support.js';

const { u8, u32 } = platform.windows;
const GIB = 1n << 30n;

test('memory is shared with whoever has the file', () => {
  const fd = platform.createSharedMemory('shared', 8192n);
  assert.is(platform.fdKind(fd), 'memory');
  assert.is(platform.fileSize(fd), 8192n);
  const one = platform.map(fd, 0n, 8192n);
  const two = platform.map(fd, 4096n, 4096n);
  u8[one.firstWindow]![4096 + 5] = 0xab;
  assert.is(u8[two.firstWindow]![5], 0xab);
  u32[two.firstWindow]![2] = 0x04030201;
  assert.equal([...u8[one.firstWindow]!.subarray(4104, 4108)], [1, 2, 3, 4]);
  const seen = Buffer.alloc(1);
  readSync(fd, seen, 0, 1, 4101);
  assert.is(seen[0], 0xab);
  one.unmap();
  two.unmap();
  platform.closeFd(fd);
});

test('64 GiB in windows: every byte is reachable, the last one too', () => {
  const fd = platform.createSharedMemory('large', 64n * GIB);
  const mapping = platform.map(fd, 0n, 64n * GIB);
  platform.closeFd(fd);
  const first = mapping.firstWindow;
  assert.is(mapping.length, 64n * GIB);
  assert.is(mapping.windowCount, 64);
  assert.is(u8[first]!.length, WINDOW_SPAN);
  assert.is(u8[first + 62]!.length, WINDOW_SPAN);
  assert.is(u8[first + 63]!.length, WINDOW_STRIDE);
  u8[first + 63]![WINDOW_STRIDE - 1] = 77;
  assert.is(u8[first + 62]![2 * WINDOW_STRIDE - 1], undefined, 'behind the span of the window before');
  u8[first + 62]![WINDOW_STRIDE + 3] = 9;
  assert.is(u8[first + 63]![3], 9, 'windows overlap');
  assert.is(u8[first + 63]![WINDOW_STRIDE - 1], 77);
  mapping.unmap();
  assert.is(u8[first + 63]![WINDOW_STRIDE - 1], undefined);
});

test('of 64 GiB mapped lazily only the windows that are shown are buffers', () => {
  const fd = platform.createSharedMemory('lazy', 64n * GIB);
  const before = process.memoryUsage().arrayBuffers;
  const mapping = platform.map(fd, 0n, 64n * GIB, { lazy: true });
  platform.closeFd(fd);
  const first = mapping.firstWindow;
  const views = (): number[] => [0, 1, 62, 63].map((i) => u8[first + i]!.length);
  assert.equal(views(), [0, 0, 0, 0]);
  assert.ok(process.memoryUsage().arrayBuffers - before < WINDOW_STRIDE);
  platform.windows.show(first + 63);
  platform.windows.show(first + 62);
  assert.equal(views(), [0, 0, WINDOW_SPAN, WINDOW_STRIDE]);
  u8[first + 63]![3] = 9;
  assert.is(u8[first + 62]![WINDOW_STRIDE + 3], 9);
  mapping.unmap();
  assert.equal(views(), [0, 0, 0, 0]);
});

test('a stale view reads as empty and takes writes without a fault', () => {
  const { mapping, window, u8: view } = mapped(4096);
  const words = u32[window]!;
  view[0] = 1;
  const copy = view.subarray(0, 16);
  mapping.unmap();
  mapping.unmap();
  assert.is(view.length, 0);
  assert.is(words.length, 0);
  assert.is(copy.length, 0);
  assert.is(view[0], undefined);
  view[0] = 2;
  words[0] = 2;
  assert.throws(() => Atomics.load(view, 0));
  assert.is(u8[window]!.length, 0);
});

test('window numbers are used again, the lowest first', () => {
  const a = mapped(4096);
  const b = mapped(4096);
  const c = mapped(4096);
  b.mapping.unmap();
  const again = mapped(8192);
  assert.is(again.window, b.window);
  a.mapping.unmap();
  again.mapping.unmap();
  const fd = platform.createSharedMemory('two windows', 2n * GIB);
  const two = platform.map(fd, 0n, 2n * GIB);
  platform.closeFd(fd);
  assert.is(two.firstWindow, a.window, 'two free ones in a row');
  two.unmap();
  c.mapping.unmap();
});

test('an offset inside a page is rounded down inside', () => {
  const fd = platform.createSharedMemory('offset', 8192n);
  const whole = platform.map(fd, 0n, 8192n);
  const part = platform.map(fd, 4096n + 8n, 100n);
  u8[whole.firstWindow]![4096 + 8] = 42;
  assert.is(u8[part.firstWindow]!.length, 100);
  assert.is(u8[part.firstWindow]![0], 42);
  whole.unmap();
  part.unmap();
  platform.closeFd(fd);
});

test('a file shorter than what is asked for is refused, at its edge and where the sum would wrap', () => {
  const fd = platform.createSharedMemory('short', 8192n);
  assert.is(
    errno(() => platform.map(fd, 0n, 8193n)),
    'EOVERFLOW',
  );
  assert.is(
    errno(() => platform.map(fd, 4096n, 4097n)),
    'EOVERFLOW',
  );
  assert.is(
    errno(() => platform.map(fd, (1n << 63n) - 4096n, 4096n)),
    'EOVERFLOW',
  );
  assert.is(
    errno(() => platform.map(fd, (1n << 63n) - 8n, (1n << 63n) - 8n)),
    'EOVERFLOW',
  );
  assert.is(
    errno(() => platform.map(fd, 1n << 64n, 4096n)),
    'EOVERFLOW',
  );
  assert.is(
    errno(() => platform.map(fd, -4096n, 4096n)),
    'EOVERFLOW',
  );
  assert.is(
    errno(() => platform.map(fd, 0n, 0n)),
    'EINVAL',
  );
  assert.is(
    errno(() => platform.map(fd, 4n, 16n)),
    'EINVAL',
    'words would not be aligned',
  );
  platform.closeFd(fd);
  assert.is(
    errno(() => platform.map(fd, 0n, 4096n)),
    'EBADF',
  );
});

test('what cannot be mapped is refused', () => {
  const eventFd = platform.createEventFd();
  assert.is(
    errno(() => platform.map(eventFd, 0n, 4096n)),
    'EINVAL',
  );
  platform.closeFd(eventFd);
  const folder = mkdtempSync(join(tmpdir(), 'map-'));
  writeFileSync(join(folder, 'f'), Buffer.alloc(4096));
  const readOnly = openSync(join(folder, 'f'), 'r');
  assert.is(
    errno(() => platform.map(readOnly, 0n, 4096n)),
    'EACCES',
  );
  closeSync(readOnly);
  rmSync(folder, { recursive: true });
});

test('huge pages: mapped in whole ones, or refused with the reason where the machine has none', () => {
  let fd: number;
  try {
    fd = platform.createSharedMemory('huge', 4096n, { hugePages: true });
  } catch (error) {
    assert.match((error as Error).message, 'huge pages');
    return;
  }
  const size = platform.fileSize(fd);
  assert.ok(size >= 1n << 21n && size % (1n << 21n) === 0n, 'rounded up to whole pages');
  // A machine may have hugetlbfs and no page in its pool: mmap reserves, and is refused then.
  const refused = errno(() => {
    const part = platform.map(fd, 4096n, 4096n);
    part.unmap();
  });
  assert.ok(refused === undefined || refused === 'ENOMEM', refused);
  platform.closeFd(fd);
});

test('the kinds and sizes of fds', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kinds-'));
  const [a, b] = platform.socketPair();
  assert.is(platform.fdKind(a), 'socket');
  const eventFd = platform.createEventFd();
  assert.is(platform.fdKind(eventFd), 'eventfd');
  const nothing = openSync('/dev/null', 'r');
  assert.is(platform.fdKind(nothing), 'other');
  assert.is(
    errno(() => platform.fileSize(nothing)),
    'EINVAL',
  );
  const here = openSync(folder, 'r');
  assert.is(platform.fdKind(here), 'other');
  const grown = platform.createSharedMemory('grown', 0n);
  ftruncateSync(grown, 12345);
  assert.is(platform.fileSize(grown), 12345n);
  for (const fd of [a, b, eventFd, grown, nothing, here]) platform.closeFd(fd);
  assert.is(
    errno(() => platform.fdKind(a)),
    'EBADF',
  );
  assert.is(
    errno(() => platform.closeFd(a)),
    'EBADF',
  );
  assert.is(
    errno(() => platform.duplicateFd(a)),
    'EBADF',
  );
  rmSync(folder, { recursive: true });
});

test('a refused mapping leaves nothing', () => {
  const fds = openFds();
  const fd = platform.createSharedMemory('refused', 4096n);
  for (let i = 0; i < 1000; i++) errno(() => platform.map(fd, 0n, 8192n));
  assert.is(mappingsOf('memfd:refused'), 0);
  platform.closeFd(fd);
  assert.is(openFds(), fds);
});

test('10,000 mappings, one after the other: no fd, no mapping, no window is left', () => {
  const fds = openFds();
  const windows = u8.length;
  for (let i = 0; i < 10_000; i++) {
    const { mapping, u8: view } = mapped(65536, 'cycle');
    view[i % 65536] = 1;
    mapping.unmap();
  }
  assert.is(openFds(), fds);
  assert.is(mappingsOf('memfd:cycle'), 0);
  assert.is(u8.length, Math.max(windows, 1));
});

test.run();
