import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { PlatformError } from '../../runtime/errors.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import {
  type BlockFile,
  BlockOperation,
  type Platform,
  type SocketStream,
} from '../../runtime/platform/platform.js';

// What the tests of the session lean on: where the fake behaves unlike the kernel, they prove nothing.

const folder = mkdtempSync(join(tmpdir(), 'vhu-parity-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

interface Subject {
  readonly platform: Platform;
  path(name: string): string;
  file(name: string, content: Uint8Array): string;
}

const fake = createFakePlatform();
const subjects: Subject[] = [
  {
    platform: fake,
    path: (name) => `/${name}`,
    file: (name, content) => {
      fake.addFile(`/${name}`, content.slice());
      return `/${name}`;
    },
  },
  {
    platform: createLinuxPlatform(),
    path: (name) => join(folder, name),
    file: (name, content) => {
      writeFileSync(join(folder, name), content);
      return join(folder, name);
    },
  },
];

function both(name: string, run: (subject: Subject) => void | Promise<void>): void {
  for (const subject of subjects) test(`${subject.platform.name}: ${name}`, () => run(subject));
}

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Lets the loop turn until the condition holds, however long a disk takes; what never comes the limit of a test file ends. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await turn();
}

function failure(run: () => unknown): PlatformError {
  try {
    run();
  } catch (error) {
    if (error instanceof PlatformError) return error;
    throw error;
  }
  throw new Error('did not fail');
}

function pair(platform: Platform): [SocketStream, SocketStream] {
  const [a, b] = platform.socketPair().map((fd) => platform.adoptSocket(fd) as SocketStream);
  return [a!, b!];
}

function receive(stream: SocketStream, size = 64): { count: number; data: number[]; fds: number[] } {
  const into = new Uint8Array(size);
  const fds: number[] = [];
  const count = stream.receive(into, fds);
  return { count, data: [...into.subarray(0, Math.max(0, count))], fds };
}

both('an empty stream would block, a closed one ends, sending to it is EPIPE', ({ platform }) => {
  const [a, b] = pair(platform);
  assert.is(receive(b).count, -1);
  a.send(bytes(1, 2, 3), []);
  assert.equal(receive(b, 2).data, [1, 2]);
  assert.equal(receive(b).data, [3]);
  a.close();
  assert.is(receive(b).count, 0);
  assert.is(receive(b).count, 0);
  assert.is(failure(() => b.send(bytes(1), [])).errno, 'EPIPE');
  b.close();
  b.close();
});

both(
  'fds come with the first byte they were sent with, behind plain bytes too, and end the receive',
  ({ platform }) => {
    const [a, b] = pair(platform);
    const event = platform.createEventFd();
    a.send(bytes(1), []);
    a.send(bytes(2, 3), [event]);
    a.send(bytes(4), []);
    a.send(bytes(5), [event, event]);
    const first = receive(b, 2);
    assert.equal(first.data, [1, 2]);
    assert.is(first.fds.length, 1);
    const rest = [receive(b), receive(b)];
    assert.equal(
      rest.flatMap(({ data }) => data),
      [3, 4, 5],
    );
    assert.is(rest.flatMap(({ fds }) => fds).length, 2);
    const all = [...first.fds, ...rest.flatMap(({ fds }) => fds)];
    for (const fd of all) {
      assert.is(platform.fdKind(fd), 'eventfd');
      platform.closeFd(fd);
    }
    platform.closeFd(event);
    a.close();
    b.close();
  },
);

both('a peer that closes with unread bytes is a reset, then the end', ({ platform }) => {
  const [a, b] = pair(platform);
  a.send(bytes(1), []);
  b.close();
  assert.is(failure(() => receive(a)).errno, 'ECONNRESET');
  assert.is(receive(a).count, 0);
  a.close();
});

both('a full socket would block until it is read', async ({ platform }) => {
  const [a, b] = pair(platform);
  const chunk = new Uint8Array(65536);
  let sent = 0;
  for (let taken = 0; taken >= 0; sent += Math.max(0, taken)) taken = a.send(chunk, []);
  let writable = false;
  a.onWritable(() => {
    writable = true;
    a.onWritable(null);
  });
  await settle();
  assert.is(writable, false);
  let read = 0;
  while (read < sent) read += receive(b, 1 << 20).count;
  assert.is(read, sent);
  await until(() => writable);
  a.close();
  b.close();
});

both('readable repeats while there is something, and on the end; null stops it', async ({ platform }) => {
  const [a, b] = pair(platform);
  let calls = 0;
  b.onReadable(() => calls++);
  await settle();
  assert.is(calls, 0);
  a.send(bytes(1), []);
  await until(() => calls >= 3);
  receive(b);
  await settle();
  const quiet = calls;
  await settle();
  assert.is(calls, quiet);
  a.close();
  await until(() => calls > quiet);
  b.onReadable(null);
  const last = calls;
  await settle();
  assert.is(calls, last);
  b.close();
});

both('callbacks may close their own stream', async ({ platform }) => {
  const [a, b] = pair(platform);
  let closed = 0;
  b.onWritable(() => assert.is(closed, 0));
  b.onReadable(() => {
    closed++;
    b.close();
  });
  a.send(bytes(1), []);
  await until(() => closed > 0);
  await settle();
  assert.is(closed, 1);
  a.close();
});

both('a path nobody bound, one that is live, one that was closed', async ({ platform, path }) => {
  const socket = path('socket');
  const refused = (): Promise<string | undefined> =>
    platform.connect(socket).then(
      () => 'connected',
      (error: PlatformError) => error.errno,
    );
  assert.is(await refused(), 'ENOENT');
  const listener = platform.listen(socket);
  const early = await platform.connect(socket);
  early.send(bytes(7), []);
  const served: SocketStream[] = [];
  listener.onConnection((stream) => served.push(stream));
  await until(() => served.length === 1);
  assert.equal(receive(served[0]!).data, [7]);
  // Whoever asks whether it is live may do so by connecting: that is one more connection, which ends at once.
  assert.is(failure(() => platform.listen(socket)).errno, 'EADDRINUSE');
  await settle();
  listener.close();
  assert.is(await refused(), 'ENOENT');
  served[0]!.send(bytes(8), []);
  await until(() => receive(early).count === 1);
  early.close();
  for (const stream of served) stream.close();
});

both('connections in the backlog are reset with the listener', async ({ platform, path }) => {
  const listener = platform.listen(path('backlog'));
  const waiting = await platform.connect(path('backlog'));
  assert.is(receive(waiting).count, -1);
  listener.close();
  assert.is(failure(() => receive(waiting)).errno, 'ECONNRESET');
  assert.is(receive(waiting).count, 0);
  waiting.close();
});

both('an aborted connect rejects with the reason', async ({ platform, path }) => {
  const signal = AbortSignal.abort('enough');
  assert.is(await platform.connect(path('never'), { signal }).catch((reason: unknown) => reason), 'enough');
});

both('an fd that is no socket is not adopted, a closed fd is refused', ({ platform }) => {
  const event = platform.createEventFd();
  assert.is(failure(() => platform.adoptSocket(event)).errno, 'ENOTSOCK');
  platform.closeFd(event);
  for (const use of [
    () => platform.closeFd(event),
    () => platform.duplicateFd(event),
    () => platform.fdKind(event),
  ]) {
    assert.is(failure(use).errno, 'EBADF');
  }
});

both('kinds and sizes of fds', ({ platform }) => {
  const memory = platform.createSharedMemory('parity', 8192n);
  const [a, b] = platform.socketPair();
  const event = platform.createEventFd();
  assert.equal(
    [memory, a, event].map((fd) => platform.fdKind(fd)),
    ['memory', 'socket', 'eventfd'],
  );
  assert.is(platform.fileSize(memory), 8192n);
  for (const fd of [memory, a, b, event]) platform.closeFd(fd);
});

both(
  'mappings of one memory share their bytes, outlive the fd and vanish from the windows',
  ({ platform }) => {
    const fd = platform.createSharedMemory('parity', 8192n);
    const [whole, tail] = [platform.map(fd, 0n, 8192n), platform.map(fd, 4112n, 4000n)];
    platform.closeFd(fd);
    platform.windows.u32[whole.firstWindow]![4112 / 4] = 0xfeedface;
    assert.is(platform.windows.u32[tail.firstWindow]![0], 0xfeedface);
    assert.is(platform.windows.u8[tail.firstWindow]!.byteLength, 4000);
    assert.is(tail.length, 4000n);
    assert.is(tail.damaged, false);
    for (const mapping of [whole, tail]) {
      mapping.unmap();
      mapping.unmap();
      assert.is(platform.windows.u8[mapping.firstWindow]![0], undefined);
      assert.is(platform.windows.u8[mapping.firstWindow]!.byteLength, 0);
      assert.is(platform.windows.u32[mapping.firstWindow]!.byteLength, 0);
    }
  },
);

both('what cannot be mapped is refused', ({ platform }) => {
  const fd = platform.createSharedMemory('parity', 8192n);
  const event = platform.createEventFd();
  for (const use of [
    () => platform.map(fd, 0n, 8193n),
    () => platform.map(fd, 8192n, 1n),
    () => platform.map(fd, 4096n, 1n << 62n),
    () => platform.map(event, 0n, 1n),
  ]) {
    assert.is(failure(use).code, 'ERR_PLATFORM_SYSTEM_CALL');
  }
  platform.closeFd(fd);
  platform.closeFd(event);
});

both('an eventfd calls back later, many signals may be one call, none after close', async ({ platform }) => {
  const fd = platform.createEventFd();
  platform.signalEventFd(fd);
  let calls = 0;
  const watch = platform.watchEventFd(fd, () => calls++);
  platform.signalEventFd(fd);
  assert.is(calls, 0);
  await until(() => calls > 0);
  await settle();
  assert.is(calls, 1);
  watch.close();
  watch.close();
  platform.signalEventFd(fd);
  await settle();
  assert.is(calls, 1);
  platform.closeFd(fd);
});

both('a socket takes a signal as 8 bytes; one whose reader is gone says so', async ({ platform }) => {
  const [fd, theirs] = platform.socketPair();
  const reader = platform.adoptSocket(theirs) as SocketStream;
  platform.signalEventFd(fd);
  const into = new Uint8Array(16);
  assert.is(reader.receive(into, []), 8);
  assert.equal([...into.subarray(0, 8)], [1, 0, 0, 0, 0, 0, 0, 0]);
  reader.close();
  assert.is(failure(() => platform.signalEventFd(fd)).errno, 'EPIPE');
  platform.closeFd(fd);
});

both('a copy table runs whole or not at all', ({ platform }) => {
  const fd = platform.createSharedMemory('parity', 8192n);
  const [from, to] = [platform.map(fd, 0n, 4096n), platform.map(fd, 4096n, 4096n)];
  platform.closeFd(fd);
  const [source, target] = [platform.windows.u8[from.firstWindow]!, platform.windows.u8[to.firstWindow]!];
  source.set([1, 2, 3]);
  const row = (offset: number, at: number, length: number, prefix = 0): number[] => [
    ...[from.firstWindow, offset, to.firstWindow, at, length, prefix],
    ...[0x04030201, 0x08070605, 0x0c0b0a09],
  ];
  platform.copies.entries.set([
    ...row(0, 10, 3),
    ...row(1, 20, 2),
    ...row(0, 101, 3, 10),
    ...row(0, 200, 0, 20),
  ]);
  platform.copies.run(4);
  assert.equal([...target.subarray(9, 14)], [0, 1, 2, 3, 0]);
  assert.equal([...target.subarray(20, 22)], [2, 3]);
  assert.equal(
    [...target.subarray(100, 115)],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 0],
    'a prefix of 10',
  );
  assert.equal(
    [...target.subarray(200, 221)],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ...new Array<number>(9).fill(0)],
    'a prefix alone, longer than its bytes',
  );
  for (const bad of [
    row(4094, 0, 3),
    row(0, 4094, 3),
    row(0, 4080, 5, 12),
    row(0, 0, 1, 21),
    row(0, 0, 1, -1),
    row(0, 0, 0x7fffffff, 12),
    row(-1, 0, 1),
    row(0, 0, -1),
    [99999, ...row(0, 0, 1).slice(1)],
  ]) {
    platform.copies.entries.set([...row(0, 30, 3), ...bad]);
    assert.is(failure(() => platform.copies.run(2)).code, 'ERR_PLATFORM_ARGUMENT');
    assert.is(target[30], 0, 'none was run');
  }
  from.unmap();
  to.unmap();
});

