/** Another thread rewrites rings and tables while the device's side reads them: each value is read once, or this shows it. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtqueueError } from '../../runtime/errors.js';
import { GuestMemory, MemoryRegion } from '../../runtime/memory/guest-memory.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import type { DeviceVirtqueue } from '../../runtime/virtqueue/device-virtqueue.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';
import { type RewrittenWord, whileRewritten } from './rewriter.js';

const SIZE = 16;
const MEMORY = 0x2_0000;
const TABLE = 0x1000;
const DRIVER = 0x2000;
const DEVICE = 0x3000;
const INDIRECT_TABLE = 0x4000;
const INDIRECT_ENTRIES = 8;
const BUFFERS = 0x8000;
/** At least, and until enough was seen; at most, however seldom the other thread has its turn. */
const ROUNDS = { least: 20_000, most: 3_000_000 };

const platform = createLinuxPlatform();
const test = suite('rings change while the device reads them');

type Format = 'split' | 'packed';

/** The words of descriptors at `at`: mostly good ones, so that many chains come through, and every kind of bad one. */
function descriptors(format: Format, at: number, count: number, indirect: boolean): RewrittenWord[] {
  const words: RewrittenWord[] = [];
  const good = (values: readonly number[], times: number): number[] =>
    Array.from({ length: times }, () => values).flat();
  for (let i = 0; i < count; i++) {
    const place = at + i * 16;
    const buffer = BUFFERS + i * 0x100;
    const pointers = indirect ? good([INDIRECT_TABLE], 20) : [];
    words.push({
      at: place,
      values: [...good([buffer, buffer + 0x10], 40), ...pointers, TABLE, MEMORY - 64, MEMORY, 0x7fff_0000],
    });
    words.push({ at: place + 4, values: [...good([0], 200), 1, 0xffff_ffff] });
    words.push({ at: place + 8, values: [...good([16, 64, 128], 30), 0, 4096, 0x8000_0000, 0xffff_ffff] });
    const flags = [...good([0, 2, 2, 1, 3], 8), ...(indirect ? [4, 4, 4, 5, 6] : [4]), 0xff7f];
    const tails = [(i + 1) % count, 0, count - 1, count, 0xffff];
    words.push({
      at: place + 12,
      values: flags.flatMap((bits) =>
        tails.map((tail) =>
          format === 'packed' ? (tail | ((bits | 0x80) << 16)) >>> 0 : ((tail << 16) | bits) >>> 0,
        ),
      ),
    });
  }
  return words;
}

function rewritten(format: Format): RewrittenWord[] {
  const words = [
    ...descriptors(format, TABLE, SIZE, true),
    ...descriptors(format, INDIRECT_TABLE, INDIRECT_ENTRIES, false),
  ];
  if (format === 'packed') {
    words.push({ at: DRIVER, values: [0, 0x0001_0000, 0x0002_8003, 0x0003_ffff] });
    return words;
  }
  // Flags and index; entries two by two; the event word.
  words.push({
    at: DRIVER,
    values: [0x0004_0000, 0x0008_0000, 0x0010_0001, 0x0004_0001, 0x0011_0000, 0xffff_0000],
  });
  for (let i = 0; i < SIZE; i += 2) {
    const pair = (i | ((i + 1) << 16)) >>> 0;
    words.push({ at: DRIVER + 4 + 2 * i, values: [pair, pair, pair, 0, 0x0005_0005, 0xffff_0010] });
  }
  words.push({ at: DRIVER + 4 + 2 * SIZE, values: [0, 5, 0xffff] });
  return words;
}

