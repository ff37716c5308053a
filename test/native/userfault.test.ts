import { spawn } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { on } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import {
  BlockOperation,
  type BlockFile,
  type Mapping,
  type Userfault,
  type UserfaultServer,
} from '../../runtime/platform/platform.js';
import { errno, mappingsOf, once, openFds, platform, turn, until } from './support.js';
import type { ReaderTask } from './userfault-reader.js';

const PAGE = 4096;
const SIZE = 16 * PAGE;
const folder = mkdtempSync(join(dirname(fileURLToPath(import.meta.url)), 'userfault-'));
const image = join(folder, 'image');
const permitted = errno(() => {
  const userfault = platform.openUserfault();
  platform.closeFd(userfault.fd);
  userfault.release();
});

/** Memory of which no page is there, and the other end. `asked` collects the pages that were asked for. */
class Missing {
  readonly memory = platform.createSharedMemory('missing', BigInt(SIZE));
  readonly mapping: Mapping = platform.map(this.memory, 0n, BigInt(SIZE));
  readonly userfault: Userfault = platform.openUserfault();
  readonly server: UserfaultServer = platform.serveUserfault(this.userfault.fd);
  readonly asked: number[] = [];

  constructor() {
    this.userfault.register(this.mapping);
    this.server.onFault((address) => this.asked.push(Number(address - this.mapping.address) / PAGE));
  }

  supply(page: number, value: number): boolean {
    return this.server.copy(this.mapping.address + BigInt(page * PAGE), new Uint8Array(PAGE).fill(value));
  }

  close(): void {
    this.server.close();
    this.userfault.withdraw();
    this.mapping.unmap();
    platform.closeFd(this.memory);
  }
}

/** Starts one operation on `length` bytes at `offset` of the memory. */
function start(file: BlockFile, operation: number, { mapping }: Missing, offset: number, length: number) {
  const ended = once<number>((done) => file.onComplete(() => done(file.completions[1]!)));
  file.queue(operation, 7, 0, 0, Int32Array.of(mapping.firstWindow, offset, length, 0), 0, 1);
  assert.is(file.submit(), 0, 'it waits, and not on this thread');
  return ended;
}

