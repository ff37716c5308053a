import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SEGMENT_MAX, WINDOW_STRIDE } from '../../runtime/platform/platform.js';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { INDIRECT, NEXT, type RawDescriptor, splitTable, WRITE } from '../support/raw-rings.js';
import { DATA, splitRig, take } from './device-rig.js';

const test = suite('split ring, device side');

const readable = (length = 16, at = 0): RawDescriptor => ({ address: DATA + at, length });
const writable = (length = 16, at = 0): RawDescriptor => ({ address: DATA + at, length, flags: WRITE });

/** Offers one chain in slots 0, 1, … and says why the queue refuses it; null when it does not. */
function verdict(
  buffers: readonly RawDescriptor[],
  options: Parameters<typeof splitRig>[0] = {},
): string | null {
  const rig = splitRig(options);
  rig.ring.chain(
    buffers.map((_, i) => i),
    buffers,
  );
  rig.ring.offer(0);
  const chains = take(rig);
  assert.is(chains.length, rig.queue.broken === null ? 1 : 0);
  return rig.queue.broken?.code ?? null;
}

/** The same for an indirect table of these descriptors, taken as they are. */
function tableVerdict(
  table: readonly RawDescriptor[],
  pointer: Partial<RawDescriptor> = {},
  options: Parameters<typeof splitRig>[0] = {},
): string | null {
  const rig = splitRig(options);
  rig.guest.write(DATA + 0x4000, splitTable(table));
  rig.ring.descriptor(0, {
    address: DATA + 0x4000,
    length: table.length * 16,
    flags: INDIRECT,
    ...pointer,
  });
  rig.ring.offer(0);
  take(rig);
  return rig.queue.broken?.code ?? null;
}

test('a zeroed ring has nothing available', () => {
  const { queue } = splitRig();
  assert.not(queue.hasAvailable());
  assert.is(queue.drain(new ChainBatch(8, 8), 8), 0);
  assert.is(queue.broken, null);
});

test('chains come out in ring order, readable segments first, and go back with their lengths', () => {
  const rig = splitRig();
  const { ring, queue } = rig;
  ring.chain([3, 1, 6], [readable(16), readable(512, 0x100), writable(1, 0x400)]);
  ring.chain([0], [writable(64, 0x800)]);
  ring.offer(3, 0);
  assert.ok(queue.hasAvailable());
  const batch = new ChainBatch(8, 16);
  const chains = take(rig, 8, batch);
  assert.equal(chains, [
    {
      handle: 3,
      readable: [
        [DATA, 16],
        [DATA + 0x100, 512],
      ],
      writable: [[DATA + 0x400, 1]],
    },
    { handle: 0, readable: [], writable: [[DATA + 0x800, 64]] },
  ]);
  assert.is(queue.inFlight, 2);
  batch.written.set([1, 60]);
  queue.pushBatch(batch, 2);
  assert.is(ring.usedIndex, 2);
  assert.equal(
    [ring.used(0), ring.used(1)],
    [
      { id: 3, length: 1 },
      { id: 0, length: 60 },
    ],
  );
  assert.is(queue.inFlight, 0);
  assert.not(queue.hasAvailable());
  assert.equal(
    { ...queue.counters },
    {
      chains: 2,
      segments: 4,
      completed: 2,
      publishes: 1,
      calls: 0,
      kicks: 0,
    },
  );
});

test('a drain takes at most what was asked for and what the batch holds', () => {
  const rig = splitRig();
  for (let i = 0; i < 8; i++) rig.ring.chain([i], [writable()]);
  rig.ring.offer(0, 1, 2, 3, 4, 5, 6, 7);
  assert.is(take(rig, 3).length, 3);
  assert.is(take(rig, 64, new ChainBatch(2, 64)).length, 2);
  assert.is(take(rig).length, 3);
});