for (const format of ['split', 'packed'] as const) {
  for (const eventIdx of [false, true]) {
    test(`C8, packed 7: ${format}, event idx ${eventIdx}: what is seen lies in memory, each queue ends well or broken`, async () => {
      const fd = platform.createSharedMemory('race', BigInt(MEMORY));
      const description = { guestAddress: 0n, size: BigInt(MEMORY), userAddress: 0n, mmapOffset: 0n };
      const memory = new GuestMemory([MemoryRegion.map(platform, description, fd)]);
      const seen = { chains: 0, good: 0, defects: new Set<string>() };
      await whileRewritten({ fd, size: MEMORY, words: rewritten(format) }, () => {
        const enough = () => seen.chains > 1000 && seen.good > 0 && seen.defects.size >= 4;
        for (let round = 0; round < ROUNDS.least || (!enough() && round < ROUNDS.most); round++) {
          offer(memory, format);
          serveOnce(memory, format, eventIdx, seen);
        }
      });
      memory.release();
      platform.closeFd(fd);
      assert.ok(seen.chains > 1000, `${seen.chains} chains`);
      assert.ok(seen.good > 0 && seen.defects.size >= 4, `${seen.good} good, ${[...seen.defects].join()}`);
    });
  }
}

/** Chains of one buffer each as they ought to be, before the other thread gets at them. */
function offer(memory: GuestMemory, format: Format): void {
  const { window } = memory.translate(0, 1)!;
  const words = platform.windows.u32[window]!;
  for (let i = 0; i < SIZE; i++) {
    const flags = i % 3 === 0 ? 0 : 2;
    words.set(
      [BUFFERS + i * 0x100, 0, 64, format === 'packed' ? (i | ((flags | 0x80) << 16)) >>> 0 : flags],
      (TABLE + i * 16) >>> 2,
    );
  }
}

/** A fresh queue over the memory, a drain, a push. */
function serveOnce(
  memory: GuestMemory,
  format: Format,
  eventIdx: boolean,
  seen: { chains: number; good: number; defects: Set<string> },
): void {
  const { window } = memory.translate(0, 1)!;
  const place = (offset: number) => ({ window, offset });
  const queue = startDeviceVirtqueue(
    {
      index: 0,
      size: SIZE,
      format,
      eventIdx,
      indirect: true,
      inOrder: false,
      areas: { descriptor: place(TABLE), driver: place(DRIVER), device: place(DEVICE) },
      memory,
      state: initialVirtqueueState(format),
    },
    platform.windows,
  );
  const batch = new ChainBatch(SIZE, SIZE * SIZE);
  const handles = new Set<number>();
  for (let turn = 0; turn < 2; turn++) {
    const count = queue.drain(batch, SIZE);
    check(queue, batch, count, window, handles);
    seen.chains += count;
    queue.pushBatch(batch, count);
    for (let row = 0; row < count; row++) handles.delete(batch.chains[row * 4]!);
    queue.needsCall();
    queue.enableNotifications();
  }
  if (queue.broken === null) seen.good++;
  else {
    assert.instance(queue.broken, VirtqueueError);
    seen.defects.add(queue.broken.code);
    assert.is(queue.drain(batch, SIZE), 0, 'a broken queue gives nothing');
  }
}

function check(
  queue: DeviceVirtqueue,
  batch: ChainBatch,
  count: number,
  memoryWindow: number,
  handles: Set<number>,
): void {
  let segments = 0;
  for (let row = 0; row < count; row++) {
    const [handle, first, readable, writable] = batch.chains.subarray(row * 4, row * 4 + 4);
    assert.ok(handle! >= 0 && handle! < SIZE && !handles.has(handle!), `handle ${handle}`);
    handles.add(handle!);
    assert.is(first, segments);
    assert.ok(readable! + writable! <= SIZE, 'no chain is longer than its ring');
    for (let i = 0; i < readable! + writable!; i++) {
      const [window, offset, length, flags] = batch.segments.subarray(segments * 4, segments * 4 + 4);
      assert.is(window, memoryWindow);
      assert.ok(offset! >= 0 && length! > 0 && offset! + length! <= MEMORY, `${offset} + ${length}`);
      assert.is(flags, i < readable! ? 0 : 2);
      segments++;
    }
    batch.written[row] = 0;
  }
  assert.is(queue.inFlight, handles.size);
}

test.run();
