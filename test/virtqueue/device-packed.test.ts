import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import {
  INDIRECT,
  NEXT,
  packedTable,
  type RawDescriptor,
  RawPackedRing,
  WRITE,
} from '../support/raw-rings.js';
import { DATA, packedRig, type RigOptions, take } from './device-rig.js';

const test = suite('packed ring, device side');

const AVAIL = 1 << 7;
const USED = 1 << 15;
const ENABLE = 0;
const DISABLE = 1;
const DESC = 2;
const END = 0x10_0000;

type Rig = ReturnType<typeof packedRig>;

const readable = (length = 16, at = 0): RawDescriptor => ({ address: DATA + at, length });
const writable = (length = 16, at = 0): RawDescriptor => ({ address: DATA + at, length, flags: WRITE });
const several = (count: number): RawDescriptor[] =>
  Array.from({ length: count }, (_, i) => writable(16, i * 16));

/** Drains and completes everything, with `written` bytes each. */
function serve(rig: Rig, written = 0): number[] {
  const batch = new ChainBatch(64, 1024);
  const count = rig.queue.drain(batch, 64);
  batch.written.fill(written);
  rig.queue.pushBatch(batch, count);
  return Array.from({ length: count }, (_, row) => batch.chains[row * 4]!);
}

function breaks(rig: Rig, code: string): void {
  assert.equal(take(rig), []);
  assert.is(rig.queue.broken?.code, code, rig.queue.broken?.message ?? 'not broken');
}

// --- wrap counters

test('packed 13: a zeroed ring has nothing available', () => {
  const { queue } = packedRig();
  assert.not(queue.hasAvailable());
  assert.is(queue.drain(new ChainBatch(8, 8), 8), 0);
  assert.is(queue.broken, null);
});

test('packed 8: a chain crossing the end of the ring, its tail marked for the next lap', () => {
  const rig = packedRig({ size: 8 });
  const { ring } = rig;
  ring.offer(0, several(6));
  assert.equal(serve(rig), [0]);
  assert.is(ring.poll()?.id, 0);
  ring.offer(5, [readable(1), readable(2), writable(3), writable(4)]);
  assert.is(ring.flagsOf(7) & (AVAIL | USED), AVAIL);
  assert.is(ring.flagsOf(0) & (AVAIL | USED), USED);
  assert.equal(take(rig), [
    {
      handle: 5,
      readable: [
        [DATA, 1],
        [DATA, 2],
      ],
      writable: [
        [DATA, 3],
        [DATA, 4],
      ],
    },
  ]);
  assert.equal(rig.queue.state(), {
    format: 'packed',
    nextAvailable: 2,
    availableWrap: 0,
    nextUsed: 6,
    usedWrap: 1,
  });
  rig.queue.complete(5, 7);
  rig.queue.publish();
  assert.equal(ring.poll(), { id: 5, length: 7, flags: AVAIL | USED | WRITE });
  assert.equal(rig.queue.state(), {
    format: 'packed',
    nextAvailable: 2,
    availableWrap: 0,
    nextUsed: 2,
    usedWrap: 0,
  });
});

test('packed 9: a chain as long as the ring comes back to its own slot in the next lap', () => {
  for (const size of [1, 2, 3, 8]) {
    const rig = packedRig({ size });
    for (let lap = 0; lap < 4; lap++) {
      rig.ring.offer(lap % size, several(size));
      assert.equal(serve(rig, 1), [lap % size], `size ${size}, lap ${lap}`);
      assert.is(rig.ring.poll()?.id, lap % size);
      const { nextAvailable, availableWrap } = rig.queue.state() as {
        nextAvailable: number;
        availableWrap: number;
      };
      assert.equal([nextAvailable, availableWrap], [0, lap % 2]);
    }
  }
});

