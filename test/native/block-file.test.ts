import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { type BlockFile, BlockOperation } from '../../runtime/platform/platform.js';
import { errno, mapped, mappingsOf, openFds, platform, turn } from './support.js';

const { read, write, flush, discard, writeZeroes, writeZeroesUnmap } = BlockOperation;
const none = new Int32Array(0);
const SIZE = 1 << 20;
const EBADF = -9;
const EFAULT = -14;
const EINVAL = -22;
const EFBIG = -27;

/** Collects what ends, by token, from `submit` and from the callback. */
class Results {
  readonly byToken = new Map<number, number>();
  readonly order: number[] = [];
  readonly file: BlockFile;

  constructor(file: BlockFile) {
    this.file = file;
    file.onComplete((count) => this.take(count));
  }

  take(count: number): void {
    for (let i = 0; i < count; i++) {
      const [token, result] = [this.file.completions[2 * i]!, this.file.completions[2 * i + 1]!];
      assert.not(this.byToken.has(token), `token ${token} ends once`);
      this.byToken.set(token, result);
      this.order.push(token);
    }
  }

  /** Submits, and waits for everything. */
  async all(): Promise<Map<number, number>> {
    this.take(this.file.submit());
    while (this.file.pending > 0) await turn();
    return this.byToken;
  }

  async one(...operation: Parameters<BlockFile['queue']>): Promise<number> {
    this.byToken.clear();
    this.file.queue(...operation);
    return (await this.all()).get(operation[1])!;
  }
}

// Beside the compiled tests there is a disk; /dev/shm is memory.
const places = { disk: dirname(fileURLToPath(import.meta.url)), tmpfs: '/dev/shm' };