const content = Uint8Array.from({ length: 4096 }, (_, i) => i % 251);

/** A file with a mapping to move bytes to and from, and a way to run one operation to its end. */
function disk({ platform, file }: Subject, name: string, readOnly = false) {
  const fd = platform.createSharedMemory('parity', 8192n);
  const mapping = platform.map(fd, 0n, 8192n);
  platform.closeFd(fd);
  const opened: BlockFile = platform.openFile(file(name, content), { readOnly });
  const ended = new Map<number, number>();
  const note = (count: number): void => {
    for (let i = 0; i < count; i++) ended.set(opened.completions[i * 2]!, opened.completions[i * 2 + 1]!);
  };
  opened.onComplete(note);
  let token = 0;
  return {
    opened,
    view: platform.windows.u8[mapping.firstWindow]!,
    window: mapping.firstWindow,
    async run(
      operation: keyof typeof BlockOperation,
      position: number,
      ...rows: [number, number][]
    ): Promise<number> {
      const mine = ++token;
      const segments = Int32Array.from(
        rows.flatMap(([offset, length]) => [mapping.firstWindow, offset, length, 0]),
      );
      const moves = operation === 'read' || operation === 'write';
      const length = rows.reduce((sum, [, each]) => sum + each, 0);
      opened.queue(BlockOperation[operation], mine, position, length, segments, 0, moves ? rows.length : 0);
      note(opened.submit());
      await until(() => ended.has(mine));
      return ended.get(mine)!;
    },
    async close(): Promise<void> {
      await opened.close();
      mapping.unmap();
    },
  };
}