for (const size of [1, 2, 4, 256, 32768]) {
  test(`a ring of ${size} goes round its 16-bit index more than once`, () => {
    const rig = splitRig({
      size,
      regions: [{ address: 0, size: 0x20_0000 }],
      state: { format: 'split', nextAvailable: 0xfffe, nextUsed: 0xfffe },
    });
    const { ring, queue } = rig;
    ring.availableIndex = ring.usedIndex = 0xfffe;
    const batch = new ChainBatch(4, 4);
    for (let lap = 0; lap < 6; lap++) {
      const head = lap % size;
      ring.chain([head], [writable(16, 0x100 * lap)]);
      ring.offer(head);
      assert.equal(take(rig, 4, batch), [
        { handle: head, readable: [], writable: [[DATA + 0x100 * lap, 16]] },
      ]);
      queue.pushBatch(batch, 1);
      assert.is(ring.usedIndex, (0xfffe + lap + 1) & 0xffff);
      assert.is(ring.used(0xfffe + lap).id, head);
    }
    assert.is(queue.broken, null);
  });
}

test('chains are completed out of order and at any later time', () => {
  const rig = splitRig();
  const { ring, queue } = rig;
  for (let i = 0; i < 3; i++) ring.chain([i], [writable()]);
  ring.offer(0, 1, 2);
  take(rig);
  queue.complete(2, 5);
  assert.is(ring.usedIndex, 0, 'not before publish');
  queue.publish();
  assert.is(ring.usedIndex, 1);
  queue.complete(0, 0);
  queue.complete(1, 16);
  queue.publish();
  assert.equal(
    [0, 1, 2].map((i) => ring.used(i)),
    [
      { id: 2, length: 5 },
      { id: 0, length: 0 },
      { id: 1, length: 16 },
    ],
  );
});

test('packed 33, split: with IN_ORDER completions wait for their predecessors', () => {
  const rig = splitRig({ inOrder: true });
  const { ring, queue } = rig;
  for (let i = 0; i < 4; i++) ring.chain([i], [writable()]);
  ring.offer(0, 1, 2, 3);
  take(rig);
  queue.complete(2, 12);
  queue.complete(1, 11);
  queue.publish();
  assert.is(ring.usedIndex, 0);
  assert.is(queue.inFlight, 4);
  assert.throws(
    () => queue.complete(1, 11),
    (error: { code: string }) => error.code === 'ERR_VIRTQ_HANDLE',
  );
  queue.complete(0, 10);
  queue.publish();
  assert.equal(
    [0, 1, 2].map((i) => ring.used(i)),
    [
      { id: 0, length: 10 },
      { id: 1, length: 11 },
      { id: 2, length: 12 },
    ],
  );
  assert.is(ring.usedIndex, 3);
  assert.is(queue.inFlight, 1);
});

// --- what the device may complete

test('C23: a device cannot complete what is not in flight, twice, or with more than is writable', () => {
  const rig = splitRig();
  const { ring, queue } = rig;
  ring.chain([4, 5], [readable(8), writable(16)]);
  ring.offer(4);
  take(rig);
  const refused = (handle: number, written: number, code: string): void =>
    assert.throws(
      () => queue.complete(handle, written),
      (error: { code: string }) => error.code === code,
    );
  for (const handle of [5, 3, -1, 8, 1.5, NaN, 0x1_0004]) refused(handle, 0, 'ERR_VIRTQ_HANDLE');
  for (const written of [17, -1, NaN, 0x1_0000_0001]) refused(4, written, 'ERR_VIRTQ_USED');
  queue.complete(4, 16);
  refused(4, 16, 'ERR_VIRTQ_HANDLE');
  queue.publish();
  assert.is(ring.usedIndex, 1);
  assert.is(queue.broken, null, 'a defect of the device does not break the ring');
});

test('a batch with a wrong row publishes the rows before it and says which chain is wrong', () => {
  const rig = splitRig();
  const { ring, queue } = rig;
  ring.chain([0], [writable(4)]);
  ring.chain([1], [writable(4)]);
  ring.offer(0, 1);
  const batch = new ChainBatch(8, 8);
  take(rig, 8, batch);
  batch.written.set([4, 5]);
  assert.throws(() => queue.pushBatch(batch, 2), /chain 1: 5 bytes written, 4 are writable/);
  assert.is(ring.usedIndex, 1);
  assert.is(queue.inFlight, 1);
  assert.throws(() => queue.pushBatch(batch, 3), /batch that holds 2/);
});

// --- heads and indexes