for (const engine of ['io-uring', 'threads'] as const) {
  const own = createLinuxPlatform({ blockEngine: engine });
  for (const [place, parent] of Object.entries(places)) {
    const name = (text: string) => `${engine}, ${place}: ${text}`;
    const scene = (text: string, body: (path: string) => Promise<void>, content?: Uint8Array) =>
      test(name(text), async () => {
        const folder = mkdtempSync(join(parent, 'block-'));
        const path = join(folder, 'image');
        writeFileSync(
          path,
          content ?? Buffer.from(Uint8Array.from({ length: SIZE }, (_, i) => (i * 7) % 253)),
        );
        const fds = openFds();
        await body(path);
        await turn();
        assert.is(openFds(), fds, 'no fd is left');
        rmSync(folder, { recursive: true });
      });

    scene('reads and writes of several segments', async (path) => {
      const before = readFileSync(path);
      const { mapping, window, u8 } = mapped(65536);
      const file = own.openFile(path, { readOnly: false });
      assert.is(file.size, BigInt(SIZE));
      assert.is(file.blockSize, 512);
      assert.not(file.readOnly);
      const results = new Results(file);
      const segments = Int32Array.of(0, 0, 0, 0, window, 100, 1000, 0, window, 8192, 24, 0, window, 0, 0, 0);
      assert.is(await results.one(read, 5, 512, 0, segments, 1, 3), 1024);
      assert.equal(Buffer.from(u8.slice(100, 1100)), before.subarray(512, 1512));
      assert.equal(Buffer.from(u8.slice(8192, 8216)), before.subarray(1512, 1536));
      u8.fill(0xcc, 100, 1100);
      assert.is(await results.one(write, -7, 70000, 0, segments, 1, 2), 1024);
      assert.is(await results.one(flush, 6, 0, 0, none, 0, 0), 0);
      const after = readFileSync(path);
      assert.equal(after.subarray(70000, 71000), Buffer.alloc(1000, 0xcc));
      assert.equal(after.subarray(71000, 71024), before.subarray(1512, 1536));
      after.copy(before, 70000, 70000, 71024);
      assert.equal(after, before, 'nothing else changed');
      await file.close();
      mapping.unmap();
    });

    scene('a read over the end of the file is short', async (path) => {
      const { mapping, window } = mapped(65536);
      const file = own.openFile(path, { readOnly: true });
      const results = new Results(file);
      const segments = Int32Array.of(window, 0, 4096, 0, window, 8192, 4096, 0);
      assert.is(await results.one(read, 1, SIZE - 5000, 0, segments, 0, 2), 5000);
      assert.is(await results.one(read, 2, SIZE, 0, segments, 0, 2), 0);
      assert.is(await results.one(read, 3, 10 * SIZE, 0, segments, 0, 2), 0);
      await file.close();
      mapping.unmap();
    });

    scene('errors are results, each of its own operation', async (path) => {
      const { mapping, window } = mapped(65536);
      const file = own.openFile(path, { readOnly: true });
      assert.not(file.canDiscard);
      assert.not(file.canWriteZeroes);
      const results = new Results(file);
      const good = Int32Array.of(window, 0, 512, 0);
      file.queue(read, 0, 0, 0, good, 0, 1);
      file.queue(write, 1, 0, 0, good, 0, 1);
      file.queue(discard, 2, 0, 4096, none, 0, 0);
      file.queue(read, 3, 0, 0, Int32Array.of(window, 65536 - 511, 512, 0), 0, 1);
      file.queue(read, 4, 0, 0, Int32Array.of(window, 0, -1, 0), 0, 1);
      file.queue(read, 5, 0, 0, Int32Array.of(window + 1000, 0, 1, 0), 0, 1);
      file.queue(read, 6, -512, 0, good, 0, 1);
      file.queue(read, 7, 0.5, 0, good, 0, 1);
      file.queue(read, 8, NaN, 0, good, 0, 1);
      file.queue(99, 9, 0, 0, good, 0, 1);
      file.queue(read, 10, 0, 0, none, 0, 0);
      file.queue(flush, 11, 0, 0, none, 0, 0);
      assert.is(file.pending, 12);
      assert.equal(
        [...(await results.all())].sort((a, b) => a[0] - b[0]).map(([, result]) => result),
        [512, EBADF, EBADF, EFAULT, EFAULT, EFAULT, EINVAL, EINVAL, EINVAL, EINVAL, 0, 0],
      );
      await file.close();
      mapping.unmap();
    });

    scene('zeroes and holes', async (path) => {
      const file = own.openFile(path, { readOnly: false });
      assert.ok(file.canWriteZeroes);
      const before = readFileSync(path);
      const blocks = () => statSync(path).blocks;
      const results = new Results(file);
      await results.one(flush, 0, 0, 0, none, 0, 0);
      const allocated = blocks();
      assert.is(await results.one(writeZeroes, 1, 1000, 200_000, none, 0, 0), 0);
      // A file in many pieces may need another block for the list of them.
      assert.ok(blocks() >= allocated, 'zeroes are allocated');
      assert.is(await results.one(writeZeroesUnmap, 2, 262144, 65536, none, 0, 0), 0);
      if (file.canDiscard) {
        assert.is(await results.one(discard, 3, 524288, 131072, none, 0, 0), 0);
        assert.ok(blocks() < allocated, 'holes are not');
        before.fill(0, 524288, 524288 + 131072);
      }
      before.fill(0, 1000, 201_000).fill(0, 262144, 262144 + 65536);
      assert.equal(readFileSync(path), before);
      assert.is(file.size, BigInt(SIZE), 'the size stays');
      await file.close();
    });

    scene('thousands at once, more than any table holds, each ends exactly once', async (path) => {
      const COUNT = 3000;
      const { mapping, window, u8 } = mapped(COUNT * 64);
      const file = own.openFile(path, { readOnly: false });
      const results = new Results(file);
      for (let i = 0; i < COUNT; i++) {
        u8.fill(i % 256, i * 64, i * 64 + 64);
        file.queue(write, i, i * 64, 0, Int32Array.of(window, i * 64, 64, 0), 0, 1);
      }
      assert.is(file.pending, COUNT);
      const ended = await results.all();
      assert.is(ended.size, COUNT);
      for (const result of ended.values()) assert.is(result, 64);
      assert.equal(readFileSync(path).subarray(0, COUNT * 64), Buffer.from(u8));
      await file.close();
      mapping.unmap();
    });

    scene('more segments than one system call takes, and than the table holds', async (path) => {
      const COUNT = 5000;
      const { mapping, window, u8 } = mapped(COUNT * 20);
      const file = own.openFile(path, { readOnly: false });
      const results = new Results(file);
      const segments = new Int32Array(COUNT * 4);
      for (let i = 0; i < COUNT; i++) segments.set([window, (COUNT - 1 - i) * 20, 20, 0], i * 4);
      assert.is(await results.one(read, 1, 11, 0, segments, 0, COUNT), COUNT * 20);
      const content = readFileSync(path);
      for (const i of [0, 1, 1023, 1024, 1025, COUNT - 1]) {
        const at = (COUNT - 1 - i) * 20;
        assert.equal(Buffer.from(u8.slice(at, at + 20)), content.subarray(11 + i * 20, 31 + i * 20));
      }
      u8.fill(0xee);
      assert.is(await results.one(write, 2, 11, 0, segments, 0, COUNT), COUNT * 20);
      assert.equal(readFileSync(path).subarray(11, 11 + COUNT * 20), Buffer.alloc(COUNT * 20, 0xee));
      await file.close();
      mapping.unmap();
    });

    scene('long transfers are not done inside of submit', async (path) => {
      const LENGTH = 8 << 20;
      const { mapping, window, u8 } = mapped(LENGTH);
      const file = own.openFile(path, { readOnly: false });
      const results = new Results(file);
      const segments = Int32Array.of(window, 0, LENGTH, 0);
      u8.fill(0x5a);
      file.queue(write, 1, 4096, 0, segments, 0, 1);
      assert.is(file.submit(), 0);
      await results.all();
      u8.fill(0);
      file.queue(read, 2, 4096, 0, segments, 0, 1);
      assert.is(file.submit(), 0);
      await results.all();
      assert.equal(
        [...results.byToken],
        [
          [1, LENGTH],
          [2, LENGTH],
        ],
      );
      assert.is(
        u8.every((each) => each === 0x5a),
        true,
      );
      await file.close();
      mapping.unmap();
    });

    scene('memory unmapped while it is written from stays until that is done', async (path) => {
      const LENGTH = 16 << 20;
      const file = own.openFile(path, { readOnly: false });
      const results = new Results(file);
      const { mapping, window, u8 } = mapped(LENGTH, 'held');
      u8.fill(0x77);
      file.queue(write, 1, 0, 0, Int32Array.of(window, 0, LENGTH, 0), 0, 1);
      assert.is(file.submit(), 0);
      mapping.unmap();
      assert.is(u8.length, 0, 'JavaScript sees nothing of it any more');
      const next = mapped(LENGTH);
      await results.all();
      assert.is(results.byToken.get(1), LENGTH);
      assert.is(
        readFileSync(path).every((each) => each === 0x77),
        true,
      );
      assert.is(mappingsOf('memfd:held'), 0);
      next.mapping.unmap();
      await file.close();
    });

    scene('closing waits for what is queued and running, and takes no more', async (path) => {
      const { mapping, window, u8 } = mapped(4 << 20);
      u8.fill(0x11);
      const file = own.openFile(path, { readOnly: false });
      const results = new Results(file);
      file.queue(write, 1, 0, 0, Int32Array.of(window, 0, 4 << 20, 0), 0, 1);
      results.take(file.submit());
      file.queue(write, 2, 4 << 20, 0, Int32Array.of(window, 0, 4096, 0), 0, 1);
      const closed = file.close();
      assert.is(file.close(), closed);
      assert.is(
        errno(() => file.queue(flush, 3, 0, 0, none, 0, 0)),
        'ERR_PLATFORM_CLOSED',
      );
      await closed;
      assert.is(file.pending, 0);
      assert.equal([...results.byToken].sort(), [
        [1, 4 << 20],
        [2, 4096],
      ]);
      assert.is(file.submit(), 0);
      mapping.unmap();
    });

    scene('a file may be closed from its own callback', async (path) => {
      const file = own.openFile(path, { readOnly: false });
      file.queue(flush, 1, 0, 0, none, 0, 0);
      let closed: Promise<void> | undefined;
      file.onComplete(() => (closed = file.close()));
      assert.is(file.submit(), 0);
      while (closed === undefined) await turn();
      await closed;
    });

    scene('an image beyond 4 GiB', async (path) => {
      const { mapping, window, u8 } = mapped(4096);
      const file = own.openFile(path, { readOnly: false });
      const results = new Results(file);
      const segments = Int32Array.of(window, 0, 4096, 0);
      const position = 5 * 2 ** 30 + 512;
      u8.fill(0x42);
      assert.is(await results.one(write, 1, position, 0, segments, 0, 1), 4096);
      u8.fill(0);
      assert.is(await results.one(read, 2, position, 0, segments, 0, 1), 4096);
      assert.is(u8[4095], 0x42);
      await file.close();
      const again = own.openFile(path, { readOnly: true });
      assert.is(again.size, BigInt(position + 4096));
      await again.close();
      mapping.unmap();
    });
  }

  test(`${engine}: O_DIRECT for aligned requests, the page cache for the others`, async () => {
    const folder = mkdtempSync(join(places.disk, 'direct-'));
    const path = join(folder, 'image');
    const content = Buffer.from(Uint8Array.from({ length: SIZE }, (_, i) => (i * 11) % 251));
    writeFileSync(path, content);
    const { mapping, window, u8 } = mapped(65536);
    const file = own.openFile(path, { readOnly: false, direct: true });
    const results = new Results(file);
    assert.is(await results.one(read, 1, 8192, 0, Int32Array.of(window, 4096, 8192, 0), 0, 1), 8192);
    assert.equal(Buffer.from(u8.slice(4096, 12288)), content.subarray(8192, 16384));
    assert.is(await results.one(write, 2, 512, 0, Int32Array.of(window, 4097, 511, 0), 0, 1), 511);
    assert.is(await results.one(write, 3, 65536, 0, Int32Array.of(window, 4096, 4096, 0), 0, 1), 4096);
    assert.is(await results.one(flush, 4, 0, 0, none, 0, 0), 0);
    content.copy(content, 512, 8193, 8193 + 511);
    content.copy(content, 65536, 8192, 12288);
    assert.equal(readFileSync(path), content);
    await file.close();
    mapping.unmap();
    rmSync(folder, { recursive: true });
  });

  test(`${engine}: a file at its limit fails with EFBIG`, () => {
    const folder = mkdtempSync(join(places.disk, 'limit-'));
    const script = fileURLToPath(import.meta.url);
    const command = `ulimit -f 8 && exec "${process.execPath}" "${script}" "${join(folder, 'image')}" ${engine}`;
    const child = spawnSync('sh', ['-c', command], { encoding: 'utf8' });
    assert.is(child.stdout, `${EFBIG}\n`, child.stderr);
    rmSync(folder, { recursive: true });
  });
}