for (const size of [1, 2, 3, 5, 7, 100, 32768]) {
  test(`packed 10: a ring of ${size}`, () => {
    const rig = packedRig({ size, regions: [{ address: 0, size: 0x20_0000 }] });
    const { ring } = rig;
    let id = 0;
    const laps = size > 1000 ? 2 : 9;
    for (let slots = 0; slots < laps * size;) {
      const offered: number[] = [];
      for (let used = 0; used < Math.min(size, 40);) {
        const length = Math.min(1 + (id % 3), size - used);
        if (used + length > size) break;
        ring.offer(id, several(length));
        offered.push(id);
        id = (id + 1) % size;
        used += length;
        slots += length;
      }
      assert.equal(serve(rig, 1), offered);
      for (const each of offered) assert.is(ring.poll()?.id, each);
    }
    assert.is(ring.poll(), null);
    assert.is(rig.queue.broken, null);
  });
}

test('packed 11: the two cursors wrap at different times when chains complete out of order', () => {
  const rig = packedRig({ size: 5 });
  const { ring, queue } = rig;
  ring.offer(0, several(3));
  ring.offer(1, several(2));
  take(rig);
  assert.equal(queue.state(), {
    format: 'packed',
    nextAvailable: 0,
    availableWrap: 0,
    nextUsed: 0,
    usedWrap: 1,
  });
  queue.complete(1, 1);
  queue.publish();
  assert.is(ring.poll()?.id, 1);
  ring.offer(1, several(2));
  assert.is(take(rig)[0]?.handle, 1);
  assert.equal(queue.state(), {
    format: 'packed',
    nextAvailable: 2,
    availableWrap: 0,
    nextUsed: 2,
    usedWrap: 1,
  });
  queue.complete(0, 2);
  queue.publish();
  assert.equal(queue.state(), {
    format: 'packed',
    nextAvailable: 2,
    availableWrap: 0,
    nextUsed: 0,
    usedWrap: 0,
  });
  assert.equal(ring.poll(), { id: 0, length: 2, flags: AVAIL | USED | WRITE });
  queue.complete(1, 0);
  queue.publish();
  assert.equal(ring.poll(), { id: 1, length: 0, flags: 0 });
});

test('packed 14: what stands in the ring from two laps ago is not available', () => {
  const rig = packedRig({ size: 4 });
  const { ring } = rig;
  for (let id = 0; id < 4; id++) ring.offer(id, [writable()]);
  assert.is(serve(rig).length, 4);
  for (let id = 0; id < 4; id++) ring.poll();
  ring.offer(0, [writable()]);
  assert.is(serve(rig).length, 1);
  for (const flags of [AVAIL | WRITE, AVAIL | USED, 0]) {
    ring.descriptor(1, { ...writable(), flags }, 1);
    assert.not(rig.queue.hasAvailable(), `flags 0x${flags.toString(16)} in a lap with wrap counter 0`);
    assert.equal(take(rig), []);
  }
  assert.is(rig.queue.broken, null);
});

test('packed 15: AVAIL unlike USED is not enough, AVAIL must match the wrap counter', () => {
  const rig = packedRig();
  rig.ring.descriptor(0, { ...writable(), flags: USED | WRITE }, 0);
  assert.not(rig.queue.hasAvailable());
  assert.equal(take(rig), []);
  rig.ring.descriptor(0, { ...writable(), flags: AVAIL | WRITE }, 0);
  assert.ok(rig.queue.hasAvailable());
  assert.is(take(rig).length, 1);
});

test('a ring starts in the middle of its second lap', () => {
  const state = { format: 'packed', nextAvailable: 6, availableWrap: 0, nextUsed: 6, usedWrap: 0 } as const;
  const rig = packedRig({ state });
  const { ring } = rig;
  ring.cursor = ring.usedCursor = 6;
  ring.wrap = ring.usedWrap = 0;
  ring.offer(3, several(4));
  assert.equal(serve(rig, 1), [3]);
  assert.equal(ring.poll(), { id: 3, length: 1, flags: WRITE });
  assert.equal(rig.queue.state(), {
    format: 'packed',
    nextAvailable: 2,
    availableWrap: 1,
    nextUsed: 2,
    usedWrap: 1,
  });
});