test('C4: a head outside the ring is refused', () => {
  for (const head of [8, 9, 0xffff]) {
    const rig = splitRig();
    rig.ring.offer(head);
    assert.equal(take(rig), []);
    assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_HEAD');
  }
});

test('C20: the available index may not announce more than the ring holds, in flight counted', () => {
  const rig = splitRig();
  rig.ring.availableIndex = 9;
  assert.equal(take(rig), []);
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_AVAILABLE_INDEX');

  const busy = splitRig();
  for (let i = 0; i < 8; i++) busy.ring.chain([i], [writable()]);
  busy.ring.offer(0, 1, 2, 3, 4);
  assert.is(take(busy).length, 5);
  busy.ring.offer(5, 6, 7, 0);
  assert.equal(take(busy), []);
  assert.is(busy.queue.broken?.code, 'ERR_VIRTQ_AVAILABLE_INDEX');
});

test('an available index that goes back is refused', () => {
  const rig = splitRig();
  rig.ring.chain([0], [writable()]);
  rig.ring.offer(0);
  assert.is(take(rig).length, 1);
  rig.ring.availableIndex = 0;
  assert.equal(take(rig), []);
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_AVAILABLE_INDEX');
});

test('packed 19, split: a head that is in flight is refused, in one batch and later', () => {
  const once = splitRig();
  once.ring.chain([2], [writable()]);
  once.ring.offer(2, 2);
  assert.is(take(once).length, 1, 'the good chain before it is served');
  assert.is(once.queue.broken?.code, 'ERR_VIRTQ_HEAD');

  const later = splitRig();
  later.ring.chain([2], [writable()]);
  later.ring.offer(2);
  assert.is(take(later).length, 1);
  later.ring.offer(2);
  assert.is(take(later).length, 0);
  assert.is(later.queue.broken?.code, 'ERR_VIRTQ_HEAD');
});

test('a broken queue stays broken with its first reason; what is in flight can still be completed', () => {
  const rig = splitRig();
  const { ring, queue } = rig;
  ring.chain([0], [writable()]);
  ring.offer(0, 9);
  assert.is(take(rig).length, 1);
  const reason = queue.broken;
  assert.ok(reason);
  ring.chain([1], [writable()]);
  ring.offer(1);
  assert.is(take(rig).length, 0);
  assert.not(queue.hasAvailable());
  assert.not(queue.enableNotifications());
  assert.is(queue.broken, reason);
  queue.complete(0, 0);
  queue.publish();
  assert.is(ring.usedIndex, 1);
  assert.equal(queue.state(), { format: 'split', nextAvailable: 1, nextUsed: 1 });
});

// --- chains

test('a chain as long as the ring is taken, one longer or looping is refused', () => {
  assert.is(verdict(Array.from({ length: 8 }, () => writable())), null);
  const loop = splitRig();
  for (let i = 0; i < 8; i++)
    loop.ring.descriptor(i, { ...writable(), flags: WRITE | NEXT, next: (i + 1) % 8 });
  loop.ring.offer(0);
  assert.equal(take(loop, 64, new ChainBatch(8, 4096)), []);
  assert.is(loop.queue.broken?.code, 'ERR_VIRTQ_CHAIN');
});

test('C13: a descriptor that names itself, and a next outside the table', () => {
  for (const next of [0, 8, 0xffff]) {
    const rig = splitRig();
    rig.ring.descriptor(0, { ...writable(), flags: WRITE | NEXT, next });
    rig.ring.offer(0);
    assert.equal(take(rig), []);
    assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_CHAIN', `next ${next}`);
  }
});

test('packed 27, split: a readable descriptor behind a writable one is refused, empty ones too', () => {
  assert.is(verdict([writable(), readable()]), 'ERR_VIRTQ_ORDER');
  assert.is(verdict([readable(), writable(), readable()]), 'ERR_VIRTQ_ORDER');
  assert.is(verdict([writable(0), readable(0)]), 'ERR_VIRTQ_ORDER');
  assert.is(verdict([readable(), writable(), writable()]), null);
});