both('reads and writes move bytes between segments and the file, in order', async (subject) => {
  const { opened, view, run, close } = disk(subject, 'moves');
  assert.is(opened.size, 4096n);
  assert.is(opened.pending, 0);
  assert.is(await run('read', 1000, [0, 100], [512, 7]), 107);
  assert.equal(view.slice(0, 100), content.slice(1000, 1100));
  assert.equal(view.slice(512, 519), content.slice(1100, 1107));
  view.fill(0xaa, 2048, 2560);
  assert.is(await run('write', 512, [2048, 500], [2548, 12]), 512);
  assert.is(await run('flush', 0), 0);
  assert.is(await run('read', 500, [4096, 540]), 540);
  assert.equal(view.slice(4096, 4108), content.slice(500, 512));
  assert.ok(view.subarray(4108, 4620).every((byte) => byte === 0xaa));
  assert.equal(view.slice(4620, 4636), content.slice(1024, 1040));
  await close();
});

both('a read over the end is short, one behind it gives nothing', async (subject) => {
  const { run, close } = disk(subject, 'end');
  assert.is(await run('read', 4096 - 100, [0, 60], [512, 60]), 100);
  assert.is(await run('read', 4096, [0, 512]), 0);
  await close();
});

both('zeroes and discards leave zeros there and nothing else', async (subject) => {
  const { opened, view, run, close } = disk(subject, 'zeroes');
  assert.is(await run('writeZeroes', 512, [0, 512]), 0);
  assert.is(await run('writeZeroesUnmap', 1536, [0, 512]), 0);
  if (opened.canDiscard) assert.is(await run('discard', 2560, [0, 512]), 0);
  await run('read', 0, [0, 4096]);
  for (let sector = 0; sector < 8; sector++) {
    const [start, end] = [sector * 512, sector * 512 + 512];
    const emptied = sector === 1 || sector === 3 || (sector === 5 && opened.canDiscard);
    assert.equal(
      view.slice(start, end),
      emptied ? new Uint8Array(512) : content.slice(start, end),
      `sector ${sector}`,
    );
  }
  assert.is(opened.size, 4096n);
  await close();
});