for (const engine of ['io-uring', 'threads'] as const) {
  test(`${engine}: misses of the page cache behind another one are fetched beside the loop, whose thread starts no disk I/O`, async () => {
    const folder = mkdtempSync(join(places.disk, 'cold-'));
    const path = join(folder, 'image');
    writeFileSync(path, Buffer.alloc(8 << 20, 7));
    const { mapping, window, u8 } = mapped(1 << 20);
    const file = createLinuxPlatform({ blockEngine: engine }).openFile(path, { readOnly: true });
    const results = new Results(file);
    const fetch = (i: number): void =>
      file.queue(read, i, i * 131072, 0, Int32Array.of(window, i * 4096, 4096, 0), 0, 1);
    // Now and then the first one ends at once, the disk being quicker than the call, or the thread reads for itself, a
    // piece of Node's code that was not in memory. Neither happens every time.
    const outcomes: string[] = [];
    while (!outcomes.includes('none') && outcomes.length < 20) {
      const dropped = spawnSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0']);
      assert.is(dropped.status, 0, String(dropped.stderr));
      results.byToken.clear();
      u8.fill(0);
      fetch(0);
      const atOnce = file.submit();
      results.take(atOnce);
      const before = bytesFetched();
      for (let i = 1; i < 64; i++) fetch(i);
      await results.all();
      const fetched = bytesFetched() - before;
      outcomes.push(atOnce > 0 ? 'the first one ended at once' : fetched > 0 ? `${fetched} bytes` : 'none');
      assert.is(results.byToken.size, 64);
      assert.equal(new Set(results.byToken.values()), new Set([4096]));
      assert.ok(u8.subarray(0, 64 * 4096).every((byte) => byte === 7));
    }
    assert.ok(outcomes.includes('none'), `the loop's thread fetched ${outcomes.join(', ')}`);
    // Now it is there, and so is what was added to the file meanwhile.
    writeFileSync(path, Buffer.alloc(4096, 8), { flag: 'a' });
    for (const [token, position] of [131072, 8 << 20].entries()) {
      results.byToken.clear();
      file.queue(read, token, position, 0, Int32Array.of(window, 0, 4096, 0), 0, 1);
      assert.is(file.submit(), 1);
    }
    assert.is(u8[0], 8);
    await file.close();
    mapping.unmap();
    rmSync(folder, { recursive: true });
  });
}