test('C6, C21: an empty descriptor takes no segment and its address is not looked at', () => {
  const rig = splitRig();
  rig.ring.chain(
    [0, 1, 2],
    [
      { address: 0xdead_beef_dead_beefn, length: 0 },
      readable(4),
      { address: ~0n & 0xffff_ffff_ffff_ffffn, length: 0, flags: WRITE },
    ],
  );
  rig.ring.offer(0);
  assert.equal(take(rig), [{ handle: 0, readable: [[DATA, 4]], writable: [] }]);
  const empty = splitRig();
  empty.ring.chain([0], [{ address: 0, length: 0 }]);
  empty.ring.offer(0);
  assert.equal(take(empty), [{ handle: 0, readable: [], writable: [] }]);
  const loop = splitRig();
  loop.ring.descriptor(0, { address: 0, length: 0, flags: NEXT, next: 0 });
  loop.ring.offer(0);
  assert.equal(take(loop), []);
  assert.is(loop.queue.broken?.code, 'ERR_VIRTQ_CHAIN');
});

test('C15: unknown flag bits do no harm', () => {
  const rig = splitRig();
  rig.ring.descriptor(0, { ...writable(), flags: 0xfff8 | WRITE });
  rig.ring.offer(0);
  assert.equal(take(rig)[0]?.writable, [[DATA, 16]]);
  assert.is(rig.queue.broken, null);
});

// --- buffers in memory

const END = 0x10_0000;

test('C1: a buffer ends with memory, and not one byte later', () => {
  assert.is(verdict([{ address: END - 16, length: 16 }]), null);
  assert.is(verdict([{ address: END - 16, length: 17 }]), 'ERR_VIRTQ_ADDRESS');
  assert.is(verdict([{ address: END, length: 1 }]), 'ERR_VIRTQ_ADDRESS');
  for (const address of [
    1n << 52n,
    1n << 53n,
    (1n << 63n) + 5n,
    0xffff_ffff_ffff_fff0n,
    (1n << 32n) + 0x8_0000n,
  ]) {
    assert.is(verdict([{ address, length: 32 }]), 'ERR_VIRTQ_ADDRESS', `0x${address.toString(16)}`);
  }
  assert.is(verdict([{ address: 0, length: 0xffff_ffff }]), 'ERR_VIRTQ_ADDRESS');
});

const TWO_REGIONS = [
  { address: 0, size: 0x10_0000 },
  { address: 0x10_0000, size: 0x10_0000 },
  { address: 0x40_0000, size: 0x10_0000 },
];

test('C1, C25: a buffer that runs from one region into the next is cut, one that runs into a hole is refused', () => {
  const rig = splitRig({ regions: TWO_REGIONS });
  rig.ring.chain([0, 1], [{ address: END - 10, length: 30 }, writable()]);
  rig.ring.offer(0);
  assert.equal(take(rig), [
    {
      handle: 0,
      readable: [
        [END - 10, 10],
        [END, 20],
      ],
      writable: [[DATA, 16]],
    },
  ]);
  assert.is(verdict([{ address: 0x20_0000 - 8, length: 16 }], { regions: TWO_REGIONS }), 'ERR_VIRTQ_ADDRESS');
  assert.is(verdict([{ address: 0x30_0000, length: 1 }], { regions: TWO_REGIONS }), 'ERR_VIRTQ_ADDRESS');
  assert.is(verdict([{ address: 0x40_0000, length: 16 }], { regions: TWO_REGIONS }), null);
});

test('buffers longer than a segment, across windows and across 4 GiB are cut and lose no byte', () => {
  const base = 0xf000_0000;
  const regions = [
    { address: 0, size: 0x10_0000 },
    { address: base, size: 2.5 * WINDOW_STRIDE },
  ];
  const rig = splitRig({ regions });
  const length = 2 * WINDOW_STRIDE + 0x1234;
  rig.ring.chain(
    [0, 1, 2],
    [{ address: base + 5, length }, writable(), { address: 0xffff_fff0, length: 0x20, flags: WRITE }],
  );
  rig.ring.offer(0);
  const [chain] = take(rig);
  assert.ok(chain, rig.queue.broken?.message ?? '');
  let next = base + 5;
  for (const [address, piece] of chain.readable) {
    assert.is(address, next);
    assert.ok(piece > 0 && piece <= SEGMENT_MAX);
    next += piece;
  }
  assert.is(next, base + 5 + length);
  assert.is(
    chain.writable.reduce((sum, [, piece]) => sum + piece, 0),
    0x30,
  );
  // Behind the boundary, in the middle of a window.
  rig.ring.chain([4], [{ address: 0x1_0000_0010, length: 64 }]);
  rig.ring.offer(4);
  assert.equal(take(rig), [{ handle: 4, readable: [[0x1_0000_0010, 64]], writable: [] }]);
});

