import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { PlatformError } from '../../runtime/errors.js';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import {
  BlockOperation,
  type SocketStream,
  WINDOW_SPAN,
  WINDOW_STRIDE,
} from '../../runtime/platform/platform.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

function errno(run: () => unknown): string | undefined {
  try {
    run();
  } catch (error) {
    if (error instanceof PlatformError) return error.errno ?? error.code;
    throw error;
  }
  return undefined;
}

function pair(platform: FakePlatform): [SocketStream, SocketStream] {
  const [a, b] = platform.socketPair().map((fd) => platform.adoptSocket(fd) as SocketStream);
  return [a!, b!];
}

function receive(stream: SocketStream, size = 64): { data: number[]; fds: number[]; count: number } {
  const into = new Uint8Array(size);
  const fds: number[] = [];
  const count = stream.receive(into, fds);
  return { data: [...into.subarray(0, Math.max(0, count))], fds, count };
}

test('a stream carries bytes and then its end', () => {
  const platform = createFakePlatform();
  const [a, b] = pair(platform);
  assert.is(receive(b).count, -1, 'nothing there: would block');
  assert.is(a.send(bytes(1, 2, 3), []), 3);
  assert.equal(receive(b, 2).data, [1, 2]);
  assert.equal(receive(b).data, [3]);
  a.close();
  assert.is(receive(b).count, 0);
  assert.is(
    errno(() => b.send(bytes(1), [])),
    'EPIPE',
  );
  b.close();
  assert.is(platform.openFdCount, 0);
});

test('a passed fd is a new number for the same thing, and comes with its first byte', () => {
  const platform = createFakePlatform();
  const [a, b] = pair(platform);
  const memory = platform.createSharedMemory('m', 4096n);
  a.send(bytes(1), []);
  a.send(bytes(2, 3), [memory]);
  a.send(bytes(4), []);
  platform.closeFd(memory);
  const first = receive(b, 2);
  assert.equal(first.data, [1, 2]);
  assert.is(first.fds.length, 1);
  assert.is.not(first.fds[0], memory);
  assert.is(platform.fdKind(first.fds[0]!), 'memory');
  assert.equal(receive(b), { data: [3, 4], fds: [], count: 2 });
  platform.closeFd(first.fds[0]!);
  for (const stream of [a, b]) stream.close();
  assert.is(platform.openFdCount, 0);
});

test('a receive that reaches fds ends there', () => {
  const platform = createFakePlatform();
  const [a, b] = pair(platform);
  const event = platform.createEventFd();
  a.send(bytes(1), [event]);
  a.send(bytes(2), [event]);
  assert.is(receive(b).fds.length, 1);
  assert.equal(receive(b).data, [2]);
});

test('fds that nobody received go with the socket', () => {
  const platform = createFakePlatform();
  const [a, b] = pair(platform);
  const memory = platform.createSharedMemory('m', 4096n);
  const mapping = platform.map(memory, 0n, 4096n);
  a.send(bytes(1), [memory]);
  platform.closeFd(memory);
  mapping.unmap();
  b.close();
  a.close();
  assert.is(platform.openFdCount, 0);
  assert.is(platform.mappingCount, 0);
});

test('closing with unread bytes resets the peer once', () => {
  const platform = createFakePlatform();
  const [a, b] = pair(platform);
  a.send(bytes(1), []);
  b.close();
  assert.is(
    errno(() => receive(a)),
    'ECONNRESET',
  );
  assert.is(receive(a).count, 0);
});

test('receives can be cut to single bytes', () => {
  const platform = createFakePlatform({ receiveLimit: 1 });
  const [a, b] = pair(platform);
  a.send(bytes(1, 2, 3), []);
  assert.equal(
    [1, 2, 3].map(() => receive(b).data),
    [[1], [2], [3]],
  );
});

test('a full buffer takes a part, then would block, and wakes the writer when read', async () => {
  const platform = createFakePlatform({ sendCapacity: 4 });
  const [a, b] = pair(platform);
  assert.is(a.send(bytes(1, 2, 3, 4, 5, 6), []), 4);
  assert.is(a.send(bytes(5, 6), []), -1);
  let wakes = 0;
  a.onWritable(() => {
    wakes++;
    a.onWritable(null);
  });
  await turn();
  assert.is(wakes, 0);
  receive(b, 3);
  await turn();
  assert.is(wakes, 1);
});