/** Bytes that the thread of the loop has asked of disks, read ahead included (proc(5), task/io). */
function bytesFetched(): number {
  const io = readFileSync(`/proc/self/task/${process.pid}/io`, 'latin1');
  return Number(/^read_bytes: (.*)$/m.exec(io)![1]!);
}

test('a slow file does not hold up another, nor the loop', async () => {
  const folder = mkdtempSync(join(places.disk, 'slow-'));
  const LENGTH = 64 << 20;
  for (const each of ['slow', 'quick']) writeFileSync(join(folder, each), Buffer.alloc(4096, 3));
  const { mapping, window } = mapped(LENGTH);
  const slow = platform.openFile(join(folder, 'slow'), { readOnly: false });
  const quick = platform.openFile(join(folder, 'quick'), { readOnly: true });
  const slowResults = new Results(slow);
  for (let i = 0; i < 4; i++) slow.queue(write, i, i * LENGTH, 0, Int32Array.of(window, 0, LENGTH, 0), 0, 1);
  slow.queue(flush, 9, 0, 0, none, 0, 0);
  assert.is(slow.submit(), 0);
  quick.queue(read, 1, 0, 0, Int32Array.of(window, 0, 4096, 0), 0, 1);
  assert.is(quick.submit(), 1, 'a cached read of the other one ends at once');
  assert.is(slow.pending, 5);
  await slowResults.all();
  assert.is(slowResults.byToken.size, 5);
  await Promise.all([slow.close(), quick.close()]);
  mapping.unmap();
  rmSync(folder, { recursive: true });
});