// --- order of what is written

test('packed 3, packed 4: nothing is used before publish, and the first element of a batch comes last', () => {
  const rig = packedRig({ size: 4 });
  const { ring, queue } = rig;
  for (const id of [0, 1, 2]) ring.offer(id, [writable()]);
  serve(rig);
  for (let i = 0; i < 3; i++) ring.poll();
  // Slots 3, 0 and 1: the batch crosses the end.
  for (const id of [2, 0, 1]) ring.offer(id, [writable()]);
  take(rig);
  const before = ring.flagsOf(3);
  for (const id of [2, 0, 1]) queue.complete(id, 8);
  assert.is(ring.flagsOf(3), before, 'the flags that the driver polls are untouched');
  assert.is(ring.flagsOf(0) & (AVAIL | USED), 0, 'later ones stand already, in the next lap');
  assert.is(ring.poll(), null);
  queue.publish();
  assert.equal(
    [ring.poll(), ring.poll(), ring.poll()].map((used) => [used?.id, used?.length]),
    [
      [2, 8],
      [0, 8],
      [1, 8],
    ],
  );
});

test('a batch that is completed in two pushes is published twice, each as a whole', () => {
  const rig = packedRig();
  const { ring, queue } = rig;
  for (const id of [0, 1, 2, 3]) ring.offer(id, [writable()]);
  const batch = new ChainBatch(8, 8);
  assert.is(queue.drain(batch, 2), 2);
  queue.pushBatch(batch, 2);
  queue.complete(take(rig, 1)[0]!.handle, 1);
  assert.is(queue.drain(batch, 8), 1);
  queue.pushBatch(batch, 1);
  assert.equal(
    [0, 1, 2, 3].map(() => ring.poll()?.id),
    [0, 1, 2, 3],
  );
  assert.is(queue.counters.publishes, 2);
});

// --- ids and counts

test('packed 16: the id is that of the last descriptor; ids before it and in tables mean nothing', () => {
  const rig = packedRig();
  rig.ring.offer(6, several(3), 0x7777);
  assert.is(take(rig)[0]?.handle, 6);
  rig.guest.write(
    DATA + 0x4000,
    packedTable([
      { ...readable(), next: 3 },
      { ...writable(), next: 4 },
    ]),
  );
  rig.ring.offer(2, [{ address: DATA + 0x4000, length: 32, flags: INDIRECT }]);
  assert.is(take(rig)[0]?.handle, 2);
});

test('packed 17, packed 18, packed 20: a used element skips the slots of its own chain, an indirect one takes one', () => {
  const rig = packedRig({ size: 8 });
  const { ring, queue } = rig;
  rig.guest.write(DATA + 0x4000, packedTable([readable(), writable(), writable()]));
  ring.offer(7, several(3));
  ring.offer(4, [{ address: DATA + 0x4000, length: 48, flags: INDIRECT }]);
  ring.offer(1, several(2));
  assert.equal(
    take(rig).map((chain) => chain.handle),
    [7, 4, 1],
  );
  for (const id of [1, 4, 7]) {
    queue.complete(id, id);
    queue.publish();
  }
  assert.equal(
    [1, 4, 7].map(() => ring.poll()?.id),
    [1, 4, 7],
  );
  assert.is(ring.usedCursor, 6);
  assert.equal(queue.state(), {
    format: 'packed',
    nextAvailable: 6,
    availableWrap: 1,
    nextUsed: 6,
    usedWrap: 1,
  });
});

test('packed 19: an id outside the ring and one that is in flight are refused', () => {
  for (const id of [8, 9, 0xffff]) {
    const rig = packedRig();
    rig.ring.offer(id, [writable()]);
    breaks(rig, 'ERR_VIRTQ_HEAD');
  }
  const together = packedRig();
  together.ring.offer(3, [writable()]);
  together.ring.offer(3, [writable()]);
  assert.is(take(together).length, 1);
  assert.is(together.queue.broken?.code, 'ERR_VIRTQ_HEAD');
  const later = packedRig();
  later.ring.offer(3, several(2));
  assert.is(take(later).length, 1);
  later.ring.offer(3, several(2));
  breaks(later, 'ERR_VIRTQ_HEAD');
});