test('readable is reported while there is something, also for the end, and not after null', async () => {
  const platform = createFakePlatform();
  const [a, b] = pair(platform);
  let calls = 0;
  b.onReadable(() => calls++);
  await turn();
  assert.is(calls, 0);
  a.send(bytes(1), []);
  await turn();
  await turn();
  assert.ok(calls >= 2, 'level-triggered');
  receive(b);
  await turn();
  const settled = calls;
  await turn();
  assert.is(calls, settled);
  a.close();
  await turn();
  assert.ok(calls > settled);
  b.onReadable(null);
  const last = calls;
  await turn();
  assert.is(calls, last);
  b.close();
});

test('connections wait for the listener; a live path is in use, a stale one is not', async () => {
  const platform = createFakePlatform();
  assert.is(await platform.connect('/s').catch((error: PlatformError) => error.errno), 'ENOENT');
  platform.leaveStaleSocket('/s');
  assert.is(await platform.connect('/s').catch((error: PlatformError) => error.errno), 'ECONNREFUSED');
  const listener = platform.listen('/s');
  assert.is(
    errno(() => platform.listen('/s')),
    'EADDRINUSE',
  );
  const client = await platform.connect('/s');
  client.send(bytes(7), []);
  const served: SocketStream[] = [];
  listener.onConnection((stream) => served.push(stream));
  await turn();
  assert.is(served.length, 1);
  assert.equal(receive(served[0]!).data, [7]);
  listener.close();
  const unheard = platform.listen('/s');
  const waiting = await platform.connect('/s');
  unheard.close();
  assert.is(
    errno(() => receive(waiting)),
    'ECONNRESET',
    'the backlog is closed',
  );
  assert.is(await platform.connect('/s').catch((error: PlatformError) => error.errno), 'ENOENT');
  for (const stream of [client, waiting, ...served]) stream.close();
  assert.is(platform.openFdCount, 0);
});

test('a connect that is aborted rejects with the reason and leaves nothing', async () => {
  const platform = createFakePlatform();
  const listener = platform.listen('/s');
  const abort = new AbortController();
  const connecting = platform.connect('/s', { signal: abort.signal });
  abort.abort('enough');
  assert.is(await connecting.catch((reason: unknown) => reason), 'enough');
  listener.close();
  assert.is(platform.openFdCount, 0);
});

test('an inherited fd is adopted as what it is', () => {
  const platform = createFakePlatform();
  assert.is(platform.adoptSocket(platform.createListeningFd('/s')).kind, 'listener');
  assert.is(platform.adoptSocket(platform.socketPair()[0]).kind, 'stream');
  assert.is(
    errno(() => platform.adoptSocket(platform.createEventFd())),
    'ENOTSOCK',
  );
});

test('a closed fd number is never valid again', () => {
  const platform = createFakePlatform();
  const fd = platform.createEventFd();
  platform.closeFd(fd);
  assert.is(
    errno(() => platform.closeFd(fd)),
    'EBADF',
  );
  assert.is.not(platform.createEventFd(), fd);
});

test('two mappings of one memory see the same bytes, also through a duplicate', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('m', 8192n);
  const copy = platform.duplicateFd(fd);
  const whole = platform.map(fd, 0n, 8192n);
  const tail = platform.map(copy, 4096n, 4096n);
  platform.windows.u32[whole.firstWindow]![1025] = 0xdeadbeef;
  assert.is(platform.windows.u32[tail.firstWindow]![1], 0xdeadbeef);
  platform.closeFd(fd);
  platform.closeFd(copy);
  platform.windows.u8[tail.firstWindow]![0] = 9;
  assert.is(platform.windows.u8[whole.firstWindow]![4096], 9, 'a mapping outlives its fd');
  whole.unmap();
  whole.unmap();
  assert.is(platform.mappingCount, 1);
  assert.is(platform.windows.u8[whole.firstWindow]![0], undefined);
  tail.unmap();
  assert.is(platform.mappingCount, 0);
});

test('a mapping that is longer than its file, or of something else, is refused', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('m', 4096n);
  assert.is(
    errno(() => platform.map(fd, 1n << 12n, 1n)),
    'EINVAL',
  );
  assert.is(
    errno(() => platform.map(fd, 0n, 0n)),
    'EINVAL',
  );
  assert.is(
    errno(() => platform.map(platform.createEventFd(), 0n, 1n)),
    'ENODEV',
  );
  assert.is(platform.mappingCount, 0);
});

