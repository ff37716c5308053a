import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { openFileBacking } from '../../runtime/backings/file.js';
import { NullBacking } from '../../runtime/backings/null.js';
import { RamBacking } from '../../runtime/backings/ram.js';
import { type BlockBacking, BlockOperation } from '../../runtime/devices/blk/index.js';
import type { DeviceError, PlatformError } from '../../runtime/errors.js';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import { BlockOperation as PlatformOperation } from '../../runtime/platform/platform.js';
import { Random } from '../support/random.js';

const SECTOR = 512;
const GUEST = 1 << 20;

/** A backing and a region of guest memory in front of it. */
class Bench {
  readonly platform: FakePlatform = createFakePlatform();
  readonly window: number;
  readonly memory: Uint8Array;
  readonly unmapGuest: () => void;
  readonly results = new Map<number, number>();
  backing!: BlockBacking;

  constructor() {
    const mapping = this.platform.map(
      this.platform.createSharedMemory('guest', BigInt(GUEST)),
      0n,
      BigInt(GUEST),
    );
    this.window = mapping.firstWindow;
    this.memory = this.platform.windows.u8[this.window]!;
    this.unmapGuest = () => mapping.unmap();
  }

  use(backing: BlockBacking): this {
    this.backing = backing;
    backing.onComplete((count) => this.#collect(count));
    return this;
  }

  /** Moves bytes between the medium and pieces of guest memory at `offset`, one behind the other. */
  transfer(
    operation: BlockOperation,
    token: number,
    position: number,
    offset: number,
    pieces: number[],
  ): void {
    // The rows start at 1, to notice who forgets the first row.
    const table = new Int32Array((pieces.length + 1) * 4);
    let at = offset;
    pieces.forEach((length, i) => {
      table.set([this.window, at, length, 0], (i + 1) * 4);
      at += length;
    });
    this.backing.queue(operation, token, position, at - offset, table, 1, pieces.length);
  }

  submit(): void {
    this.#collect(this.backing.submit());
  }

  async end(...tokens: number[]): Promise<number[]> {
    this.submit();
    while (tokens.some((token) => !this.results.has(token))) await new Promise(setImmediate);
    return tokens.map((token) => this.results.get(token)!);
  }

  #collect(count: number): void {
    for (let i = 0; i < count; i++) {
      const token = this.backing.completions[i * 2]!;
      assert.not(this.results.has(token), `operation ${token} ended twice`);
      this.results.set(token, this.backing.completions[i * 2 + 1]!);
    }
  }
}

const table: Int32Array = new Int32Array(0);

const operations = suite('operations');

operations('have the same numbers as the platform has', () => {
  assert.equal(BlockOperation, PlatformOperation);
});

operations.run();

const kinds: Record<string, (bench: Bench) => BlockBacking> = {
  'the RAM backing': ({ platform }) => new RamBacking(platform, 1n << 20n),
  'the file backing': ({ platform }) => {
    platform.addFile('/image', 1 << 20);
    return openFileBacking(platform, '/image');
  },
};

for (const [kind, make] of Object.entries(kinds)) {
  const test = suite(kind);

  test('holds what is written to it, whatever the pieces', async () => {
    const bench = new Bench();
    bench.use(make(bench));
    const random = new Random(3);
    const model = new Uint8Array(1 << 20);
    let token = 0;
    for (let round = 0; round < 100; round++) {
      const position = random.below(2000) * SECTOR;
      const length = (1 + random.below(8)) * SECTOR;
      const offset = random.below(GUEST - length);
      if (random.chance(2)) {
        const bytes = random.bytes(length);
        bench.memory.set(bytes, offset);
        model.set(bytes, position);
        bench.transfer(BlockOperation.write, ++token, position, offset, random.cut(length));
        assert.equal(await bench.end(token), [length]);
      } else {
        bench.transfer(BlockOperation.read, ++token, position, offset, random.cut(length));
        assert.equal(await bench.end(token), [length]);
        assert.equal(bench.memory.slice(offset, offset + length), model.slice(position, position + length));
      }
    }
  });

  test('ends each of many operations once', async () => {
    const bench = new Bench();
    bench.use(make(bench));
    const tokens = Array.from({ length: 700 }, (_, i) => i * 3 - 50);
    for (const token of tokens) bench.transfer(BlockOperation.read, token, 0, 0, [100, 200, 212]);
    assert.equal(
      await bench.end(...tokens),
      tokens.map(() => SECTOR),
    );
  });

  test('writes zeroes, with and without unmap, and only there', async () => {
    const bench = new Bench();
    bench.use(make(bench));
    bench.memory.fill(7);
    bench.transfer(BlockOperation.write, 1, 0, 0, [1 << 20]);
    assert.equal(await bench.end(1), [1 << 20]);
    bench.backing.queue(BlockOperation.writeZeroes, 2, SECTOR, SECTOR, table, 0, 0);
    bench.backing.queue(BlockOperation.writeZeroesUnmap, 3, 4 * SECTOR, 2 * SECTOR, table, 0, 0);
    bench.backing.queue(BlockOperation.flush, 4, 0, 0, table, 0, 0);
    assert.equal(await bench.end(2, 3, 4), [0, 0, 0]);
    bench.transfer(BlockOperation.read, 5, 0, 0, [7 * SECTOR]);
    await bench.end(5);
    const sectors = [0, 1, 2, 3, 4, 5, 6].map((sector) => bench.memory[sector * SECTOR]);
    assert.equal(sectors, [7, 0, 7, 7, 0, 0, 7]);
  });

  test('takes no more work once it is closed, and leaves nothing open', async () => {
    const bench = new Bench();
    const before = [bench.platform.openFdCount, bench.platform.mappingCount];
    bench.use(make(bench));
    bench.backing.queue(BlockOperation.writeZeroes, 1, 0, SECTOR, table, 0, 0);
    bench.submit();
    const closed = bench.backing.close();
    assert.throws(
      () => bench.backing.queue(BlockOperation.flush, 2, 0, 0, table, 0, 0),
      (error: PlatformError) => error.code === 'ERR_PLATFORM_CLOSED',
    );
    await closed;
    await bench.backing.close();
    assert.is(bench.results.get(1), 0, 'what was under way has ended');
    assert.equal([bench.platform.openFdCount, bench.platform.mappingCount], before);
  });

  test.run();
}