test('packed 21, C20: more slots in flight than the ring has are refused', () => {
  const rig = packedRig({ size: 4 });
  rig.ring.offer(0, several(3));
  assert.is(take(rig).length, 1);
  rig.ring.offer(1, several(2));
  breaks(rig, 'ERR_VIRTQ_CHAIN');
  const full = packedRig({ size: 4 });
  for (let id = 0; id < 4; id++) full.ring.offer(id, [writable()]);
  assert.is(take(full).length, 4);
  full.ring.offer(0, [writable()]);
  breaks(full, 'ERR_VIRTQ_CHAIN');
});

test('packed 22, C13: NEXT in every descriptor of the ring', () => {
  const rig = packedRig({ size: 8 });
  for (let slot = 0; slot < 8; slot++)
    rig.ring.descriptor(slot, { ...writable(), flags: AVAIL | WRITE | NEXT }, 0);
  assert.equal(take(rig, 8, new ChainBatch(8, 4096)), []);
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_CHAIN');
});

test('C23: a device cannot complete what is not in flight, twice, or with more than is writable', () => {
  const rig = packedRig();
  const { queue, ring } = rig;
  ring.offer(4, [readable(), writable(16)]);
  take(rig);
  const refused = (id: number, written: number, code: string): void =>
    assert.throws(
      () => queue.complete(id, written),
      (error: { code: string }) => error.code === code,
    );
  for (const id of [0, 5, 8, -1]) refused(id, 0, 'ERR_VIRTQ_HANDLE');
  refused(4, 17, 'ERR_VIRTQ_USED');
  queue.complete(4, 16);
  refused(4, 16, 'ERR_VIRTQ_HANDLE');
  assert.is(queue.broken, null);
});

// --- chains and indirect tables

function tableVerdict(
  table: readonly RawDescriptor[],
  pointer: Partial<RawDescriptor> = {},
  options: RigOptions = {},
): string | null {
  const rig = packedRig(options);
  rig.guest.write(DATA + 0x4000, packedTable(table));
  rig.ring.offer(0, [{ address: DATA + 0x4000, length: table.length * 16, flags: INDIRECT, ...pointer }]);
  take(rig);
  return rig.queue.broken?.code ?? null;
}

test('packed 24: length of an indirect table; NEXT inside ignored, only WRITE honoured, INDIRECT inside rejected', () => {
  assert.is(tableVerdict([readable()], { length: 0 }), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([readable()], { length: 20 }), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict(several(8)), null);
  assert.is(tableVerdict(several(9)), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([readable(), { ...readable(), flags: INDIRECT }]), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([{ ...readable(), flags: INDIRECT }]), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([writable(), readable()]), 'ERR_VIRTQ_ORDER');
  const rig = packedRig();
  rig.guest.write(
    DATA + 0x4000,
    packedTable([
      { ...readable(4), flags: AVAIL | USED },
      { ...writable(8), flags: WRITE | NEXT },
      { ...writable(12), flags: WRITE | NEXT },
    ]),
  );
  rig.ring.offer(0, [{ address: DATA + 0x4000, length: 48, flags: INDIRECT }]);
  assert.equal(take(rig), [
    {
      handle: 0,
      readable: [[DATA, 4]],
      writable: [
        [DATA, 8],
        [DATA, 12],
      ],
    },
  ]);
});

test("packed 24: a device's own limit may allow tables longer than the ring, as Linux makes them on small queues", () => {
  assert.is(tableVerdict(several(20), {}, { chainLimit: 20 }), null);
  assert.is(tableVerdict(several(21), {}, { chainLimit: 20 }), 'ERR_VIRTQ_INDIRECT');
});