test('the low words of two regions 4 GiB apart are not mixed up', () => {
  const regions = [
    { address: 0, size: 0x10_0000 },
    { address: 0x3_0000_0000, size: 0x10_0000 },
  ];
  const rig = splitRig({ regions });
  rig.ring.chain([0, 1, 2], [readable(4), { address: 0x3_0000_0000 + DATA, length: 8 }, readable(12)]);
  rig.ring.offer(0);
  assert.equal(take(rig)[0]?.readable, [
    [DATA, 4],
    [0x3_0000_0000 + DATA, 8],
    [DATA, 12],
  ]);
  assert.is(verdict([{ address: 0x1_0000_0000 + DATA, length: 8 }], { regions }), 'ERR_VIRTQ_ADDRESS');
});

test('C24: a chain of more than 2^32 bytes is refused, one of exactly 2^32 is taken', () => {
  const region = { address: 0x1_0000_0000, size: WINDOW_STRIDE };
  const regions = [{ address: 0, size: 0x10_0000 }, region];
  const whole = Array.from({ length: 4 }, () => ({ address: region.address, length: WINDOW_STRIDE }));
  assert.is(verdict(whole, { regions }), null);
  assert.is(verdict([...whole, readable(1)], { regions }), 'ERR_VIRTQ_CHAIN');
});

// --- indirect tables

test('packed 26, split: direct and indirect chains mix in one ring', () => {
  const rig = splitRig();
  rig.guest.write(
    DATA + 0x4000,
    splitTable([{ ...readable(16), flags: NEXT, next: 2 }, { address: 0, length: 0 }, writable(512, 0x100)]),
  );
  rig.ring.descriptor(5, { address: DATA + 0x4000, length: 48, flags: INDIRECT });
  rig.ring.chain([0, 1], [readable(1), writable(2)]);
  rig.ring.offer(0, 5, 1);
  assert.equal(take(rig), [
    { handle: 0, readable: [[DATA, 1]], writable: [[DATA, 2]] },
    { handle: 5, readable: [[DATA, 16]], writable: [[DATA + 0x100, 512]] },
    { handle: 1, readable: [], writable: [[DATA, 2]] },
  ]);
});

test('a direct chain that ends in an indirect descriptor is taken', () => {
  const rig = splitRig();
  rig.guest.write(DATA + 0x4000, splitTable([{ ...readable(32), flags: NEXT, next: 1 }, writable(64)]));
  rig.ring.chain([0, 1], [readable(8), { address: DATA + 0x4000, length: 32, flags: INDIRECT }]);
  rig.ring.offer(0);
  assert.equal(take(rig), [
    {
      handle: 0,
      readable: [
        [DATA, 8],
        [DATA, 32],
      ],
      writable: [[DATA, 64]],
    },
  ]);
});

test('packed 25, split: WRITE on the indirect pointer is ignored, NEXT is refused', () => {
  assert.is(tableVerdict([readable()], { flags: INDIRECT | WRITE }), null);
  assert.is(tableVerdict([readable()], { flags: INDIRECT | NEXT }), 'ERR_VIRTQ_INDIRECT');
});

test('packed 24, split: length of an indirect table, tables in tables, links that leave the table', () => {
  assert.is(tableVerdict([readable()], { length: 0 }), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([readable()], { length: 17 }), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([readable()], { length: 16 * 8 }), null);
  assert.is(tableVerdict([readable()], { length: 16 * 9 }), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([{ ...readable(), flags: NEXT, next: 1 }]), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([{ ...readable(), flags: NEXT, next: 0 }]), 'ERR_VIRTQ_CHAIN');
  assert.is(tableVerdict([{ address: DATA + 0x4000, length: 16, flags: INDIRECT }]), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict([{ ...writable(), flags: WRITE | NEXT, next: 1 }, readable()]), 'ERR_VIRTQ_ORDER');
});

