import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DeviceVirtqueue } from '../../../runtime/virtqueue/device-virtqueue.js';
import { ChainBatch } from '../../../runtime/virtqueue/chain-batch.js';
import { inflightStride } from '../../../runtime/virtqueue/inflight/region.js';
import { startDeviceVirtqueue } from '../../../runtime/virtqueue/start.js';
import { VirtqueueError } from '../../../runtime/errors.js';
import { Random } from '../../support/random.js';
import { RawPackedRing, type RawSplitRing, WRITE } from '../../support/raw-rings.js';
import { type DeviceRig, packedRig, splitRig, take } from '../device-rig.js';

/** Regions as other back-ends leave them, written by their offsets, and regions that nobody should leave. */
const test = suite('in-flight regions of others');

const SIZE = 8;

interface Region {
  readonly view: DataView;
  /** Starts the rig's ring with the region. */
  start(nextAvailable?: number): DeviceVirtqueue;
}

function withRegion(
  rig: DeviceRig<RawSplitRing | RawPackedRing>,
  write: (view: DataView) => void,
  capacity = SIZE,
): Region {
  const { platform, windows } = rig.guest;
  const { format } = rig.configuration;
  const bytes = inflightStride(format, capacity);
  const fd = platform.createSharedMemory('inflight', BigInt(bytes));
  const mapping = platform.map(fd, 0n, BigInt(bytes));
  const u8 = windows.u8[mapping.firstWindow]!;
  const view = new DataView(u8.buffer, u8.byteOffset, bytes);
  write(view);
  return {
    view,
    start: (nextAvailable = 0) =>
      startDeviceVirtqueue(
        {
          ...rig.configuration,
          state:
            format === 'split'
              ? { format, nextAvailable, nextUsed: (rig.ring as RawSplitRing).usedIndex }
              : rig.configuration.state,
          inflight: { window: mapping.firstWindow, offset: 0, capacity, mapping },
        },
        windows,
      ),
  };
}

/** Head, its mark, its counter and what stands before it in the list. */
type SplitEntry = readonly [head: number, inflight: number, counter: number, next?: number];

function splitRegion(
  view: DataView,
  header: { version?: number; size?: number; last?: number; used: number },
  ...entries: SplitEntry[]
): void {
  view.setUint16(8, header.version ?? 1, true);
  view.setUint16(10, header.size ?? SIZE, true);
  view.setUint16(12, header.last ?? 0, true);
  view.setUint16(14, header.used, true);
  for (const [head, inflight, counter, next = 0] of entries) {
    view.setUint8(16 + 16 * head, inflight);
    view.setUint16(16 + 16 * head + 6, next, true);
    view.setBigUint64(16 + 16 * head + 8, BigInt(counter), true);
  }
}

/** A split ring in which chains were offered and used before. */
function usedSplitRing(used: number, available: number): DeviceRig<RawSplitRing> {
  const rig = splitRig({ size: SIZE });
  for (let head = 0; head < SIZE; head++) {
    rig.ring.chain([head], [{ address: 0x8000 + head * 64, length: 64, flags: WRITE }]);
    rig.ring.slot(head, head);
  }
  rig.ring.availableIndex = available;
  rig.ring.usedIndex = used;
  // What it had used, so that it does not look like a ring that was just made.
  rig.guest.view(rig.ring.deviceAddress, 8).setUint32(8 - 4, 3, true);
  return rig;
}

const handles = (rig: DeviceRig<RawSplitRing | RawPackedRing>, queue: DeviceVirtqueue): number[] =>
  take({ guest: rig.guest, queue }).map(({ handle }) => handle);

function refused(region: Region, reason: RegExp): void {
  const before = new Uint8Array(region.view.buffer).slice();
  try {
    region.start();
    assert.unreachable('it was not refused');
  } catch (error) {
    assert.instance(error, VirtqueueError);
    assert.is((error as VirtqueueError).code, 'ERR_VIRTQ_INFLIGHT');
    assert.match((error as VirtqueueError).message, /the in-flight region cannot be resumed/);
    assert.match((error as VirtqueueError).message, reason);
  }
  assert.equal(new Uint8Array(region.view.buffer), before, 'nothing was written to it');
}