test('packed 24: a table in a table is rejected even where the inner one is good', () => {
  const rig = packedRig();
  rig.guest.write(DATA + 0x5000, packedTable([readable(), writable()]));
  rig.guest.write(DATA + 0x4000, packedTable([{ address: DATA + 0x5000, length: 32, flags: INDIRECT }]));
  rig.ring.offer(0, [{ address: DATA + 0x4000, length: 16, flags: INDIRECT }]);
  breaks(rig, 'ERR_VIRTQ_INDIRECT');
});

test('packed 25: INDIRECT with NEXT is rejected, WRITE on the pointer ignored', () => {
  assert.is(tableVerdict([readable()], { flags: INDIRECT | NEXT }), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([readable()], { flags: INDIRECT | WRITE }), null);
  assert.is(tableVerdict([readable()], {}, { indirect: false }), 'ERR_VIRTQ_INDIRECT');
});

test('packed 26: direct and indirect chains in one ring, and a table behind direct descriptors', () => {
  const rig = packedRig({ size: 5 });
  const { ring } = rig;
  rig.guest.write(DATA + 0x4000, packedTable([readable(16), writable(512, 0x100)]));
  const pointer = { address: DATA + 0x4000, length: 32, flags: INDIRECT };
  ring.offer(0, [pointer]);
  ring.offer(1, several(2));
  ring.offer(2, [readable(8), pointer]);
  assert.equal(
    take(rig).map(({ handle, readable: read, writable: write }) => [handle, read.length, write.length]),
    [
      [0, 1, 1],
      [1, 0, 2],
      [2, 2, 1],
    ],
  );
  for (const id of [2, 0, 1]) rig.queue.complete(id, 0);
  rig.queue.publish();
  assert.equal(
    [2, 0, 1].map(() => ring.poll()?.id),
    [2, 0, 1],
  );
});

test('packed 27: a writable before a readable descriptor is rejected', () => {
  for (const buffers of [
    [writable(), readable()],
    [readable(), writable(), readable()],
    [writable(0), readable()],
  ]) {
    const rig = packedRig();
    rig.ring.offer(0, buffers);
    breaks(rig, 'ERR_VIRTQ_ORDER');
  }
});

test('packed 27, C6, C21: an empty descriptor takes no segment, and its address is not looked at', () => {
  const rig = packedRig({ size: 3 });
  const nowhere = 0xffff_ffff_ffff_ffffn;
  for (let lap = 0; lap < 3; lap++) {
    rig.ring.offer(1, [
      { address: nowhere, length: 0 },
      readable(4),
      { address: nowhere, length: 0, flags: WRITE },
    ]);
    assert.equal(take(rig), [{ handle: 1, readable: [[DATA, 4]], writable: [] }]);
    rig.queue.complete(1, 0);
    rig.queue.publish();
    assert.is(rig.ring.poll()?.id, 1);
  }
});

const TWO_REGIONS = [
  { address: 0, size: 0x10_0000 },
  { address: 0x10_0000, size: 0x10_0000 },
];

test('packed 28, C1, C16: an indirect table over a region border, at an odd address, and half outside', () => {
  const table = packedTable([readable(16), readable(8), writable(512, 0x100)]);
  for (const address of [END - 16, END - 20, END - 40, DATA + 0x4001, DATA + 0x4002]) {
    const rig = packedRig({ regions: TWO_REGIONS });
    rig.guest.write(address, table);
    rig.ring.offer(0, [{ address, length: 48, flags: INDIRECT }]);
    const [chain] = take(rig);
    assert.equal(
      [chain?.readable, chain?.writable],
      [
        [
          [DATA, 16],
          [DATA, 8],
        ],
        [[DATA + 0x100, 512]],
      ],
      rig.queue.broken?.message,
    );
  }
  const outside = packedRig();
  outside.guest.write(END - 16, table.subarray(0, 16));
  outside.ring.offer(0, [{ address: END - 16, length: 48, flags: INDIRECT }]);
  breaks(outside, 'ERR_VIRTQ_INDIRECT');
});