test('C1: what lies behind an indirect table is not part of it', () => {
  const entry = { ...writable(), flags: WRITE | NEXT, next: 1 };
  const code = tableVerdict([entry, writable(16, 0x100)], { length: 16 });
  assert.is(code, 'ERR_VIRTQ_INDIRECT');
});

test('a table in a table is refused even where the outer one looks like the ring', () => {
  // As many entries as the ring has descriptors, at the start of a window.
  const regions = [
    { address: 0, size: 0x10_0000 },
    { address: 0x20_0000, size: 0x1000 },
  ];
  const rig = splitRig({ regions });
  const table = Array.from({ length: 8 }, () => ({ address: 0x20_0000, length: 128, flags: INDIRECT }));
  rig.guest.write(0x20_0000, splitTable(table));
  rig.ring.descriptor(0, { address: 0x20_0000, length: 128, flags: INDIRECT });
  rig.ring.offer(0);
  assert.equal(take(rig), []);
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_INDIRECT');
});

test('a chain is no longer than the ring, its indirect part included', () => {
  const entries = (count: number): RawDescriptor[] =>
    Array.from({ length: count }, (_, i) => ({
      ...writable(),
      flags: WRITE | (i + 1 < count ? NEXT : 0),
      next: i + 1,
    }));
  assert.is(tableVerdict(entries(8)), null);
  const rig = splitRig();
  rig.guest.write(DATA + 0x4000, splitTable(entries(8)));
  rig.ring.chain([0, 1], [readable(), { address: DATA + 0x4000, length: 128, flags: INDIRECT }]);
  rig.ring.offer(0);
  take(rig);
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_CHAIN');
});

test("a device's own limit may allow indirect tables longer than the ring, as Linux makes them on small queues", () => {
  const entries = (count: number): RawDescriptor[] =>
    Array.from({ length: count }, (_, i) => ({
      ...writable(),
      flags: WRITE | (i + 1 < count ? NEXT : 0),
      next: i + 1,
    }));
  assert.is(tableVerdict(entries(9)), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict(entries(9), {}, { chainLimit: 20 }), null);
  assert.is(tableVerdict(entries(20), {}, { chainLimit: 20 }), null);
  assert.is(tableVerdict(entries(21), {}, { chainLimit: 20 }), 'ERR_VIRTQ_INDIRECT');
  assert.is(tableVerdict(entries(8), {}, { chainLimit: 2 }), null);
  const loop = entries(20);
  loop[19] = { ...writable(), flags: WRITE | NEXT, next: 0 };
  assert.is(tableVerdict(loop, {}, { chainLimit: 20 }), 'ERR_VIRTQ_CHAIN');
});

test('indirect descriptors that were not negotiated are refused', () => {
  assert.is(tableVerdict([readable()], {}, { indirect: false }), 'ERR_VIRTQ_INDIRECT');
});

test('packed 28, C1, C16: an indirect table over a region border, at an odd address, and half outside', () => {
  const table = splitTable([
    { ...readable(16), flags: NEXT, next: 1 },
    { ...readable(8), flags: NEXT, next: 2 },
    writable(512, 0x100),
  ]);
  for (const address of [END - 16, END - 20, END - 24, END - 40, DATA + 0x4001, DATA + 0x4002]) {
    const rig = splitRig({ regions: TWO_REGIONS });
    rig.guest.write(address, table);
    rig.ring.descriptor(0, { address, length: 48, flags: INDIRECT });
    rig.ring.offer(0);
    assert.equal(
      take(rig),
      [
        {
          handle: 0,
          readable: [
            [DATA, 16],
            [DATA, 8],
          ],
          writable: [[DATA + 0x100, 512]],
        },
      ],
      `0x${address.toString(16)}: ${rig.queue.broken?.message}`,
    );
  }
  const outside = splitRig();
  outside.guest.write(END - 16, table.subarray(0, 16));
  outside.ring.descriptor(0, { address: END - 16, length: 48, flags: INDIRECT });
  outside.ring.offer(0);
  assert.equal(take(outside), []);
  assert.is(outside.queue.broken?.code, 'ERR_VIRTQ_INDIRECT');
});