// --- split

test('split: chains in flight come in the order of their counters, then the available ring goes on', () => {
  const rig = usedSplitRing(20, 25);
  const region = withRegion(rig, (view) =>
    splitRegion(view, { used: 20 }, [5, 1, 900], [2, 1, 70], [7, 1, 4294967296 + 3]),
  );
  const queue = region.start();
  assert.is(queue.parked, 3);
  assert.ok(queue.hasAvailable());
  assert.equal(handles(rig, queue), [2, 5, 7]);
  assert.is(queue.parked, 0);
  assert.is(queue.inFlight, 3);
  rig.ring.slot(23, 0);
  rig.ring.slot(24, 1);
  assert.equal(handles(rig, queue), [0, 1], 'from the used index and what is in flight on');
  assert.is(region.view.getBigUint64(16 + 8, true), 4294967300n, 'counted on');
});

test('split: libvhost-user lists as many descriptors as the queue may have; batches are of one', () => {
  const rig = usedSplitRing(21, 24);
  const region = withRegion(
    rig,
    (view) => splitRegion(view, { used: 20, size: 16, last: 3 }, [3, 1, 5], [4, 1, 6], [6, 1, 7]),
    16,
  );
  const queue = region.start();
  assert.equal(handles(rig, queue), [4, 6], 'the last one it used is not done again');
  assert.is(region.view.getUint8(16 + 48), 0);
  assert.is(region.view.getUint16(14, true), 21);
});

test('trap of SPDK#3766: a region whose used index is still 0 while the ring is further on loses nothing', () => {
  const fresh = usedSplitRing(100, 102);
  fresh.ring.slot(100, 0);
  fresh.ring.slot(101, 1);
  const region = withRegion(fresh, () => undefined);
  const queue = region.start(100);
  assert.is(region.view.getUint16(14, true), 100);
  assert.equal(handles(fresh, queue), [0, 1]);
  // One that such a peer has begun: slot 0 is in flight and the indexes are far apart.
  const begun = usedSplitRing(100, 102);
  refused(
    withRegion(begun, (view) => splitRegion(view, { used: 0 }, [0, 1, 0])),
    /used index 100 is 100 ahead of its own/,
  );
});

for (const [name, write, reason] of [
  ['another version', (v) => splitRegion(v, { used: 20, version: 2 }), /version is 2/],
  ['unknown features', (v) => (splitRegion(v, { used: 20 }), v.setUint8(0, 4)), /unknown features, 0x4/],
  ['too few descriptors', (v) => splitRegion(v, { used: 20, size: 4 }, [1, 1, 1]), /lists 4 descriptors/],
  [
    'more than it has room for',
    (v) => splitRegion(v, { used: 20, size: 9 }, [1, 1, 1]),
    /lists 9 descriptors/,
  ],
  [
    'a list that loops',
    (v) => splitRegion(v, { used: 17, last: 1 }, [1, 1, 1, 2], [2, 1, 2, 1]),
    /holds 2 chains, the ring reported 3/,
  ],
  [
    'a list that leaves the table',
    (v) => splitRegion(v, { used: 18, last: 1 }, [1, 1, 1, 8]),
    /names descriptor 8/,
  ],
  [
    'a head outside the table',
    (v) => splitRegion(v, { used: 19, last: 65535 }, [1, 1, 1]),
    /names descriptor 65535/,
  ],
  ['more used than there are', (v) => splitRegion(v, { used: 11 }, [1, 1, 1]), /9 ahead of its own/],
  ['ahead of its ring', (v) => splitRegion(v, { used: 21 }, [1, 1, 1]), /65535 ahead of its own/],
  [
    'more in flight than offered',
    (v) => splitRegion(v, { used: 20 }, [1, 1, 1], [2, 1, 2], [3, 1, 3]),
    /3 chains are in flight, the driver waits for 2/,
  ],
  ['a mark that is none', (v) => splitRegion(v, { used: 20 }, [1, 7, 1]), /mark of descriptor 1 is 7/],
  ['a counter near its end', (v) => splitRegion(v, { used: 20 }, [1, 1, 2 ** 53]), /counter of descriptor 1/],
] as readonly (readonly [string, (view: DataView) => void, RegExp])[]) {
  test(`split, refused: ${name}`, () => {
    refused(withRegion(usedSplitRing(20, 22), write), reason);
  });
}