test('what is no image is refused, and says where', () => {
  const fds = openFds();
  const folder = mkdtempSync(join(places.disk, 'refused-'));
  assert.is(
    errno(() => platform.openFile(folder, { readOnly: true })),
    'EISDIR',
  );
  assert.is(
    errno(() => platform.openFile(join(folder, 'none'), { readOnly: true })),
    'ENOENT',
  );
  assert.is(
    errno(() => platform.openFile('/dev/null', { readOnly: true })),
    'ENOTBLK',
  );
  spawnSync('mkfifo', [join(folder, 'fifo')]);
  assert.is(
    errno(() => platform.openFile(join(folder, 'fifo'), { readOnly: true })),
    'ENOTBLK',
  );
  assert.throws(() => platform.openFile(join(folder, 'none'), { readOnly: true }), folder);
  rmSync(folder, { recursive: true });
  assert.is(openFds(), fds);
});

test('a block engine that nobody knows is refused', () => {
  assert.is(
    errno(() => createLinuxPlatform({ blockEngine: 'other' as 'threads' })),
    'ERR_PLATFORM_ARGUMENT',
  );
});

async function writeOverLimit(path: string, blockEngine: 'io-uring' | 'threads'): Promise<void> {
  writeFileSync(path, Buffer.alloc(512));
  const { mapping, window } = mapped(4096);
  const file = createLinuxPlatform({ blockEngine }).openFile(path, { readOnly: false });
  const results = new Results(file);
  console.log(await results.one(write, 1, 1 << 20, 0, Int32Array.of(window, 0, 4096, 0), 0, 1));
  await file.close();
  mapping.unmap();
}

if (process.argv[2] === undefined) test.run();
else await writeOverLimit(process.argv[2], process.argv[3] as 'threads');