// --- room in the batch

test('a chain that does not fit any more waits for the next drain; one that never can breaks the queue', () => {
  const rig = splitRig();
  rig.ring.chain([0, 1], [readable(), writable()]);
  rig.ring.chain([2, 3, 4], [readable(), readable(), writable()]);
  rig.ring.offer(0, 2);
  const batch = new ChainBatch(8, 4);
  assert.equal(
    take(rig, 8, batch).map((chain) => chain.handle),
    [0],
  );
  assert.equal(
    take(rig, 8, batch).map((chain) => chain.handle),
    [2],
  );
  assert.is(rig.queue.broken, null);
  rig.ring.chain([5], [readable()]);
  rig.ring.offer(5);
  assert.equal(take(rig, 8, new ChainBatch(8, 0)), []);
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_CHAIN');
});

// --- notification

test('without EVENT_IDX the flags words rule', () => {
  const rig = splitRig();
  const { ring, queue } = rig;
  assert.not(queue.needsCall(), 'nothing was published');
  const serve = (): boolean => {
    ring.chain([0], [writable()]);
    ring.offer(0);
    take(rig);
    queue.complete(0, 0);
    queue.publish();
    return queue.needsCall();
  };
  assert.ok(serve());
  assert.not(queue.needsCall(), 'asked already');
  ring.availableFlags = 1;
  assert.not(serve());
  ring.availableFlags = 0;
  assert.ok(serve());
  queue.disableNotifications();
  assert.is(ring.usedFlags, 1);
  assert.not(queue.enableNotifications());
  assert.is(ring.usedFlags, 0);
  assert.is(queue.counters.calls, 2);
});

test('packed 6, split: enabling tells of chains that came before it', () => {
  for (const eventIdx of [false, true]) {
    const rig = splitRig({ eventIdx });
    rig.queue.disableNotifications();
    rig.ring.chain([0], [writable()]);
    rig.ring.offer(0);
    assert.ok(rig.queue.enableNotifications());
    take(rig);
    assert.not(rig.queue.enableNotifications());
  }
});

/** Serves `count` chains in one batch. */
function serveMany(rig: ReturnType<typeof splitRig>, count: number): boolean {
  const batch = new ChainBatch(64, 64);
  for (let i = 0; i < count; i++) {
    rig.ring.chain([i], [writable()]);
    rig.ring.offer(i);
  }
  assert.is(rig.queue.drain(batch, 64), count);
  rig.queue.pushBatch(batch, count);
  return rig.queue.needsCall();
}

test('with EVENT_IDX the driver is called when its event is passed, and the flags words are left at 0', () => {
  const rig = splitRig({ eventIdx: true });
  const { ring, queue } = rig;
  ring.usedFlags = 1;
  ring.availableFlags = 1;
  assert.not(queue.enableNotifications());
  assert.is(ring.usedFlags, 0);
  assert.is(ring.availableEvent, 0);
  assert.ok(serveMany(rig, 1), 'packed 40, split: the first call of a run always comes');
  ring.usedEvent = 3;
  assert.not(serveMany(rig, 2), 'elements 1 and 2');
  assert.ok(serveMany(rig, 1), 'element 3');
  assert.not(serveMany(rig, 1), 'element 4');
  ring.usedEvent = 7;
  assert.ok(serveMany(rig, 5), 'packed 39, split: element 7 in the midst of 5 to 9');
  queue.enableNotifications();
  assert.is(ring.availableEvent, 10);
  queue.disableNotifications();
  assert.is(ring.usedFlags, 0);
});

test('the used event is passed across the end of the 16-bit index', () => {
  const rig = splitRig({
    eventIdx: true,
    state: { format: 'split', nextAvailable: 0xfffd, nextUsed: 0xfffd },
  });
  rig.ring.availableIndex = rig.ring.usedIndex = 0xfffd;
  serveMany(rig, 1);
  rig.ring.usedEvent = 0;
  assert.not(serveMany(rig, 2), '0xfffe and 0xffff');
  assert.ok(serveMany(rig, 1), '0');
});

