import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { splitPosition } from '../../runtime/virtqueue/split/position.js';
import { RawSplitRing } from '../support/raw-rings.js';
import { TestGuest } from '../support/test-guest.js';

const test = suite('where a split ring goes on');

const SIZE = 8;

interface Case {
  readonly used: number;
  readonly available: number;
  /** Heads from the used index on; zeros behind them, as in a ring never written. */
  readonly heads?: readonly number[];
  readonly base: number | null;
}

function position({ used, available, heads = [], base }: Case): number {
  const guest = new TestGuest();
  const ring = new RawSplitRing(guest, SIZE);
  ring.usedIndex = used;
  for (const [i, head] of heads.entries()) ring.slot(used + i, head);
  ring.availableIndex = available;
  const areas = guest.areas(ring.descriptorAddress, ring.driverAddress, ring.deviceAddress);
  const state = splitPosition(guest.windows, { index: 0, size: SIZE, areas }, base);
  assert.is(state.nextUsed, used, 'the used index stands in the ring');
  return state.nextAvailable;
}

test('the base is where the used entries end, as a ring is stopped', () => {
  assert.is(position({ used: 0xfedc, available: 0xfedf, heads: [0, 1, 2], base: 0xfedc }), 0xfedc);
});

test('no base, or 0 for a ring that was used: everything not used is to be done (DPDK as a server)', () => {
  const case_ = { used: 20, available: 22, heads: [4, 5] };
  assert.is(position({ ...case_, base: null }), 20);
  assert.is(position({ ...case_, base: 0 }), 20);
});

test('what the driver has made available, or had when it was told: the same (cloud-hypervisor, Firecracker)', () => {
  assert.is(position({ used: 0, available: 3, heads: [0, 1, 2], base: 3 }), 0);
  assert.is(position({ used: 0xfffe, available: 2, heads: [7, 1, 2, 0], base: 1 }), 0xfffe);
  assert.is(position({ used: 0, available: SIZE, heads: [0, 1, 2, 3, 4, 5, 6, 7], base: SIZE }), 0);
});

test('a ring that begins at its base goes on there, whatever its used index says', () => {
  assert.is(position({ used: 0, available: 5, base: 5 }), 5);
  assert.is(position({ used: 0, available: 6, base: 5 }), 5);
  assert.is(position({ used: 0, available: 0, base: 5 }), 5);
  assert.is(position({ used: 0, available: 0xffff, base: 0xffff }), 0xffff);
  assert.is(position({ used: 0, available: 2, heads: [0, 9], base: 2 }), 2, 'no heads of this ring');
  assert.is(position({ used: 3, available: 4, heads: [1], base: 7 }), 7, 'not yet available');
});

test('a ring that does not lie in memory is refused', () => {
  const guest = new TestGuest();
  const areas = guest.areas(0x1000, 0x2000, 0x3000);
  const outside = { ...areas, device: { ...areas.device, offset: 2 ** 40 } };
  assert.throws(
    () => splitPosition(guest.windows, { index: 0, size: SIZE, areas: outside }, 0),
    (error: { code: string }) => error.code === 'ERR_VIRTQ_CONFIGURATION',
  );
});

test.run();