if (permitted !== undefined) {
  test(`userfaultfd is not permitted here (${permitted}): that is said, and nothing is left open`, () => {
    const before = openFds();
    assert.ok(['EPERM', 'ENOSYS', 'EOPNOTSUPP'].includes(permitted), permitted);
    errno(() => platform.openUserfault());
    assert.is(openFds(), before);
  });
} else {
  for (const [where, outcome] of [
    ['access', '0'],
    ['system call', 'EFAULT'],
  ] as const) {
    test(`${where}: a loop that waits for a page is let go when the process is told to end`, async () => {
      const path = join(dirname(fileURLToPath(import.meta.url)), 'userfault-stuck.js');
      const child = spawn(process.execPath, [path, where], { stdio: ['ignore', 'pipe', 'inherit'] });
      let said = '';
      child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
      process.on('exit', () => child.kill('SIGKILL'));
      const ended = once<number | null>((done) => child.on('close', done));
      // It has no more to do than to wait when it is found asleep again and again.
      let asleep = 0;
      await until(() => {
        const [, state] = /\) (.)/.exec(readFileSync(`/proc/${child.pid}/stat`, 'latin1'))!;
        asleep = said !== '' && state !== 'R' ? asleep + 1 : 0;
        return asleep === 2000;
      });
      assert.is(said, 'stuck\n');
      child.kill('SIGTERM');
      assert.is(await ended, 3);
      assert.is(said, `stuck\n${outcome}\n`);
    });
  }

  for (const blockEngine of ['io-uring', 'threads'] as const) {
    const engine = createLinuxPlatform({ blockEngine });

    test(`${blockEngine}: a file read into missing pages waits for each of them, and the loop does not`, async () => {
      writeFileSync(image, Buffer.alloc(2 * PAGE, 0x61));
      const missing = new Missing();
      const file = engine.openFile(image, { readOnly: true });
      const ended = start(file, BlockOperation.read, missing, PAGE + 100, 2 * PAGE);
      for (const page of [1, 2, 3]) {
        await until(() => missing.asked.includes(page));
        assert.ok(missing.supply(page, 0x7a));
      }
      assert.is(await ended, 2 * PAGE);
      const u8 = platform.windows.u8[missing.mapping.firstWindow]!;
      const at = [PAGE + 99, PAGE + 100, 3 * PAGE + 99, 3 * PAGE + 100].map((offset) => u8[offset]);
      assert.equal(at, [0x7a, 0x61, 0x61, 0x7a], 'what the guest had around it stays');
      await file.close();
      missing.close();
    });

    test(`${blockEngine}: a file written from missing pages gets what is supplied, no zeros`, async () => {
      writeFileSync(image, Buffer.alloc(2 * PAGE, 0x61));
      const missing = new Missing();
      const file = engine.openFile(image, { readOnly: false });
      const ended = start(file, BlockOperation.write, missing, 4 * PAGE, 2 * PAGE);
      for (const page of [4, 5]) {
        await until(() => missing.asked.includes(page));
        missing.supply(page, 0x30 + page);
      }
      assert.is(await ended, 2 * PAGE);
      const written = readFileSync(image);
      assert.equal(
        [written[0], written[PAGE - 1], written[PAGE], written[2 * PAGE - 1]],
        [0x34, 0x34, 0x35, 0x35],
      );
      await file.close();
      missing.close();
    });

    test(`${blockEngine}: withdrawn memory fails the write that waits in it; the image keeps what it had`, async () => {
      writeFileSync(image, Buffer.alloc(2 * PAGE, 0x61));
      const missing = new Missing();
      const file = engine.openFile(image, { readOnly: false });
      const ended = start(file, BlockOperation.write, missing, 0, 2 * PAGE);
      await until(() => missing.asked.length > 0);
      missing.userfault.withdraw();
      assert.is(await ended, -14, 'EFAULT');
      assert.ok(missing.mapping.damaged);
      assert.ok(readFileSync(image).every((byte) => byte === 0x61));
      // The loop may still look at it, and finds memory of nobody's.
      const u8 = platform.windows.u8[missing.mapping.firstWindow]!;
      assert.is(u8[PAGE], 0);
      u8[PAGE] = 1;
      const again = once<number>((done) => file.onComplete(() => done(file.completions[1]!)));
      file.queue(
        BlockOperation.write,
        7,
        0,
        0,
        Int32Array.of(missing.mapping.firstWindow, 5 * PAGE, PAGE, 0),
        0,
        1,
      );
      const result = file.submit() === 1 ? file.completions[1] : await again;
      assert.is(result, -14, 'pages that were not touched fail as before');
      await file.close();
      missing.close();
    });

    test(`${blockEngine}: released memory lets the read that waits in it go on`, async () => {
      writeFileSync(image, Buffer.alloc(PAGE, 0x61));
      const missing = new Missing();
      const file = engine.openFile(image, { readOnly: true });
      const ended = start(file, BlockOperation.read, missing, 0, PAGE);
      await until(() => missing.asked.length > 0);
      missing.userfault.release();
      assert.is(await ended, PAGE);
      assert.not(missing.mapping.damaged);
      assert.is(platform.windows.u8[missing.mapping.firstWindow]![PAGE - 1], 0x61);
      await file.close();
      missing.close();
    });
  }

  test('huge pages come and go as wholes; a machine without any says so', async () => {
    const HUGE = 2 << 20;
    let memory: number | undefined;
    let mapping: Mapping;
    try {
      memory = platform.createSharedMemory('huge', BigInt(2 * HUGE), { hugePages: true });
      mapping = platform.map(memory, 0n, BigInt(2 * HUGE));
    } catch (error) {
      assert.match((error as Error).message, /huge pages|ENOMEM/);
      if (memory !== undefined) platform.closeFd(memory);
      return;
    }
    writeFileSync(image, Buffer.alloc(2 * PAGE, 0x61));
    const userfault = platform.openUserfault();
    const server = platform.serveUserfault(userfault.fd);
    userfault.register(mapping);
    // The mapping reserves nothing, so a pool without pages shows here.
    let supplied = false;
    const failed = errno(() => (supplied = server.copy(mapping.address, new Uint8Array(HUGE).fill(0x7a))));
    if (!supplied) {
      assert.ok(failed === undefined || failed === 'ENOMEM', failed);
      userfault.release();
      server.close();
      mapping.unmap();
      platform.closeFd(memory);
      return;
    }
    const file = platform.openFile(image, { readOnly: false });
    const write = (offset: number): Promise<number> => {
      const ended = once<number>((done) => file.onComplete(() => done(file.completions[1]!)));
      file.queue(BlockOperation.write, 1, 0, 0, Int32Array.of(mapping.firstWindow, offset, PAGE, 0), 0, 1);
      assert.is(file.submit(), 0);
      return ended;
    };
    server.onFault(() => userfault.withdraw());
    assert.is(await write(HUGE - PAGE), PAGE);
    assert.is(readFileSync(image)[0], 0x7a);
    assert.is(await write(HUGE), -14, 'EFAULT');
    assert.is(platform.windows.u8[mapping.firstWindow]![HUGE], 0);
    await file.close();
    server.close();
    mapping.unmap();
    platform.closeFd(memory);
  });

  test('a page is supplied once', () => {
    const missing = new Missing();
    assert.ok(missing.supply(3, 1));
    assert.not(missing.supply(3, 2), 'it is there');
    assert.is(platform.windows.u8[missing.mapping.firstWindow]![3 * PAGE], 1);
    assert.is(
      errno(() => missing.server.copy(missing.mapping.address + 1n, new Uint8Array(PAGE))),
      'EINVAL',
    );
    assert.is(
      errno(() => missing.server.copy(missing.mapping.address - 0x1000_0000n, new Uint8Array(PAGE))),
      'ENOENT',
    );
    missing.close();
  });

  test('what is no shared memory cannot be registered, and nothing is once it has ended', () => {
    writeFileSync(image, Buffer.alloc(PAGE));
    const memory = openSync(image, 'r+');
    const mapping = platform.map(memory, 0n, BigInt(PAGE));
    const userfault = platform.openUserfault();
    assert.is(
      errno(() => userfault.register(mapping)),
      'EINVAL',
    );
    userfault.release();
    assert.is(
      errno(() => userfault.register(mapping)),
      'ERR_PLATFORM_CLOSED',
    );
    userfault.withdraw();
    assert.not(mapping.damaged, 'it was released');
    mapping.unmap();
    platform.closeFd(memory);
    platform.closeFd(userfault.fd);
  });

  test('a mapping that goes away while it is registered takes its range along', () => {
    const before = [openFds(), mappingsOf('missing')];
    const missing = new Missing();
    missing.mapping.unmap();
    missing.userfault.withdraw();
    missing.close();
    assert.equal([openFds(), mappingsOf('missing')], before);
  });

  test('a loop that waits for a page goes on when it comes', async () => {
    const { worker, messages, server, address, peer, memory } = await reader([0, 5 * PAGE + 17]);
    server.onFault((fault) =>
      server.copy(fault, new Uint8Array(PAGE).fill(Number((fault - address) / 4096n) + 65)),
    );
    worker.postMessage('read');
    assert.equal(await next(messages), { values: [65, 70], damaged: false });
    await finish(worker, server, peer, memory);
  });

  test('a loop that waits for a page goes on when the peer hangs up', async () => {
    const { worker, messages, server, peer, memory } = await reader([2 * PAGE, 9 * PAGE]);
    const asked = once<bigint>((done) => server.onFault(done));
    worker.postMessage('read');
    await asked;
    platform.closeFd(peer);
    assert.equal(await next(messages), { values: [0, 0], damaged: true });
    await finish(worker, server, -1, memory);
  });

  test('nothing is left open', async () => {
    await turn();
    const before = [openFds(), mappingsOf('missing'), mappingsOf('withdrawn')];
    for (let i = 0; i < 50; i++) new Missing().close();
    assert.equal([openFds(), mappingsOf('missing'), mappingsOf('withdrawn')], before);
  });
}

/** A worker with its own mapping of the memory, about to read at `offsets`. */
async function reader(offsets: readonly number[]) {
  const memory = platform.createSharedMemory('reader', BigInt(SIZE));
  const [near, peer] = platform.socketPair();
  const worker = new Worker(new URL('./userfault-reader.js', import.meta.url), {
    workerData: { memory, size: SIZE, peer: near, offsets } satisfies ReaderTask,
  });
  const messages = on(worker, 'message');
  const { fd, address } = (await next(messages)) as { fd: number; address: bigint };
  return { worker, messages, server: platform.serveUserfault(fd), address, peer, memory };
}

async function next(messages: AsyncIterator<unknown[]>): Promise<unknown> {
  return ((await messages.next()).value as unknown[])[0];
}

async function finish(worker: Worker, server: UserfaultServer, peer: number, memory: number): Promise<void> {
  server.close();
  await worker.terminate();
  if (peer >= 0) platform.closeFd(peer);
  platform.closeFd(memory);
}

test.after(() => rmSync(folder, { recursive: true }));
test.run();