test('a long mapping takes overlapping windows, and freed indexes are used again', () => {
  const platform = createFakePlatform();
  const length = 2 * WINDOW_STRIDE + 4096;
  const fd = platform.createSharedMemory('big', BigInt(length));
  const small = platform.map(fd, 0n, 4096n);
  const big = platform.map(fd, 0n, BigInt(length));
  assert.is(big.windowCount, 3);
  const [first, second, third] = [0, 1, 2].map((k) => platform.windows.u8[big.firstWindow + k]!);
  assert.is(first!.byteLength, WINDOW_SPAN);
  assert.is(second!.byteLength, WINDOW_STRIDE + 4096);
  assert.is(third!.byteLength, 4096);
  third![5] = 77;
  assert.is(second![WINDOW_STRIDE + 5], 77);
  small.unmap();
  const again = platform.map(fd, 4096n, 4096n);
  assert.is(again.firstWindow, small.firstWindow, 'a hole that fits is filled');
  big.unmap();
  const two = platform.map(fd, 0n, BigInt(WINDOW_STRIDE + 1));
  assert.is(two.firstWindow, big.firstWindow);
  assert.is(two.windowCount, 2);
});

test('truncated memory damages the mappings that reach there', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('m', 8192n);
  const low = platform.map(fd, 0n, 4096n);
  const high = platform.map(fd, 4096n, 4096n);
  platform.windows.u8[high.firstWindow]![0] = 1;
  platform.truncateSharedMemory(fd, 4096);
  assert.equal([low.damaged, high.damaged], [false, true]);
  assert.is(platform.windows.u8[high.firstWindow]![0], 0);
  assert.is(platform.fileSize(fd), 4096n);
});

test('an eventfd calls back later, once for many signals, and no more once closed', async () => {
  const platform = createFakePlatform();
  const fd = platform.createEventFd();
  platform.signalEventFd(fd);
  let calls = 0;
  const watch = platform.watchEventFd(fd, () => calls++);
  platform.signalEventFd(fd);
  assert.is(calls, 0);
  await turn();
  assert.is(calls, 1);
  assert.is(platform.takeEventFd(fd), 0n, 'drained');
  platform.signalEventFd(fd);
  watch.close();
  await turn();
  assert.is(calls, 1);
  assert.is(platform.takeEventFd(fd), 1n);
});

test('a copy table runs whole or not at all', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('m', 8192n);
  const from = platform.map(fd, 0n, 4096n).firstWindow;
  const to = platform.map(fd, 4096n, 4096n).firstWindow;
  platform.windows.u8[from]!.set([1, 2, 3]);
  platform.copies.entries.set([from, 0, to, 10, 3, 0]);
  platform.copies.run(1);
  assert.equal([...platform.windows.u8[to]!.subarray(9, 14)], [0, 1, 2, 3, 0]);
  platform.copies.entries.set([from, 0, to, 20, 3, 0, 0, 0, 0, from, 4094, to, 0, 3, 0]);
  assert.is(
    errno(() => platform.copies.run(2)),
    'ERR_PLATFORM_ARGUMENT',
  );
  assert.is(platform.windows.u8[to]![20], 0);
});

function disk(size = 4096) {
  const platform = createFakePlatform();
  const image = platform.addFile(
    '/disk',
    Uint8Array.from({ length: size }, (_, i) => i % 251),
  );
  const memory = platform.map(platform.createSharedMemory('m', 4096n), 0n, 4096n);
  const file = platform.openFile('/disk', { readOnly: false });
  const view = platform.windows.u8[memory.firstWindow]!;
  const segments = Int32Array.of(memory.firstWindow, 0, 100, 0, memory.firstWindow, 200, 50, 0);
  const run = (name: keyof typeof BlockOperation, token: number, position: number, length = 0): void =>
    file.queue(
      BlockOperation[name],
      token,
      position,
      length,
      segments,
      0,
      length === 0 && name !== 'flush' ? 2 : 0,
    );
  return { platform, image, memory, file, view, run };
}