both('a read-only file refuses every change by its result', async (subject) => {
  const { opened, run, close } = disk(subject, 'read-only', true);
  assert.is(opened.readOnly, true);
  for (const operation of ['write', 'discard', 'writeZeroes', 'writeZeroesUnmap'] as const) {
    assert.ok((await run(operation, 0, [0, 512])) < 0, operation);
  }
  assert.is(await run('read', 0, [0, 512]), 512);
  await close();
});

both(
  'a segment outside its window ends its operation with EFAULT; a closed file takes no more',
  async (subject) => {
    const { opened, window, close } = disk(subject, 'refused');
    for (const row of [
      [window, 8190, 3, 0],
      [window, -1, 1, 0],
      [window, 0, -1, 0],
      [99_999, 0, 1, 0],
    ]) {
      opened.queue(BlockOperation.write, 77, 0, 0, Int32Array.from(row), 0, 1);
      assert.is(opened.submit(), 1);
      assert.equal([...opened.completions.subarray(0, 2)], [77, -14]);
    }
    assert.is(opened.pending, 0);
    await close();
    const error = failure(() => opened.queue(BlockOperation.flush, 1, 0, 0, new Int32Array(0), 0, 0));
    assert.is(error.code, 'ERR_PLATFORM_CLOSED');
  },
);

