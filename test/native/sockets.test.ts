import { setMaxListeners } from 'node:events';
import { existsSync, lstatSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { PlatformError } from '../../runtime/errors.js';
import type { SocketListener, SocketStream } from '../../runtime/platform/platform.js';
import {
  bytes,
  errno,
  once,
  openFds,
  platform,
  receive,
  rejection,
  streams,
  turn,
  until,
} from './support.js';

let folder: string;
let path: string;
test.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'socket-'));
  path = join(folder, 's');
});
test.after.each(() => rmSync(folder, { recursive: true }));

test('a connection carries bytes both ways and then its end', async () => {
  const listener = platform.listen(path);
  const accepted = once<SocketStream>((done) => listener.onConnection(done));
  const client = await platform.connect(path);
  const server = await accepted;
  assert.is(receive(server).count, -1, 'nothing there: would block');
  assert.is(client.send(bytes(1, 2, 3), []), 3);
  assert.equal(receive(server, 2).data, [1, 2], 'no more than asked for');
  assert.equal(receive(server).data, [3]);
  assert.is(server.send(bytes(9), []), 1);
  assert.equal(receive(client).data, [9]);
  client.close();
  assert.is(receive(server).count, 0);
  server.close();
  listener.close();
});

test('connections made before the callback is set wait in the backlog', async () => {
  const listener = platform.listen(path);
  const clients = await Promise.all([platform.connect(path), platform.connect(path)]);
  const servers: SocketStream[] = [];
  listener.onConnection((stream) => servers.push(stream));
  await until(() => servers.length === 2);
  for (const stream of [...clients, ...servers]) stream.close();
  listener.close();
});

test('a full backlog is waited for', async () => {
  const listener = platform.listen(path);
  const clients = Array.from({ length: 300 }, () => platform.connect(path));
  await turn();
  let accepted = 0;
  listener.onConnection((stream) => {
    accepted++;
    stream.close();
  });
  for (const client of await Promise.all(clients)) client.close();
  await until(() => accepted === 300);
  listener.close();
});

test('a listener removes its socket file, unless the file is another one by now', () => {
  platform.listen(path).close();
  assert.not.ok(existsSync(path));

  const first = platform.listen(path);
  renameSync(path, `${path}.moved`);
  const second = platform.listen(path);
  first.close();
  assert.ok(lstatSync(path).isSocket(), 'the file of the second one stays');
  second.close();
  first.close();
});

test('a socket file that nobody listens on is replaced', () => {
  const first = platform.listen(path);
  renameSync(path, `${path}.moved`);
  first.close();
  renameSync(`${path}.moved`, path);
  assert.ok(lstatSync(path).isSocket());
  const second = platform.listen(path);
  second.close();
});

test('a socket that somebody listens on is left alone: EADDRINUSE', async () => {
  const listener = platform.listen(path);
  assert.is(
    errno(() => platform.listen(path)),
    'EADDRINUSE',
  );
  const client = await platform.connect(path);
  client.close();
  listener.close();
});

test('a file that is no socket is left alone: EADDRINUSE', () => {
  writeFileSync(path, 'precious');
  assert.is(
    errno(() => platform.listen(path)),
    'EADDRINUSE',
  );
  assert.ok(existsSync(path));
});

test('paths that cannot be addresses are refused', async () => {
  assert.is(
    errno(() => platform.listen('')),
    'EINVAL',
  );
  assert.is(
    errno(() => platform.listen(join(folder, 'x'.repeat(120)))),
    'ENAMETOOLONG',
  );
  assert.is(
    errno(() => platform.listen(join(folder, 'none', 's'))),
    'ENOENT',
  );
  const error = await rejection(platform.connect(join(folder, 'x'.repeat(120))));
  assert.is((error as PlatformError).errno, 'ENAMETOOLONG');
});

test('connecting says why it failed, and where to', async () => {
  const missing = (await rejection(platform.connect(path))) as PlatformError;
  assert.instance(missing, PlatformError);
  assert.is(missing.code, 'ERR_PLATFORM_SYSTEM_CALL');
  assert.is(missing.syscall, 'connect');
  assert.is(missing.errno, 'ENOENT');
  assert.match(missing.message, path);

  const listener = platform.listen(path);
  renameSync(path, `${path}.moved`);
  listener.close();
  const refused = (await rejection(platform.connect(`${path}.moved`))) as PlatformError;
  assert.is(refused.errno, 'ECONNREFUSED');
});

test('connecting can be aborted, before and while it waits', async () => {
  const before = openFds();
  const reason = new Error('enough');
  assert.is(await rejection(platform.connect(path, { signal: AbortSignal.abort(reason) })), reason);

  const listener = platform.listen(path);
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  const attempts = Array.from({ length: 200 }, () => platform.connect(path, { signal: controller.signal }));
  const settled = Promise.allSettled(attempts);
  await turn();
  controller.abort(reason);
  let aborted = 0;
  for (const result of await settled) {
    if (result.status === 'fulfilled') {
      result.value.close();
    } else {
      assert.is(result.reason, reason);
      aborted++;
    }
  }
  assert.ok(aborted > 0, 'the backlog is shorter than that');
  listener.close();
  await turn();
  assert.is(openFds(), before);
});