test('a read ends inside submit and fills its segments', () => {
  const { file, view, run, image } = disk();
  run('read', 7, 1000);
  assert.is(file.pending, 1);
  assert.is(file.submit(), 1);
  assert.equal([...file.completions.subarray(0, 2)], [7, 150]);
  assert.equal([...view.subarray(0, 100)], [...image.bytes.subarray(1000, 1100)]);
  assert.equal([...view.subarray(200, 250)], [...image.bytes.subarray(1100, 1150)]);
  assert.is(view[100], 0);
});

test('a read over the end is short, a write there fails', () => {
  const { file, run } = disk();
  run('read', 1, 4096 - 120);
  run('read', 2, 9999);
  run('write', 3, 4096 - 120);
  assert.is(file.submit(), 3);
  assert.equal([...file.completions.subarray(0, 6)], [1, 120, 2, 0, 3, -28]);
});

test('writes, zeroes and discards change the image; a flush and an ordered failure do not', () => {
  const { file, view, run, image } = disk();
  view.fill(0xaa);
  image.failNext('write', 'EIO', 1);
  run('write', 1, 0);
  run('write', 2, 1024);
  run('writeZeroes', 3, 10, 5);
  run('discard', 4, 20, 5);
  run('flush', 5, 0);
  file.submit();
  assert.equal([...file.completions.subarray(0, 10)], [1, 150, 2, -5, 3, 0, 4, 0, 5, 0]);
  assert.equal([...image.bytes.subarray(9, 16)], [0xaa, 0, 0, 0, 0, 0, 0xaa]);
  assert.is(image.bytes[22], 0);
  assert.is(image.bytes[1024], 1024 % 251);
  assert.equal(
    image.log.map((operation) => operation.name),
    ['write', 'write', 'writeZeroes', 'discard', 'flush'],
  );
});

test('a read-only file is not written', () => {
  const platform = createFakePlatform();
  platform.addFile('/ro', 512, { readOnly: true });
  assert.is(
    errno(() => platform.openFile('/ro', { readOnly: false })),
    'EACCES',
  );
  assert.is(
    errno(() => platform.openFile('/none', { readOnly: true })),
    'ENOENT',
  );
  const file = platform.openFile('/ro', { readOnly: true });
  file.queue(BlockOperation.discard, 1, 0, 512, new Int32Array(0), 0, 0);
  file.submit();
  assert.is(file.completions[1], -9);
});

test('operations can end later and in another order', async () => {
  const { file, run, image } = disk();
  const ended: number[] = [];
  file.onComplete((count) =>
    ended.push(...file.completions.subarray(0, count * 2).filter((_, i) => i % 2 === 0)),
  );
  image.endsAtOnce = ({ token }) => token === 2;
  image.next = (waiting) => waiting.length - 1;
  for (const token of [1, 2, 3, 4]) run('read', token, 0);
  assert.is(file.submit(), 1);
  assert.is(file.completions[0], 2);
  assert.is(file.pending, 3);
  for (let i = 0; i < 4; i++) await turn();
  assert.equal(ended, [4, 3, 1]);
});

test('a stalled file ends nothing, holds its windows mapped and its close open, until it is resumed', async () => {
  const { platform, file, run, image, memory } = disk();
  const ended: number[] = [];
  file.onComplete(() => ended.push(file.completions[0]!));
  image.stall();
  run('read', 1, 0);
  run('read', 2, 0);
  run('flush', 3, 0);
  assert.is(file.submit(), 0);
  let closed = false;
  const closing = file.close().then(() => (closed = true));
  await turn();
  assert.is(closed, false);
  assert.is(
    errno(() => memory.unmap()),
    'ERR_PLATFORM_ARGUMENT',
  );
  image.release(1);
  for (let i = 0; i < 3; i++) await turn();
  assert.equal(ended, [1]);
  image.resume();
  await closing;
  assert.equal(ended, [1, 2, 3]);
  memory.unmap();
  assert.equal(
    platform.openFds.map(({ kind }) => kind),
    ['memory'],
  );
  assert.is(
    errno(() => run('read', 4, 0)),
    'ERR_PLATFORM_CLOSED',
  );
});

test('ordered failures hit the call they name', () => {
  const platform = createFakePlatform();
  const fd = platform.createSharedMemory('m', 4096n);
  platform.failNext('mmap', 'ENOMEM', 1);
  platform.map(fd, 0n, 4096n);
  assert.is(
    errno(() => platform.map(fd, 0n, 4096n)),
    'ENOMEM',
  );
  platform.map(fd, 0n, 4096n);
  assert.is(platform.mappingCount, 2);
});

test.run();