test('C1, C25: buffers at the end of memory, across two regions and outside', () => {
  const rig = packedRig({ regions: TWO_REGIONS });
  rig.ring.offer(0, [{ address: END - 10, length: 30 }]);
  rig.ring.offer(1, [{ address: 2 * END - 4, length: 4 }]);
  assert.equal(
    take(rig).map((chain) => chain.readable),
    [
      [
        [END - 10, 10],
        [END, 20],
      ],
      [[2 * END - 4, 4]],
    ],
  );
  rig.ring.offer(2, [{ address: 2 * END - 4, length: 5 }]);
  breaks(rig, 'ERR_VIRTQ_ADDRESS');
});

test('a chain that does not fit any more waits for the next drain; one that never can breaks the queue', () => {
  const rig = packedRig();
  rig.ring.offer(0, several(2));
  rig.ring.offer(1, several(3));
  const batch = new ChainBatch(8, 4);
  assert.equal(
    take(rig, 8, batch).map((chain) => chain.handle),
    [0],
  );
  assert.equal(
    take(rig, 8, batch).map((chain) => chain.handle),
    [1],
  );
  rig.ring.offer(2, several(2));
  assert.equal(take(rig, 8, new ChainBatch(8, 1)), []);
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_CHAIN');
});

// --- used elements

test('packed 31, packed 32: WRITE in a used element means that bytes were written; NEXT and INDIRECT are cleared', () => {
  const rig = packedRig({ size: 4 });
  const { ring, queue } = rig;
  rig.guest.write(DATA + 0x4000, packedTable([writable(32)]));
  ring.offer(0, [{ address: DATA + 0x4000, length: 16, flags: INDIRECT | WRITE }]);
  ring.offer(1, several(2));
  take(rig);
  queue.complete(0, 0);
  queue.complete(1, 9);
  queue.publish();
  assert.equal(ring.poll(), { id: 0, length: 0, flags: AVAIL | USED });
  assert.equal(ring.poll(), { id: 1, length: 9, flags: AVAIL | USED | WRITE });
});

test('packed 33, packed 34, packed 35: with IN_ORDER each chain gets its element, in order, whatever the device does', () => {
  const rig = packedRig({ size: 5, inOrder: true });
  const { ring, queue } = rig;
  for (let lap = 0; lap < 7; lap++) {
    ring.offer(0, several(2));
    ring.offer(1, several(1));
    ring.offer(2, several(1));
    take(rig);
    queue.complete(2, 12);
    queue.complete(1, 11);
    queue.publish();
    assert.is(ring.poll(), null, `lap ${lap}`);
    queue.complete(0, 10);
    queue.publish();
    assert.equal(
      [ring.poll(), ring.poll(), ring.poll()].map((used) => [used?.id, used?.length]),
      [
        [0, 10],
        [1, 11],
        [2, 12],
      ],
    );
  }
  assert.is(queue.inFlight, 0);
});

// --- events

/** Serves so many chains of one descriptor in one batch and asks. */
function called(rig: Rig, count: number): boolean {
  for (let id = 0; id < count; id++) rig.ring.offer(id, [writable()]);
  assert.is(serve(rig).length, count);
  for (let id = 0; id < count; id++) rig.ring.poll();
  return rig.queue.needsCall();
}

test('packed 37: DISABLE, ENABLE, DESC and the reserved value', () => {
  const rig = packedRig({ eventIdx: true });
  assert.not(rig.queue.needsCall(), 'nothing was published');
  rig.ring.driverEvent = { offset: 0, wrap: 1, flags: DISABLE };
  assert.not(called(rig, 1));
  rig.ring.driverEvent = { offset: 0, wrap: 1, flags: ENABLE };
  assert.ok(called(rig, 1));
  assert.not(rig.queue.needsCall(), 'asked already');
  rig.ring.driverEvent = { offset: 7, wrap: 1, flags: 3 };
  assert.ok(called(rig, 1), 'reserved: as enable');
  rig.ring.driverEvent = { offset: 7, wrap: 1, flags: 0xfffc | DISABLE };
  assert.not(called(rig, 1), 'reserved bits do not count');
  assert.is(rig.queue.counters.calls, 2);
});

