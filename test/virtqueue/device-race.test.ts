/** Another thread rewrites descriptors while the device reads them, as a hostile guest's second processor would. */
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Mapping, Platform, WindowTable } from '../../runtime/platform/platform.js';
import { GuestMemory, MemoryRegion } from '../../runtime/memory/guest-memory.js';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';

const SIZE = 16;
const MEMORY = 0x2_0000;
const TABLE = 0x1000;
const DRIVER = 0x2000;
const DEVICE = 0x3000;
const ROUNDS = 20_000;
const STOP = 0x4000;

interface Shared {
  readonly memory: SharedArrayBuffer;
  readonly packed: boolean;
}

if (isMainThread) {
  const test = suite('descriptors change while they are read');

  for (const format of ['split', 'packed'] as const) {
    test(`C8, packed 7: ${format}: whatever is seen lies in memory and each queue ends well or broken`, async () => {
      const memory = new SharedArrayBuffer(MEMORY);
      const worker = new Worker(fileURLToPath(import.meta.url), {
        workerData: { memory, packed: format === 'packed' } satisfies Shared,
      });
      await new Promise((resolve) => worker.once('online', resolve));
      const seen = { chains: 0, broken: 0 };
      try {
        for (let round = 0; round < ROUNDS; round++) serveOnce(memory, format, seen);
      } finally {
        Atomics.store(new Int32Array(memory), STOP / 4, 1);
        await new Promise((resolve) => worker.once('exit', resolve));
      }
      assert.ok(seen.chains > 0 && seen.broken > 0, JSON.stringify(seen));
    });
  }

  test.run();
} else {
  scribble(workerData as Shared);
}

/** A fresh queue over the memory, one drain, one push. */
function serveOnce(
  shared: SharedArrayBuffer,
  format: 'split' | 'packed',
  seen: { chains: number; broken: number },
): void {
  const windows: WindowTable = {
    u8: [new Uint8Array(shared)],
    u32: [new Uint32Array(shared)],
    show: () => undefined,
  };
  const mapping: Mapping = {
    address: 0n,
    length: BigInt(MEMORY),
    firstWindow: 0,
    windowCount: 1,
    damaged: false,
    unmap() {},
    [Symbol.dispose]() {},
  };
  const platform = { windows, map: () => mapping } as unknown as Platform;
  const description = { guestAddress: 0n, size: BigInt(MEMORY), userAddress: 0n, mmapOffset: 0n };
  const memory = new GuestMemory([MemoryRegion.map(platform, description, -1)]);
  const place = (offset: number): { window: number; offset: number } => ({ window: 0, offset });
  const queue = startDeviceVirtqueue(
    {
      index: 0,
      size: SIZE,
      format,
      eventIdx: false,
      indirect: true,
      inOrder: false,
      areas: { descriptor: place(TABLE), driver: place(DRIVER), device: place(DEVICE) },
      memory,
      state: initialVirtqueueState(format),
    },
    windows,
  );
  if (format === 'split') {
    const available = new Uint16Array(shared, DRIVER, SIZE + 2);
    for (let i = 0; i < SIZE; i++) available[i + 2] = i;
    Atomics.store(available, 1, 4);
  }
  const batch = new ChainBatch(SIZE, 64);
  const count = queue.drain(batch, SIZE);
  let segments = 0;
  const handles = new Set<number>();
  for (let row = 0; row < count; row++) {
    const [handle, first, readable, writable] = batch.chains.subarray(row * 4, row * 4 + 4);
    assert.ok(handle! >= 0 && handle! < SIZE && !handles.has(handle!));
    handles.add(handle!);
    assert.is(first, segments);
    for (let i = 0; i < readable! + writable!; i++) {
      const [window, offset, length, flags] = batch.segments.subarray(segments * 4, segments * 4 + 4);
      assert.is(window, 0);
      assert.ok(offset! >= 0 && length! > 0 && offset! + length! <= MEMORY, `${offset} + ${length}`);
      assert.is(flags, i < readable! ? 0 : 2);
      segments++;
    }
    batch.written[row] = 0;
  }
  assert.is(queue.inFlight, count);
  queue.pushBatch(batch, count);
  seen.chains += count;
  if (queue.broken !== null) seen.broken++;
}

/** Rewrites the descriptors over and over with good, long, linked, indirect and outside ones. */
function scribble({ memory, packed }: Shared): void {
  const words = new Int32Array(memory);
  const addresses = [0x5000, 0x8000, TABLE, MEMORY - 64, MEMORY, 0x7fff_0000];
  const lengths = [16, 64, 32, 4096, 0, -1];
  const flagsOf = [0, 1, 2, 3, 4];
  for (let turn = 0; Atomics.load(words, STOP / 4) === 0; turn++) {
    const p = TABLE / 4 + (turn % SIZE) * 4;
    const pick = (list: readonly number[], step: number): number => list[((turn / step) | 0) % list.length]!;
    // Mostly good ones, so that many chains come through.
    const odd = turn % 37 === 0;
    words[p] = odd ? pick(addresses, 37) : 0x8000 + (turn % 64) * 16;
    words[p + 1] = odd && turn % 5 === 0 ? turn : 0;
    words[p + 2] = odd ? pick(lengths, 41) : 16 * (1 + (turn % 4));
    const flags = turn % 11 === 0 ? pick(flagsOf, 11) : turn % 3 === 0 ? 1 : 2;
    const tail = (turn + (turn >> 4)) % SIZE;
    words[p + 3] = packed ? tail | ((flags | 0x80) << 16) : flags | (tail << 16);
  }
}