both('an image that is not there', ({ platform, path }) => {
  assert.is(failure(() => platform.openFile(path('nothing'), { readOnly: true })).errno, 'ENOENT');
});

both('fds of one file have one identity, those of another another one', ({ platform }) => {
  const one = platform.createSharedMemory('parity', 4096n);
  const again = platform.duplicateFd(one);
  const other = platform.createSharedMemory('parity', 4096n);
  assert.is(platform.fileIdentity(again), platform.fileIdentity(one));
  assert.is.not(platform.fileIdentity(other), platform.fileIdentity(one));
  for (const fd of [one, again, other]) platform.closeFd(fd);
  assert.is(failure(() => platform.fileIdentity(one)).errno, 'EBADF');
});

both('lazy memory is there for copies at once, and for views once it is shown', ({ platform }) => {
  const { windows, copies } = platform;
  const fd = platform.createSharedMemory('parity', 4096n);
  const eager = platform.map(fd, 0n, 4096n);
  const lazy = platform.map(fd, 0n, 4096n, { lazy: true });
  const window = lazy.firstWindow;
  assert.equal([windows.u8[window]!.length, windows.u32[window]!.length], [0, 0]);
  windows.u8[eager.firstWindow]![7] = 42;
  copies.entries.set([window, 7, window, 8, 1]);
  copies.run(1);
  assert.is(windows.u8[eager.firstWindow]![8], 42);
  windows.show(window);
  const view = windows.u8[window]!;
  assert.equal([view.length, windows.u32[window]!.length], [4096, 1024]);
  assert.equal([...view.subarray(6, 9)], [0, 42, 42]);
  windows.show(window);
  assert.is(windows.u8[window], view, 'shown again');
  lazy.unmap();
  windows.show(window);
  assert.is(windows.u8[window]!.length, 0, 'not mapped any more');
  windows.show(99_999);
  const again = platform.map(fd, 0n, 4096n, { lazy: true });
  assert.is(again.firstWindow, window);
  assert.is(windows.u8[window]!.length, 0, 'a number that was used before');
  again.unmap();
  eager.unmap();
  platform.closeFd(fd);
});

