import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bytes, errno, openFds, platform, receive, streams } from './support.js';

test('fds arrive with the first byte, in order, and are the same files', () => {
  const [a, b] = streams();
  const eventFd = platform.createEventFd();
  const memory = platform.createSharedMemory('passed', 4096n);
  const before = openFds();
  assert.is(a.send(bytes(1, 2), [eventFd, memory]), 2);
  const first = receive(b, 1);
  assert.equal(first.data, [1]);
  assert.equal(
    first.fds.map((fd) => platform.fdKind(fd)),
    ['eventfd', 'memory'],
  );
  assert.equal(receive(b), { count: 1, data: [2], fds: [] });
  for (const fd of first.fds) platform.closeFd(fd);
  assert.is(openFds(), before);
  for (const fd of [eventFd, memory]) platform.closeFd(fd);
  a.close();
  b.close();
});

test('received fds are closed on exec', () => {
  const [a, b] = streams();
  const fd = platform.createEventFd();
  a.send(bytes(1), [fd]);
  const [received] = receive(b).fds;
  const child = spawnSync('sh', ['-c', `test -e /proc/self/fd/${received}`], { stdio: 'ignore' });
  assert.is(child.status, 1);
  for (const each of [fd, received!]) platform.closeFd(each);
  a.close();
  b.close();
});

test('two messages with fds do not run into one another', () => {
  const [a, b] = streams();
  const fd = platform.createEventFd();
  a.send(bytes(1), [fd]);
  a.send(bytes(2), [fd, fd]);
  const first = receive(b);
  const second = receive(b);
  assert.equal([first.data, first.fds.length], [[1], 1]);
  assert.equal([second.data, second.fds.length], [[2], 2]);
  for (const each of [fd, ...first.fds, ...second.fds]) platform.closeFd(each);
  a.close();
  b.close();
});

test('a message takes 253 fds, as many as Linux passes, and no more', () => {
  const [a, b] = streams();
  const fd = platform.createEventFd();
  const before = openFds();
  assert.is(a.send(bytes(1), new Array<number>(253).fill(fd)), 1);
  const { fds } = receive(b);
  assert.is(fds.length, 253);
  assert.is(new Set(fds).size, 253);
  assert.is(openFds(), before + 253);
  for (const each of fds) platform.closeFd(each);
  assert.is(
    errno(() => a.send(bytes(1), new Array<number>(254).fill(fd))),
    'E2BIG',
  );
  assert.is(openFds(), before);
  platform.closeFd(fd);
  a.close();
  b.close();
});

test('a bad fd is not sent, nor are fds without a byte', () => {
  const [a, b] = streams();
  const fd = platform.createEventFd();
  platform.closeFd(fd);
  assert.is(
    errno(() => a.send(bytes(1), [fd])),
    'EBADF',
  );
  assert.is(
    errno(() => a.send(bytes(), [0])),
    'ERR_PLATFORM_ARGUMENT',
  );
  assert.is(receive(b).count, -1);
  a.close();
  b.close();
});

test('fds in flight are closed with the socket', () => {
  const before = openFds();
  for (let i = 0; i < 2000; i++) {
    const [a, b] = streams();
    const fd = platform.createEventFd();
    a.send(bytes(1), [fd, fd, fd]);
    platform.closeFd(fd);
    a.close();
    b.close();
  }
  assert.is(openFds(), before);
});

if (process.argv[2] === 'truncation') {
  // Under a limit of open files that is too low for what comes.
  const [a, b] = streams();
  const fd = platform.createEventFd();
  const before = openFds();
  a.send(bytes(1), new Array<number>(200).fill(fd));
  console.log(
    errno(() => receive(b)),
    openFds() - before,
  );
} else {
  test('fds that were cut off: an error, and those that came are closed', () => {
    const command = `ulimit -n 100 && exec "${process.execPath}" "${fileURLToPath(import.meta.url)}" truncation`;
    const child = spawnSync('sh', ['-c', command], { encoding: 'utf8' });
    assert.is(child.stdout.trim(), 'EMFILE 0', child.stderr);
  });
  test.run();
}
