/** Another thread rewrites what a device owns of a ring while the driver's side reads it. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtqueueError } from '../../runtime/errors.js';
import { GuestMemory, MemoryRegion } from '../../runtime/memory/guest-memory.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { ringLayout, UsedBatch } from '../../runtime/virtqueue/driver-virtqueue.js';
import { startDriverVirtqueue } from '../../runtime/virtqueue/start-driver.js';
import { type RewrittenWord, whileRewritten } from './rewriter.js';

const SIZE = 8;
const MEMORY = 0x1_0000;
const TABLE = 0x1000;
const DRIVER = 0x2000;
const DEVICE = 0x3000;
const BUFFERS = 0x8000;
const LENGTH = 64;
/** At least, and until enough was seen; at most, however seldom the other thread has its turn. */
const ROUNDS = { least: 20_000, most: 3_000_000 };

const platform = createLinuxPlatform();
const test = suite('rings change while the driver reads them');

function rewritten(format: 'split' | 'packed'): RewrittenWord[] {
  const words: RewrittenWord[] = [];
  if (format === 'packed') {
    for (let i = 0; i < SIZE; i++) {
      const place = TABLE + i * 16;
      words.push({ at: place + 8, values: [0, 1, LENGTH, LENGTH + 1, 0xffff_ffff] });
      // Used in the first lap, with ids of every kind; as the driver writes it; used in the second.
      const flags = [0x8080, 0x8080, 0x8082, 0x0080, 0x0082, 0x0000];
      const ids = [i, i, i, (i + 1) % SIZE, SIZE, 0xffff];
      words.push({
        at: place + 12,
        values: flags.flatMap((bits) => ids.map((id) => ((bits << 16) | id) >>> 0)),
      });
    }
    words.push({ at: DEVICE, values: [0, 0x0001_0000, 0x0002_8003, 0x0003_ffff] });
    return words;
  }
  words.push({ at: DEVICE, values: [0, 0x0001_0000, 0x0002_0000, 0x0003_0001, 0x0009_0000, 0xffff_0000] });
  for (let i = 0; i < SIZE; i++) {
    words.push({ at: DEVICE + 4 + i * 8, values: [i, i, i, i, 0, SIZE, 0x1_0000, 0xffff_ffff] });
    words.push({ at: DEVICE + 8 + i * 8, values: [0, 1, LENGTH, LENGTH, LENGTH + 1, 0xffff_ffff] });
  }
  words.push({ at: DEVICE + 4 + SIZE * 8, values: [0, 3, 0xffff] });
  return words;
}

for (const format of ['split', 'packed'] as const) {
  for (const inOrder of [false, true]) {
    test(`C8: ${format}, in order ${inOrder}: ids are under way, lengths fit, each queue ends well or broken`, async () => {
      const fd = platform.createSharedMemory('race', BigInt(MEMORY));
      const description = { guestAddress: 0n, size: BigInt(MEMORY), userAddress: 0n, mmapOffset: 0n };
      const memory = new GuestMemory([MemoryRegion.map(platform, description, fd)]);
      const seen = { collected: 0, broken: 0 };
      await whileRewritten({ fd, size: MEMORY, words: rewritten(format) }, () => {
        const enough = () => seen.collected > 100 && seen.broken > 100;
        for (let round = 0; round < ROUNDS.least || (!enough() && round < ROUNDS.most); round++) {
          collectOnce(memory, format, inOrder, seen);
        }
      });
      memory.release();
      platform.closeFd(fd);
      assert.ok(seen.collected > 100 && seen.broken > 100, JSON.stringify(seen));
    });
  }
}

/** Uses the chain that was added first, as a device ought to, before the other thread gets at it. */
function useFirst(format: 'split' | 'packed', window: number, turn: number): void {
  if (turn > 0) return;
  const words = platform.windows.u32[window]!;
  if (format === 'packed') {
    words[(TABLE + 8) >>> 2] = LENGTH;
    words[(TABLE + 12) >>> 2] = 0x8082_0000;
    return;
  }
  words.set([0, LENGTH], (DEVICE + 4) >>> 2);
  words[DEVICE >>> 2] = 0x0001_0000;
}

/** A fresh queue, a few chains, some collecting. */
function collectOnce(
  memory: GuestMemory,
  format: 'split' | 'packed',
  inOrder: boolean,
  seen: { collected: number; broken: number },
): void {
  const { window } = memory.translate(0, 1)!;
  const place = (offset: number) => ({ window, offset });
  assert.ok(ringLayout(format, SIZE).device.length <= 0x1000);
  const queue = startDriverVirtqueue(
    {
      index: 0,
      size: SIZE,
      format,
      eventIdx: true,
      inOrder,
      areas: { descriptor: place(TABLE), driver: place(DRIVER), device: place(DEVICE) },
      memory,
    },
    platform.windows,
  );
  const underWay = new Set<number>();
  const used = new UsedBatch(SIZE);
  for (let turn = 0; turn < 4 && queue.broken === null; turn++) {
    for (let i = 0; i < 3; i++) {
      const segments = Int32Array.of(window, BUFFERS + i * 0x100, 16, 0, window, BUFFERS + 0x80, LENGTH, 0);
      const id = queue.add(segments, 0, 1, 1);
      if (id < 0) continue;
      assert.not(underWay.has(id), `id ${id} is handed out twice`);
      underWay.add(id);
    }
    queue.publish();
    queue.needsKick();
    useFirst(format, window, turn);
    const count = queue.collect(used, SIZE);
    for (let row = 0; row < count; row++) {
      assert.ok(underWay.delete(used.ids[row]!), `id ${used.ids[row]} is not under way`);
      assert.ok(used.lengths[row]! <= LENGTH, `${used.lengths[row]} bytes written into ${LENGTH}`);
    }
    seen.collected += count;
    assert.is(queue.inFlight, underWay.size);
    assert.is(queue.free, SIZE - 2 * underWay.size);
    queue.enableCalls();
  }
  if (queue.broken === null) return;
  seen.broken++;
  assert.instance(queue.broken, VirtqueueError);
  assert.is(queue.broken.code, 'ERR_VIRTQ_USED');
  assert.is(queue.collect(used, SIZE), 0);
}

test.run();