test('packed 40, split: after a resume the first call comes whatever the event says', () => {
  const rig = splitRig({ eventIdx: true, state: { format: 'split', nextAvailable: 100, nextUsed: 100 } });
  rig.ring.availableIndex = rig.ring.usedIndex = 100;
  rig.ring.usedEvent = 50;
  assert.ok(serveMany(rig, 1));
  assert.not(serveMany(rig, 1));
});

test('when the index went all the way round unasked, the driver is called', () => {
  const rig = splitRig({ eventIdx: true, size: 64, regions: [{ address: 0, size: 0x10_0000 }] });
  serveMany(rig, 1);
  rig.ring.usedEvent = 0;
  const batch = new ChainBatch(64, 64);
  for (let i = 0; i < 64; i++) rig.ring.chain([i], [writable()]);
  for (let served = 0; served < 0x1_0000; served += 64) {
    for (let i = 0; i < 64; i++) rig.ring.offer(i);
    rig.queue.drain(batch, 64);
    rig.queue.pushBatch(batch, 64);
  }
  assert.ok(rig.queue.needsCall());
});

// --- state and memory

test('packed 43, split: state survives a stop with chains in flight', () => {
  const rig = splitRig();
  for (let i = 0; i < 3; i++) rig.ring.chain([i], [writable()]);
  rig.ring.offer(0, 1, 2);
  take(rig, 2);
  rig.queue.complete(1, 0);
  assert.equal(
    rig.queue.state(),
    { format: 'split', nextAvailable: 2, nextUsed: 0 },
    'only what the driver sees',
  );
  rig.queue.publish();
  const state = rig.queue.state();
  assert.equal(state, { format: 'split', nextAvailable: 2, nextUsed: 1 });
  const resumed = splitRig({ guest: rig.guest, state });
  assert.equal(
    take(resumed).map((chain) => chain.handle),
    [2],
  );
  resumed.queue.complete(2, 7);
  resumed.queue.publish();
  assert.equal(rig.ring.used(1), { id: 2, length: 7 });
});

test('packed 28, split: the ring goes on in a new memory map', () => {
  const rig = splitRig();
  const { guest, ring, queue } = rig;
  ring.chain([0], [writable()]);
  ring.offer(0);
  take(rig);
  queue.complete(0, 3);
  const memory = guest.mapAgain();
  queue.rebind(memory, guest.areas(ring.descriptorAddress, ring.driverAddress, ring.deviceAddress, memory));
  assert.is(ring.usedIndex, 1, 'what was completed is published first');
  guest.memory.release();
  ring.chain([1], [writable(32, 0x40)]);
  ring.offer(1);
  const batch = new ChainBatch(4, 4);
  assert.is(queue.drain(batch, 4), 1);
  const [window, offset, length] = batch.segments;
  assert.equal({ window, offset }, memory.translate(DATA + 0x40, 32));
  assert.is(length, 32);
});

test('memory that was truncated or unmapped breaks the queue and nothing throws', () => {
  const truncated = splitRig();
  truncated.ring.chain([0], [writable()]);
  truncated.ring.offer(0);
  truncated.guest.truncate();
  truncated.ring.availableIndex = 1;
  assert.equal(take(truncated), []);
  assert.is(truncated.queue.broken?.code, 'ERR_VIRTQ_MEMORY_LOST');

  const unmapped = splitRig();
  unmapped.ring.chain([0], [writable()]);
  unmapped.ring.offer(0);
  take(unmapped);
  unmapped.guest.memory.release();
  assert.not(unmapped.queue.hasAvailable());
  unmapped.queue.complete(0, 1);
  unmapped.queue.publish();
  assert.not(unmapped.queue.needsCall());
  assert.not(unmapped.queue.enableNotifications());
  unmapped.queue.disableNotifications();
  assert.is(unmapped.queue.drain(new ChainBatch(1, 1), 1), 0);
  assert.is(unmapped.queue.broken?.code, 'ERR_VIRTQ_MEMORY_LOST');
});

test.run();