test('split: a driver that waits for nothing, or has never had an answer, gets a region anew', () => {
  for (const make of [() => usedSplitRing(5, 5), () => splitRig({ size: SIZE })]) {
    const rig = make();
    const { ring } = rig;
    const region = withRegion(rig, (view) => splitRegion(view, { used: 4000 }, [1, 1, 1], [3, 1, 2]));
    const queue = region.start();
    assert.is(queue.parked, 0);
    assert.equal([region.view.getUint8(16 + 16), region.view.getUint8(16 + 48)], [0, 0]);
    assert.is(region.view.getUint16(14, true), ring.usedIndex);
    ring.chain([6], [{ address: 0x8000, length: 64, flags: WRITE }]);
    ring.offer(6);
    assert.equal(handles(rig, queue), [6]);
  }
});

// --- packed

const AVAIL = 1 << 7;
const USED = 1 << 15;

interface PackedHeader {
  readonly version?: number;
  readonly size?: number;
  readonly free: number;
  readonly oldFree?: number;
  readonly used: readonly [number, number];
  readonly oldUsed?: readonly [number, number];
}

/** Entries that are linked one behind the other unless `links` says otherwise. */
function packedRegion(view: DataView, header: PackedHeader, links: Record<number, number> = {}): void {
  view.setUint16(8, header.version ?? 1, true);
  view.setUint16(10, header.size ?? SIZE, true);
  view.setUint16(12, header.free, true);
  view.setUint16(14, header.oldFree ?? header.free, true);
  view.setUint16(16, header.used[0], true);
  view.setUint16(18, (header.oldUsed ?? header.used)[0], true);
  view.setUint8(20, header.used[1]);
  view.setUint8(21, (header.oldUsed ?? header.used)[1]);
  for (let i = 0; i < SIZE; i++) view.setUint16(32 + 32 * i + 2, links[i] ?? i + 1, true);
}

function packedChain(
  view: DataView,
  head: number,
  { last, num, counter, id }: { last: number; num: number; counter: number; id: number },
): void {
  const at = 32 + 32 * head;
  view.setUint8(at, 1);
  view.setUint16(at + 4, last, true);
  view.setUint16(at + 6, num, true);
  view.setBigUint64(at + 8, BigInt(counter), true);
  for (let entry = head, i = 0; i < num && entry < SIZE; i++) {
    const to = 32 + 32 * entry;
    const flags = WRITE | AVAIL | (i + 1 < num ? 1 : 0);
    view.setUint16(to + 16, id, true);
    view.setUint16(to + 18, flags, true);
    view.setUint32(to + 20, 64, true);
    view.setBigUint64(to + 24, BigInt(0x8000 + entry * 64), true);
    entry = view.getUint16(to + 2, true);
  }
}

/** A packed ring of 8: slots 0 to 2 used in the first lap, 3 to 6 offered. */
function usedPackedRing(): DeviceRig<RawPackedRing> {
  const rig = packedRig({ size: SIZE });
  for (let slot = 0; slot < 7; slot++) {
    const flags = WRITE | (slot < 3 ? AVAIL | USED : AVAIL);
    rig.ring.descriptor(slot, { address: 0x8000 + slot * 64, length: 64, flags }, slot === 6 ? 7 : slot);
  }
  return rig;
}

/** Entries 0, and 1 with 2, are in flight; the others are free from 3 on. Ring slots 3 to 5. */
function inFlight(view: DataView, header: Partial<PackedHeader> = {}): void {
  packedRegion(view, { free: 3, used: [3, 1], ...header });
  packedChain(view, 0, { last: 0, num: 1, counter: 12, id: 6 });
  packedChain(view, 1, { last: 2, num: 2, counter: 11, id: 4 });
}

