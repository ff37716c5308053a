import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { SocketStream } from '../../runtime/platform/platform.js';
import { bytes, errno, once, openFds, platform, turn } from './support.js';

test('signals before the callback are one, and the counter is drained before it', async () => {
  const fd = platform.createEventFd();
  platform.signalEventFd(fd);
  platform.signalEventFd(fd);
  let calls = 0;
  const watch = platform.watchEventFd(fd, () => {
    calls++;
    assert.throws(() => readSync(fd, Buffer.alloc(8)), /EAGAIN/);
  });
  while (calls === 0) await turn();
  await turn();
  assert.is(calls, 1);
  platform.signalEventFd(fd);
  while (calls === 1) await turn();
  assert.is(calls, 2);
  watch.close();
  watch.close();
  platform.signalEventFd(fd);
  await turn();
  await turn();
  assert.is(calls, 2);
  platform.closeFd(fd);
});

test('a signal adds one', () => {
  const fd = platform.createEventFd();
  for (let i = 0; i < 3; i++) platform.signalEventFd(fd);
  const value = Buffer.alloc(8);
  readSync(fd, value);
  assert.is(value.readBigUInt64LE(), 3n);
  platform.closeFd(fd);
});

test('a full counter is success, whether or not the peer made the eventfd non-blocking', () => {
  const fd = platform.createEventFd();
  const full = Buffer.alloc(8);
  full.writeBigUInt64LE(0xffff_ffff_ffff_fffen);
  writeSync(fd, full);
  platform.signalEventFd(fd);
  // The same eventfd, blocking: a plain write would wait for ever.
  const script = 'open(my $fd, "+>&=", 3) or die; fcntl($fd, 4, 0) or die "F_SETFL: $!"';
  const child = spawnSync('perl', ['-e', script], {
    stdio: ['ignore', 'ignore', 'pipe', fd],
    encoding: 'utf8',
  });
  assert.is(child.status, 0, child.stderr);
  platform.signalEventFd(fd);
  const value = Buffer.alloc(8);
  readSync(fd, value);
  assert.is(value.readBigUInt64LE(), 0xffff_ffff_ffff_fffen);
  platform.closeFd(fd);
});

test('a socket that stands in for an eventfd gets 8 bytes a signal; a full one, or one that blocks, is not waited for', () => {
  const [fd, peer] = platform.socketPair();
  // Blocking, as user mode Linux makes it.
  const script = 'open(my $fd, "+>&=", 3) or die; fcntl($fd, 4, 2) or die "F_SETFL: $!"';
  const child = spawnSync('perl', ['-e', script], {
    stdio: ['ignore', 'ignore', 'pipe', fd],
    encoding: 'utf8',
  });
  assert.is(child.status, 0, child.stderr);
  platform.signalEventFd(fd);
  const value = Buffer.alloc(16);
  assert.is(readSync(peer, value), 8);
  assert.is(value.readBigUInt64LE(), 1n);
  for (let i = 0; i < 100_000; i++) platform.signalEventFd(fd);
  assert.is(readSync(peer, value), 16);
  platform.closeFd(peer);
  assert.is(
    errno(() => platform.signalEventFd(fd)),
    'EPIPE',
  );
  platform.closeFd(fd);
});

test('signalling what cannot be signalled says so', () => {
  const fd = platform.createEventFd();
  platform.closeFd(fd);
  assert.is(
    errno(() => platform.signalEventFd(fd)),
    'EBADF',
  );
  assert.is(
    errno(() => platform.signalEventFd(-1)),
    'EBADF',
  );
  const readOnly = openSync('/dev/null', 'r');
  assert.is(
    errno(() => platform.signalEventFd(readOnly)),
    'EBADF',
  );
  closeSync(readOnly);
});

test('a regular file cannot be watched: EPERM', () => {
  const before = openFds();
  const fd = platform.createSharedMemory('file', 8n);
  assert.is(
    errno(() => platform.watchEventFd(fd, () => assert.unreachable())),
    'EPERM',
  );
  platform.closeFd(fd);
  assert.is(
    errno(() => platform.watchEventFd(fd, () => assert.unreachable())),
    'EBADF',
  );
  assert.is(openFds(), before);
});