test('packed 37: DESC without EVENT_IDX is taken as enable', () => {
  const rig = packedRig({ eventIdx: false });
  called(rig, 1);
  rig.ring.driverEvent = { offset: 7, wrap: 1, flags: DESC };
  assert.ok(called(rig, 1));
});

test('packed 38: DESC asks for one place in one lap', () => {
  const rig = packedRig({ size: 8, eventIdx: true });
  rig.ring.driverEvent = { offset: 3, wrap: 1, flags: DESC };
  assert.ok(called(rig, 1), 'packed 40: the first one always fires');
  assert.not(called(rig, 2), 'slots 1 and 2');
  assert.ok(called(rig, 1), 'slot 3');
  assert.not(called(rig, 2), 'slots 4 and 5');
  rig.ring.driverEvent = { offset: 1, wrap: 0, flags: DESC };
  assert.not(called(rig, 3), 'slots 6, 7 and 0 of the next lap');
  assert.ok(called(rig, 2), 'slots 1 and 2');
  rig.ring.driverEvent = { offset: 4, wrap: 1, flags: DESC };
  assert.not(called(rig, 3), 'slot 4, but a lap too early');
  assert.ok(called(rig, 7), 'slots 6 to 4 of the next lap');
});

test('packed 38: every place in a ring of 5 fires once, wherever the batch stands', () => {
  for (let offset = 0; offset < 5; offset++) {
    const rig = packedRig({ size: 5, eventIdx: true });
    called(rig, 1);
    let lap: 0 | 1 = 1;
    let slot = 1;
    for (let step = 0; step < 40; step++) {
      const count = 1 + (step % 4);
      // Ask for `offset` where it comes next.
      const wrap = offset >= slot ? lap : lap === 1 ? 0 : 1;
      rig.ring.driverEvent = { offset, wrap, flags: DESC };
      const distance = (offset - slot + 5) % 5;
      assert.is(called(rig, count), distance < count, `offset ${offset}, ${count} slots from ${slot}`);
      slot += count;
      if (slot >= 5) {
        slot -= 5;
        lap = lap === 1 ? 0 : 1;
      }
    }
  }
});

test('packed 39: an event inside the slots of a chain fires when the chain is used', () => {
  const rig = packedRig({ size: 8, eventIdx: true });
  called(rig, 1);
  rig.ring.driverEvent = { offset: 3, wrap: 1, flags: DESC };
  rig.ring.offer(0, several(4));
  serve(rig);
  assert.ok(rig.queue.needsCall());
});

test('packed 39: a whole lap unasked fires', () => {
  const rig = packedRig({ size: 4, eventIdx: true });
  called(rig, 1);
  rig.ring.driverEvent = { offset: 0, wrap: 1, flags: DESC };
  assert.ok(called(rig, 4));
});

test('packed 40: after a resume the first call comes whatever the event says, unless calls are disabled', () => {
  const state = { format: 'packed', nextAvailable: 5, availableWrap: 0, nextUsed: 5, usedWrap: 0 } as const;
  for (const flags of [DESC, DISABLE]) {
    const rig = packedRig({ eventIdx: true, state });
    rig.ring.cursor = rig.ring.usedCursor = 5;
    rig.ring.wrap = rig.ring.usedWrap = 0;
    rig.ring.driverEvent = { offset: 1, wrap: 0, flags };
    assert.is(called(rig, 1), flags === DESC);
    assert.not(called(rig, 1));
  }
});

test('packed 41: disabling leaves offset and wrap counter alone', () => {
  const rig = packedRig({ eventIdx: true });
  called(rig, 3);
  rig.queue.enableNotifications();
  assert.equal(rig.ring.deviceEvent, { offset: 3, wrap: 1, flags: DESC });
  rig.queue.disableNotifications();
  assert.equal(rig.ring.deviceEvent, { offset: 3, wrap: 1, flags: DISABLE });
  called(rig, 7);
  rig.queue.enableNotifications();
  assert.equal(rig.ring.deviceEvent, { offset: 2, wrap: 0, flags: DESC });
});