test('packed: chains in flight come from the copies in the order of their counters, then the ring goes on', () => {
  const rig = usedPackedRing();
  const region = withRegion(rig, (view) => inFlight(view));
  const queue = region.start();
  const chains = take({ guest: rig.guest, queue });
  assert.equal(
    chains.map(({ handle, writable }) => [handle, writable]),
    [
      [
        4,
        [
          [0x8040, 64],
          [0x8080, 64],
        ],
      ],
      [6, [[0x8000, 64]]],
    ],
  );
  const [next] = take({ guest: rig.guest, queue });
  assert.equal([next!.handle, next!.writable], [7, [[0x8000 + 6 * 64, 64]]]);
});

test('packed: DPDK marks stay set on entries of its free list, and are cleared', () => {
  const rig = usedPackedRing();
  const region = withRegion(rig, (view) => {
    inFlight(view);
    view.setUint8(32 + 32 * 5, 1);
  });
  const queue = region.start();
  assert.is(queue.parked, 2);
  assert.is(region.view.getUint8(32 + 32 * 5), 0);
});

test('packed 45: a batch that was made and not published is rolled back, one that the driver saw is committed', () => {
  for (const seen of ['not published', 'used', 'made available again'] as const) {
    const rig = usedPackedRing();
    // The chain of entry 0, one slot at 3, was being completed.
    const flags = { 'not published': AVAIL, used: AVAIL | USED, 'made available again': USED }[seen];
    rig.ring.descriptor(3, { address: 0x8000, length: 64, flags: flags | WRITE }, 6);
    const region = withRegion(rig, (view) => {
      inFlight(view, { free: 0, oldFree: 3, used: [4, 1], oldUsed: [3, 1] });
      view.setUint16(32 + 2, 3, true);
    });
    const queue = region.start();
    assert.is(queue.parked, seen === 'not published' ? 2 : 1, seen);
    const { view } = region;
    const all = [12, 14, 16, 18].map((at) => view.getUint16(at, true));
    assert.equal(all, seen === 'not published' ? [3, 3, 3, 3] : [0, 0, 4, 4], seen);
  }
});

for (const [name, write, reason] of [
  ['another version', (v) => inFlight(v, { version: 3 }), /version is 3/],
  ['another size', (v) => inFlight(v, { size: 7 }), /lists 7 descriptors, the ring has 8/],
  ['a free list that begins outside', (v) => inFlight(v, { free: 9 }), /starts at entry 9/],
  [
    'a free list that leaves the table',
    (v) => (inFlight(v), v.setUint16(32 + 32 * 7 + 2, 9, true)),
    /names entry 9/,
  ],
  ['a free list that loops', (v) => (inFlight(v), v.setUint16(32 + 32 * 7 + 2, 3, true)), /loops at entry 3/],
  [
    'a free list that runs into a chain',
    (v) => (inFlight(v), v.setUint16(32 + 32 * 7 + 2, 1, true)),
    /loops at entry 3/,
  ],
  ['a position outside', (v) => inFlight(v, { used: [8, 1] }), /used index is 8/],
  ['a wrap counter that is none', (v) => inFlight(v, { used: [3, 2] }), /wrap counters are 2/],
  ['an empty chain', (v) => (inFlight(v), v.setUint16(32 + 6, 0, true)), /has 0 descriptors/],
  ['a chain longer than the ring', (v) => (inFlight(v), v.setUint16(32 + 6, 9, true)), /has 9 descriptors/],
  [
    'a chain that ends elsewhere',
    (v) => (inFlight(v), v.setUint16(32 + 32 + 4, 1, true)),
    /ends at entry 2, not at 1/,
  ],
  [
    'two chains of one entry',
    (v) => (inFlight(v), v.setUint8(32 + 64, 1), v.setUint16(32 + 64 + 6, 1, true)),
    /runs into another list at entry 2/,
  ],
  [
    'an entry that is nobody’s',
    (v) => (inFlight(v), v.setUint8(32, 0)),
    /1 entries are neither free nor part of a chain/,
  ],
  ['a mark that is none', (v) => (inFlight(v), v.setUint8(32, 3)), /mark of entry 0 is 3/],
] as readonly (readonly [string, (view: DataView) => void, RegExp])[]) {
  test(`packed, refused: ${name}`, () => {
    refused(withRegion(usedPackedRing(), write), reason);
  });
}