test('a watched socket whose peer hangs up is reported once and watched no more', async () => {
  const [a, b] = platform.socketPair();
  const failures: (string | undefined)[] = [];
  let signals = 0;
  const watch = platform.watchEventFd(
    a,
    () => signals++,
    (error) => failures.push(error.errno),
  );
  const peer = platform.adoptSocket(b) as SocketStream;
  peer.send(bytes(1), []);
  while (signals === 0) await turn();
  peer.close();
  while (failures.length === 0) await turn();
  for (let i = 0; i < 10; i++) await turn();
  assert.equal(failures, ['EPIPE']);
  assert.is(signals, 1);
  watch.close();
  platform.closeFd(a);
});

test('an fd that polls as readable but cannot be read is watched no more', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'watch-'));
  const path = join(folder, 's');
  const numbers = () =>
    Array.from({ length: 200 }, (_, fd) => fd).filter((fd) => !errno(() => platform.fdKind(fd)));
  const before = numbers();
  const listener = platform.listen(path);
  const fd = numbers().find((each) => !before.includes(each) && platform.fdKind(each) === 'socket')!;
  const duplicate = platform.duplicateFd(fd);
  const failures: (string | undefined)[] = [];
  const watch = platform.watchEventFd(
    duplicate,
    () => assert.unreachable(),
    (error) => failures.push(error.errno),
  );
  const client = await platform.connect(path);
  while (failures.length === 0) await turn();
  for (let i = 0; i < 10; i++) await turn();
  assert.equal(failures, ['EINVAL']);
  watch.close();
  platform.closeFd(duplicate);
  client.close();
  listener.close();
  rmSync(folder, { recursive: true });
});

test('a watch may be closed, and its fd too, from its own callback', async () => {
  const before = openFds();
  const fd = platform.createEventFd();
  platform.signalEventFd(fd);
  await once<void>((done) => {
    const watch = platform.watchEventFd(fd, () => {
      watch.close();
      platform.closeFd(fd);
      done();
    });
  });
  await turn();
  assert.is(openFds(), before);
});

test('microtasks and ticks of a callback run before the next one', async () => {
  const fds = [platform.createEventFd(), platform.createEventFd()];
  const order: string[] = [];
  const watches = fds.map((fd, i) =>
    platform.watchEventFd(fd, () => {
      order.push(`call ${i}`);
      process.nextTick(() => order.push(`tick ${i}`));
      void Promise.resolve().then(() => order.push(`microtask ${i}`));
    }),
  );
  for (const fd of fds) platform.signalEventFd(fd);
  while (order.length < 6) await turn();
  assert.equal(
    order.map((each) => each.split(' ')[0]),
    ['call', 'tick', 'microtask', 'call', 'tick', 'microtask'],
  );
  watches.forEach((watch) => watch.close());
  fds.forEach((fd) => platform.closeFd(fd));
});

test('an exception in a callback is an uncaughtException, and the watch goes on', () => {
  const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url), 'throw'], { encoding: 'utf8' });
  assert.is(child.stdout, 'caught first\ncaught second\n', child.stderr);
});

test('without a handler for it, such an exception ends the process', () => {
  const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url), 'die'], { encoding: 'utf8' });
  assert.is(child.status, 1);
  assert.match(child.stderr, /Error: first/);
});

function throwTwice(handled: boolean): void {
  const fd = platform.createEventFd();
  const messages = ['first', 'second'];
  const watch = platform.watchEventFd(fd, () => {
    const message = messages.shift();
    if (messages.length === 0) watch.close();
    throw new Error(message);
  });
  if (handled) {
    process.on('uncaughtException', (error) => {
      console.log('caught', error.message);
      if (messages.length > 0) platform.signalEventFd(fd);
    });
  }
  platform.signalEventFd(fd);
}

if (process.argv[2] === undefined) test.run();
else throwTwice(process.argv[2] === 'throw');