test('packed 6: enabling tells of chains that came before it', () => {
  for (const eventIdx of [false, true]) {
    const rig = packedRig({ eventIdx });
    rig.queue.disableNotifications();
    rig.ring.offer(0, [writable()]);
    assert.ok(rig.queue.enableNotifications());
    assert.is(rig.ring.deviceEvent.flags, eventIdx ? DESC : ENABLE);
    serve(rig);
    assert.not(rig.queue.enableNotifications());
  }
});

// --- state and memory

test('packed 43: state holds both cursors when chains are in flight at the stop', () => {
  const rig = packedRig({ size: 5 });
  const { ring, queue } = rig;
  ring.offer(0, several(2));
  ring.offer(1, several(2));
  take(rig);
  queue.complete(1, 3);
  assert.equal(queue.state(), {
    format: 'packed',
    nextAvailable: 4,
    availableWrap: 1,
    nextUsed: 0,
    usedWrap: 1,
  });
  queue.publish();
  const state = queue.state();
  assert.equal(state, { format: 'packed', nextAvailable: 4, availableWrap: 1, nextUsed: 2, usedWrap: 1 });
  ring.poll();
  ring.offer(1, several(2));
  const resumed = packedRig({ size: 5, guest: rig.guest, state });
  assert.equal(
    take(resumed).map((chain) => chain.handle),
    [1],
  );
  resumed.queue.complete(1, 4);
  resumed.queue.publish();
  assert.is(ring.poll()?.length, 4);
});

test('packed 46: a ring that starts anew starts with both wrap counters 1', () => {
  const rig = packedRig({ size: 3 });
  called(rig, 3);
  called(rig, 1);
  const again = packedRig({ size: 3, guest: rig.guest });
  // The driver starts over with a zeroed ring.
  for (let slot = 0; slot < 3; slot++) rig.ring.descriptor(slot, { address: 0, length: 0 }, 0);
  const ring = new RawPackedRing(rig.guest, 3);
  assert.not(again.queue.hasAvailable());
  ring.offer(2, several(3));
  assert.equal(serve(again, 1), [2]);
  assert.is(ring.poll()?.id, 2);
});

test('packed 28: the ring goes on in a new memory map, with what was completed published first', () => {
  const rig = packedRig();
  const { guest, ring, queue } = rig;
  ring.offer(0, several(2));
  take(rig);
  queue.complete(0, 3);
  const memory = guest.mapAgain();
  queue.rebind(memory, guest.areas(ring.descriptorAddress, ring.driverAddress, ring.deviceAddress, memory));
  assert.is(ring.poll()?.id, 0);
  guest.memory.release();
  ring.offer(1, [writable(32, 0x40)]);
  const batch = new ChainBatch(4, 4);
  assert.is(queue.drain(batch, 4), 1);
  assert.equal({ window: batch.segments[0], offset: batch.segments[1] }, memory.translate(DATA + 0x40, 32));
});

test('memory that was truncated or unmapped breaks the queue and nothing throws', () => {
  const truncated = packedRig();
  truncated.guest.truncate();
  truncated.ring.offer(0, [writable()]);
  breaks(truncated, 'ERR_VIRTQ_MEMORY_LOST');

  const unmapped = packedRig();
  unmapped.ring.offer(0, [writable()]);
  take(unmapped);
  unmapped.guest.memory.release();
  assert.not(unmapped.queue.hasAvailable());
  unmapped.queue.complete(0, 1);
  unmapped.queue.publish();
  assert.not(unmapped.queue.needsCall());
  assert.not(unmapped.queue.enableNotifications());
  unmapped.queue.disableNotifications();
  breaks(unmapped, 'ERR_VIRTQ_MEMORY_LOST');
});

test.run();