test('packed: a chain in flight is checked like any other when it comes', () => {
  for (const [name, spoil, code] of [
    ['an id beyond the ring', (v: DataView) => v.setUint16(32 + 16, 8, true), 'ERR_VIRTQ_HEAD'],
    [
      'an address outside memory',
      (v: DataView) => v.setBigUint64(32 + 24, 1n << 60n, true),
      'ERR_VIRTQ_ADDRESS',
    ],
    ['a chain that goes on', (v: DataView) => v.setUint16(32 + 18, WRITE | 1, true), 'ERR_VIRTQ_CHAIN'],
    ['a chain that ends too soon', (v: DataView) => v.setUint16(64 + 18, WRITE, true), 'ERR_VIRTQ_CHAIN'],
    ['an id in flight twice', (v: DataView) => v.setUint16(32 + 16, 4, true), 'ERR_VIRTQ_HEAD'],
  ] as const) {
    const rig = usedPackedRing();
    const region = withRegion(rig, (view) => {
      inFlight(view);
      spoil(view);
    });
    const queue = region.start();
    handles(rig, queue);
    assert.is(queue.broken?.code, code, name);
  }
});

test('packed: nothing in flight, and a ring that the guest made anew', () => {
  const rig = packedRig({ size: SIZE });
  rig.ring.offer(2, [{ address: 0x8000, length: 64, flags: WRITE }]);
  const region = withRegion(rig, (view) => inFlight(view, { used: [3, 0] }));
  const queue = region.start();
  assert.is(queue.parked, 0);
  assert.equal(handles(rig, queue), [2]);
});

// --- both

test('whatever stands in a region, it is refused or the ring runs; nothing else happens', () => {
  const random = new Random(99);
  const batch = new ChainBatch(16, 64);
  const counts = { refused: 0, runs: 0 };
  for (let round = 0; round < 4000; round++) {
    const rig = round % 2 === 0 ? usedSplitRing(20, 22 + random.below(6)) : usedPackedRing();
    const region = withRegion(rig, (view) => {
      if (round % 2 === 0) splitRegion(view, { used: 20 }, [1, 1, 5], [2, 1, 4]);
      else inFlight(view);
      for (let n = random.below(4); n >= 0; n--) {
        const at = random.chance(3) ? random.below(view.byteLength) : random.below(32);
        view.setUint8(at, random.chance(2) ? random.below(10) : random.below(256));
      }
    });
    try {
      const queue = region.start();
      for (let n = 0; n < 10 && queue.drain(batch, 16) > 0; n++) {
        batch.written.fill(0);
        queue.pushBatch(batch, batch.count);
      }
      counts.runs++;
    } catch (error) {
      assert.instance(error, VirtqueueError, String((error as Error).stack));
      assert.is((error as VirtqueueError).code, 'ERR_VIRTQ_INFLIGHT');
      counts.refused++;
    }
  }
  assert.ok(counts.refused > 500 && counts.runs > 500, JSON.stringify(counts));
});

test('a driver that offers a chain again before it was told of its end meets its own record, not another one', () => {
  const rig = splitRig({ size: SIZE });
  const { ring } = rig;
  const region = withRegion(rig, () => undefined);
  const queue = region.start();
  ring.chain([3], [{ address: 0x8000, length: 64, flags: WRITE }]);
  ring.offer(3);
  assert.equal(handles(rig, queue), [3]);
  queue.complete(3, 1);
  ring.offer(3);
  assert.equal(handles(rig, queue), [3]);
  assert.is(ring.usedIndex, 1, 'published before it is taken anew');
  assert.is(region.view.getUint8(16 + 48), 1, 'in flight');
  queue.complete(3, 1);
  queue.publish();
  assert.is(region.view.getUint8(16 + 48), 0);
});

test.run();
