/** Rings over memory that was mapped lazily: a window is made readable when a chain first lies in it, and not before. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';
import {
  INDIRECT,
  packedTable,
  RawPackedRing,
  RawSplitRing,
  splitTable,
  WRITE,
} from '../support/raw-rings.js';
import { TestGuest } from '../support/test-guest.js';

const test = suite('lazily mapped memory');

const MIB = 0x10_0000;
/** The ring lies in the first region, tables in the second, buffers in the third, and nothing in the others. */
const [TABLES, BUFFERS, HIGH] = [MIB * 2, MIB * 4, 2 ** 33];
const REGIONS = [0, TABLES, BUFFERS, MIB * 6, HIGH].map((address) => ({ address, size: MIB }));

function rig(format: 'split' | 'packed') {
  const guest = new TestGuest(REGIONS);
  const memory = guest.mapAgain({ lazy: true });
  const ring = format === 'split' ? new RawSplitRing(guest, 8) : new RawPackedRing(guest, 8);
  const { descriptorAddress, driverAddress, deviceAddress } = ring;
  const queue = startDeviceVirtqueue(
    {
      index: 0,
      size: 8,
      format,
      eventIdx: false,
      indirect: true,
      inOrder: false,
      areas: guest.areas(descriptorAddress, driverAddress, deviceAddress, memory),
      memory,
      state: initialVirtqueueState(format),
    },
    guest.windows,
  );
  // The walk that shows windows. A chain that it did not take was taken by the hot loop.
  const thorough = { walks: 0 };
  const inside = queue as unknown as { takeThoroughly(batch: ChainBatch, row: number): boolean };
  const walk = inside.takeThoroughly.bind(queue);
  inside.takeThoroughly = (batch, row) => {
    const taken = walk(batch, row);
    if (taken) thorough.walks++;
    return taken;
  };
  const batch = new ChainBatch(8, 64);
  return {
    guest,
    /** Which regions are readable. */
    shown: () => memory.regions.map(({ mapping }) => guest.windows.u8[mapping.firstWindow]!.length > 0),
    offer(id: number, descriptor: { address: number; length: number; flags: number }): void {
      if (ring instanceof RawPackedRing) return void ring.offer(id, [descriptor]);
      ring.chain([id], [descriptor]);
      ring.offer(id);
    },
    /** Takes what is there: the segments of each chain as the device sees them, and how many of them a thorough walk took. */
    take(): { bytes: number[][]; walks: number } {
      thorough.walks = 0;
      queue.drain(batch, 8);
      assert.is(queue.broken, null);
      const bytes = Array.from({ length: batch.count }, (_, row) => {
        const [, first, readable, writable] = batch.chains.subarray(row * 4, row * 4 + 4);
        assert.is(readable! + writable!, 1);
        const [window, offset, length] = batch.segments.subarray(first! * 4, first! * 4 + 3);
        return [...guest.windows.u8[window!]!.subarray(offset, offset! + length!)];
      });
      for (let row = 0; row < batch.count; row++) queue.complete(batch.chains[row * 4]!, 0);
      queue.publish();
      return { bytes, walks: thorough.walks };
    },
  };
}

for (const format of ['split', 'packed'] as const) {
  test(`${format}: starting a ring shows the window that it lies in and no other`, () => {
    assert.equal(rig(format).shown(), [true, false, false, false, false]);
  });

  test(`${format}: the first chain in a window shows it, the hot loop takes those after it`, () => {
    const { guest, offer, take, shown } = rig(format);
    guest.write(BUFFERS, Uint8Array.of(1, 2, 3));
    guest.write(HIGH, Uint8Array.of(7, 8, 9));
    offer(0, { address: BUFFERS, length: 3, flags: 0 });
    assert.equal(take(), { bytes: [[1, 2, 3]], walks: 1 });
    assert.equal(shown(), [true, false, true, false, false]);
    offer(0, { address: BUFFERS + 1, length: 2, flags: 0 });
    offer(1, { address: HIGH, length: 3, flags: WRITE });
    offer(2, { address: HIGH + 2, length: 1, flags: 0 });
    assert.equal(take().bytes, [[2, 3], [7, 8, 9], [9]]);
    assert.equal(shown(), [true, false, true, false, true]);
    offer(0, { address: HIGH, length: 2, flags: 0 });
    offer(1, { address: BUFFERS, length: 2, flags: 0 });
    assert.equal(take(), {
      bytes: [
        [7, 8],
        [1, 2],
      ],
      walks: 0,
    });
  });

  test(`${format}: an indirect table shows its window too`, () => {
    const { guest, offer, take, shown } = rig(format);
    guest.write(BUFFERS, Uint8Array.of(4, 5, 6));
    guest.write(TABLES, (format === 'split' ? splitTable : packedTable)([{ address: BUFFERS, length: 3 }]));
    for (let round = 0; round < 3; round++) {
      offer(0, { address: TABLES, length: 16, flags: INDIRECT });
      const { bytes, walks } = take();
      assert.equal(bytes, [[4, 5, 6]]);
      assert.equal(shown(), [true, true, true, false, false]);
      assert.is(walks, round === 0 ? 1 : 0);
    }
  });
}

test.run();