both(
  'missing pages are supplied once; withdrawn memory is damaged, released memory is not',
  ({ platform }) => {
    for (const end of ['release', 'withdraw'] as const) {
      const fd = platform.createSharedMemory('parity', 8192n);
      const mapping = platform.map(fd, 0n, 8192n);
      let userfault;
      try {
        userfault = platform.openUserfault();
      } catch (error) {
        // What this system's own test looks at.
        assert.is((error as PlatformError).code, 'ERR_PLATFORM_SYSTEM_CALL');
        mapping.unmap();
        platform.closeFd(fd);
        return;
      }
      assert.is(platform.fdKind(userfault.fd), 'userfaultfd');
      assert.is(failure(() => platform.serveUserfault(fd)).code, 'ERR_PLATFORM_ARGUMENT');
      const server = platform.serveUserfault(userfault.fd);
      assert.is(failure(() => server.copy(mapping.address, new Uint8Array(4096))).errno, 'ENOENT');
      userfault.register(mapping);
      assert.is(failure(() => server.copy(mapping.address, new Uint8Array(100))).errno, 'EINVAL');
      assert.ok(server.copy(mapping.address + 4096n, new Uint8Array(4096).fill(7)));
      assert.not(server.copy(mapping.address + 4096n, new Uint8Array(4096).fill(8)));
      assert.is(platform.windows.u8[mapping.firstWindow]![8191], 7);
      userfault[end]();
      userfault.withdraw();
      assert.is(mapping.damaged, end === 'withdraw');
      assert.is(failure(() => userfault.register(mapping)).code, 'ERR_PLATFORM_CLOSED');
      server.close();
      mapping.unmap();
      platform.closeFd(fd);
    }
  },
);

both('every fd and mapping of these tests is gone', ({ platform }) => {
  // One more of everything gets through: nothing above left the platform in a state of its own.
  const fd = platform.createSharedMemory('parity', 4096n);
  const mapping = platform.map(fd, 0n, 4096n) as { unmap(): void };
  mapping.unmap();
  platform.closeFd(fd);
  if (platform === fake) assert.equal([fake.openFds, fake.mappingCount], [[], 0]);
});

both('what is no channel is refused and closed all the same', async ({ platform }) => {
  for (const use of [
    (fd: number) => platform.readChannel(fd, 100),
    (fd: number) => platform.writeChannel(fd, bytes(1)),
  ]) {
    const fd = platform.createSharedMemory('no-channel', 4096n);
    const error = await use(fd).catch((reason: unknown) => reason);
    assert.instance(error, PlatformError);
    assert.throws(() => platform.fdKind(fd), /EBADF|not open/);
  }
});

both(
  'a channel that holds more than the reader takes is broken off as over its limit',
  async ({ platform }) => {
    for (const [limit, fits] of [
      [3, true],
      [2, false],
    ] as const) {
      const [one, two] = platform.socketPair();
      const far = platform.adoptSocket(two) as SocketStream;
      far.send(bytes(1, 2, 3), []);
      const read = platform.readChannel(one, limit).catch((reason: unknown) => reason);
      if (fits) far.close();
      const outcome = await read;
      if (fits) assert.equal(outcome, bytes(1, 2, 3));
      else {
        assert.is((outcome as PlatformError).code, 'ERR_PLATFORM_LIMIT');
        far.close();
      }
    }
  },
);

both('fds that come with the bytes of a channel are left to nobody', async ({ platform }) => {
  const [one, two] = platform.socketPair();
  const far = platform.adoptSocket(two) as SocketStream;
  const fds = (): number => (platform === fake ? fake.openFdCount : readdirSync('/proc/self/fd').length);
  const stray = platform.createEventFd();
  far.send(bytes(1, 2, 3), [stray]);
  platform.closeFd(stray);
  const before = fds();
  const read = platform.readChannel(one, 100);
  far.close();
  assert.equal([...(await read)], [1, 2, 3]);
  assert.ok(fds() < before, 'the channel itself is closed, and nothing came in its place');
  await until(() => fds() <= before - 2);
});

both('the peer’s end is seen in front of what it left to be read', async ({ platform }) => {
  const [one, two] = platform.socketPair();
  const near = platform.adoptSocket(one) as SocketStream;
  const far = platform.adoptSocket(two) as SocketStream;
  let seen = 0;
  near.onHangUp(() => seen++);
  far.send(bytes(1, 2, 3), []);
  for (let i = 0; i < 5; i++) await turn();
  assert.is(seen, 0, 'not before it hangs up');
  far.close();
  await until(() => seen > 1);
  near.onHangUp(null);
  const before = seen;
  for (let i = 0; i < 5; i++) await turn();
  assert.is(seen, before);
  assert.is(near.receive(new Uint8Array(8), []), 3, 'it is still there');
  assert.is(near.receive(new Uint8Array(8), []), 0);
  near.close();
});

test.run();