test('an inherited fd becomes what it is', () => {
  const listener = platform.listen(path);
  const [a, b] = platform.socketPair();
  const stream = platform.adoptSocket(a);
  assert.is(stream.kind, 'stream');
  stream.close();
  platform.closeFd(b);
  listener.close();
});

test('an inherited listening socket accepts, and its file is not ours to remove', async () => {
  // A listener's fd is private, so an inherited one is stood in for by a duplicate of it.
  const fdsBefore = new Set(listFds());
  const owner = platform.listen(path);
  const fd = listFds().find((each) => !fdsBefore.has(each) && platform.fdKind(each) === 'socket')!;
  const adopted = platform.adoptSocket(platform.duplicateFd(fd)) as SocketListener;
  assert.is(adopted.kind, 'listener');
  const accepted = once<SocketStream>((done) => adopted.onConnection(done));
  const client = await platform.connect(path);
  (await accepted).close();
  client.close();
  adopted.close();
  assert.ok(existsSync(path));
  owner.close();
});

test('an fd that is no Unix stream socket is not adopted, and stays the caller’s', () => {
  const fd = platform.createEventFd();
  assert.is(
    errno(() => platform.adoptSocket(fd)),
    'ENOTSOCK',
  );
  platform.closeFd(fd);
  assert.is(
    errno(() => platform.adoptSocket(fd)),
    'EBADF',
  );
});

test('a full socket takes what fits, then nothing, and is writable again once it was read', async () => {
  const [a, b] = streams();
  const chunk = new Uint8Array(100_000).fill(7);
  let sent = 0;
  for (;;) {
    const count = a.send(chunk, []);
    if (count < 0) break;
    sent += count;
  }
  const writable = once<void>((done) => a.onWritable(() => done()));
  let read = 0;
  while (read < sent) read += receive(b, 1 << 20).count;
  assert.is(read, sent);
  await writable;
  a.onWritable(null);
  assert.is(a.send(bytes(1), []), 1);
  a.close();
  b.close();
});

test('readable is reported again and again, until nothing is left or it is turned off', async () => {
  const [a, b] = streams();
  a.send(bytes(1, 2, 3), []);
  const seen: number[] = [];
  b.onReadable(() => seen.push(...receive(b, 1).data));
  await until(() => seen.length === 3);
  b.onReadable(null);
  a.send(bytes(4), []);
  await turn();
  await turn();
  assert.equal(seen, [1, 2, 3]);
  b.onReadable(() => seen.push(...receive(b, 1).data));
  await until(() => seen.length === 4);
  a.close();
  b.close();
});

test('a hang-up is readable', async () => {
  const [a, b] = streams();
  const end = once<number>((done) => b.onReadable(() => done(receive(b).count)));
  a.close();
  assert.is(await end, 0);
  b.close();
});

test('a peer that left with unread bytes: first its data, then the error', async () => {
  const [a, b] = streams();
  a.send(bytes(1), []); // never read by b, so that closing b is a reset
  b.send(bytes(5, 6), []);
  const seen: unknown[] = [];
  b.close();
  a.onReadable(() => {
    try {
      const { count, data } = receive(a, 1);
      seen.push(...data);
      if (count === 0) a.onReadable(null);
    } catch (error) {
      seen.push((error as PlatformError).errno);
      a.onReadable(null);
    }
  });
  await until(() => seen.length === 3);
  assert.equal(seen, [5, 6, 'ECONNRESET']);
  a.close();
});

test('sending to a peer that left is an error, not a signal that kills', () => {
  const [a, b] = streams();
  b.close();
  assert.is(
    errno(() => a.send(bytes(1), [])),
    'EPIPE',
  );
  a.close();
});

test('closing twice, and using a closed stream', () => {
  const [a, b] = streams();
  a.close();
  a.close();
  a.onReadable(() => assert.unreachable());
  assert.is(
    errno(() => receive(a)),
    'ERR_PLATFORM_CLOSED',
  );
  assert.is(
    errno(() => a.send(bytes(1), [])),
    'ERR_PLATFORM_CLOSED',
  );
  b.close();
});

test('a stream may be closed from its own callback', async () => {
  const [a, b] = streams();
  a.send(bytes(1), []);
  await once<void>((done) =>
    b.onReadable(() => {
      receive(b);
      b.close();
      done();
    }),
  );
  await turn();
  assert.is(receive(a).count, 0);
  a.close();
});

function listFds(): number[] {
  const fds: number[] = [];
  for (let fd = 0; fd < 256; fd++) if (errno(() => platform.fdKind(fd)) === undefined) fds.push(fd);
  return fds;
}

test.run();