const ram = suite('the RAM backing alone');

ram('zeroes a large range a piece a turn', async () => {
  const bench = new Bench();
  bench.use(new RamBacking(bench.platform, 64n << 20n));
  bench.backing.queue(BlockOperation.writeZeroes, 1, 0, 64 << 20, table, 0, 0);
  bench.submit();
  let turns = 0;
  while (!bench.results.has(1)) {
    await new Promise(setImmediate);
    turns++;
  }
  assert.ok(turns >= 4, `${turns} turns`);
});

ram('C26: an operation whose memory is gone fails, and the next one works', async () => {
  const bench = new Bench();
  bench.use(new RamBacking(bench.platform, 1n << 20n));
  bench.unmapGuest();
  bench.transfer(BlockOperation.read, 1, 0, 0, [SECTOR]);
  assert.equal(await bench.end(1), [-14]);
  bench.transfer(BlockOperation.read, 2, 0, 0, new Array<number>(3000).fill(1));
  assert.equal(await bench.end(2), [-14], 'more pieces than the copy table has room for');
  bench.backing.queue(BlockOperation.flush, 3, 0, 0, table, 0, 0);
  assert.equal(await bench.end(3), [0]);
});

ram('takes a request of more pieces than the copy table has room for', async () => {
  const bench = new Bench();
  bench.use(new RamBacking(bench.platform, 1n << 20n));
  bench.memory.set(new Random(5).bytes(4096));
  const before = bench.memory.slice(0, 4096);
  bench.transfer(BlockOperation.write, 1, SECTOR, 0, new Array<number>(4096).fill(1));
  assert.equal(await bench.end(1), [4096]);
  bench.memory.fill(0);
  bench.transfer(BlockOperation.read, 2, SECTOR, 0, [4096]);
  await bench.end(2);
  assert.equal(bench.memory.slice(0, 4096), before);
});

ram('leaves nothing behind when it cannot be mapped', () => {
  const bench = new Bench();
  const before = bench.platform.openFdCount;
  bench.platform.failNext('mmap', 'ENOMEM');
  assert.throws(() => new RamBacking(bench.platform, 1n << 20n), /ENOMEM/);
  assert.is(bench.platform.openFdCount, before);
});

ram.run();

const file = suite('the file backing alone');

file('refuses an image without a whole sector and closes it', async () => {
  const bench = new Bench();
  const before = bench.platform.openFdCount;
  for (const size of [0, 511]) {
    bench.platform.addFile('/small', size);
    assert.throws(
      () => openFileBacking(bench.platform, '/small'),
      (error: DeviceError) =>
        error.code === 'ERR_DEVICE_CONFIGURATION' && error.message.startsWith(`/small: ${size} bytes`),
    );
  }
  await new Promise(setImmediate);
  assert.is(bench.platform.openFdCount, before);
});

file('passes on why an image cannot be opened', () => {
  const bench = new Bench();
  assert.throws(
    () => openFileBacking(bench.platform, '/none'),
    (error: PlatformError) => error.errno === 'ENOENT',
  );
  bench.platform.addFile('/protected', 4096, { readOnly: true });
  assert.throws(
    () => openFileBacking(bench.platform, '/protected'),
    (error: DeviceError) =>
      error.code === 'ERR_DEVICE_CONFIGURATION' &&
      /^\/protected may not be written; .*read-only/.test(error.message) &&
      (error.cause as PlatformError).errno === 'EACCES',
  );
  assert.ok(openFileBacking(bench.platform, '/protected', { readOnly: true }).readOnly);
});

file.run();

const nothing = suite('the null backing');

nothing('ends everything at once with what was asked for', async () => {
  const bench = new Bench().use(new NullBacking(1n << 40n));
  bench.transfer(BlockOperation.read, 1, 0, 0, [SECTOR, SECTOR]);
  bench.transfer(BlockOperation.write, 2, 0, 0, [SECTOR]);
  bench.backing.queue(BlockOperation.discard, 3, 0, SECTOR, table, 0, 0);
  bench.submit();
  assert.equal(
    [1, 2, 3].map((token) => bench.results.get(token)),
    [1024, 512, 0],
  );
});

nothing.run();
