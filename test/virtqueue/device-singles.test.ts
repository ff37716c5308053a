/** Chains of one descriptor have a loop of their own on the device's side: what it takes, and where it hands over. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { INDIRECT, packedTable, type RawDescriptor, splitTable, WRITE } from '../support/raw-rings.js';
import { DATA, packedRig, type RigOptions, splitRig, take } from './device-rig.js';

const test = suite('chains of one descriptor');

const END = 0x10_0000;
/** Not where a page of 4 GiB starts, so that there are addresses in front of it in the same one. */
const HIGH = 0x1_0010_0000;
const TABLE = 0x4_0000;
const REGIONS = [
  { address: 0, size: END },
  { address: HIGH, size: END },
];

const readable = (address: number, length = 16): RawDescriptor => ({ address, length });
const writable = (address: number, length = 16): RawDescriptor => ({ address, length, flags: WRITE });

/** A rig of either format; `offer` makes a chain available under a free id, for a split ring that of its first slot. */
function rigOf(format: 'split' | 'packed', options: RigOptions = {}) {
  if (format === 'packed') {
    const rig = packedRig({ size: 32, regions: REGIONS, ...options });
    return { ...rig, offer: (id: number, chain: RawDescriptor[]) => rig.ring.offer(id, chain) };
  }
  const rig = splitRig({ size: 32, regions: REGIONS, ...options });
  const offer = (id: number, chain: RawDescriptor[]): void => {
    rig.ring.chain(
      chain.map((_, i) => id + i),
      chain,
    );
    rig.ring.offer(id);
  };
  return { ...rig, offer };
}

for (const format of ['split', 'packed'] as const) {
  test(`${format}: in turns with longer chains and tables, in two regions, each is taken as it is`, () => {
    const rig = rigOf(format);
    const table = [readable(DATA), writable(HIGH + 64)];
    rig.guest.write(
      TABLE,
      format === 'packed'
        ? packedTable(table)
        : splitTable(table.map((one, i) => (i === 0 ? { ...one, flags: 1, next: 1 } : one))),
    );
    rig.offer(0, [readable(DATA)]);
    rig.offer(2, [writable(HIGH)]);
    rig.offer(4, [readable(HIGH + 0x1000, 1)]);
    rig.offer(6, [readable(DATA), writable(HIGH)]);
    rig.offer(8, [writable(END - 1, 1)]);
    rig.offer(10, [{ address: TABLE, length: 32, flags: INDIRECT }]);
    rig.offer(12, [writable(DATA, 0x2000)]);
    assert.equal(take(rig), [
      { handle: 0, readable: [[DATA, 16]], writable: [] },
      { handle: 2, readable: [], writable: [[HIGH, 16]] },
      { handle: 4, readable: [[HIGH + 0x1000, 1]], writable: [] },
      { handle: 6, readable: [[DATA, 16]], writable: [[HIGH, 16]] },
      { handle: 8, readable: [], writable: [[END - 1, 1]] },
      { handle: 10, readable: [[DATA, 16]], writable: [[HIGH + 64, 16]] },
      { handle: 12, readable: [], writable: [[DATA, 0x2000]] },
    ]);
    assert.is(rig.queue.broken, null);
    assert.is(rig.queue.counters.segments, 9);
  });

  test(`${format}: a batch with room for fewer segments than chains leaves the rest for the next`, () => {
    const rig = rigOf(format);
    for (let id = 0; id < 10; id++) rig.offer(id, [writable(DATA + id * 16)]);
    const batch = new ChainBatch(8, 4);
    for (const expected of [
      [0, 1, 2, 3],
      [4, 5, 6],
      [7, 8, 9],
    ]) {
      const chains = take(rig, expected[0] === 4 ? 3 : 8, batch);
      assert.equal(
        chains.map(({ handle }) => handle),
        expected,
      );
      batch.written.fill(16);
      rig.queue.pushBatch(batch, batch.count);
    }
    assert.is(rig.queue.inFlight, 0);
    assert.is(rig.queue.broken, null);
  });

  test(`${format}: none is reported longer than it is, and one that is readable not at all`, () => {
    for (const [chain, most] of [
      [writable(DATA, 24), 24],
      [readable(DATA, 24), 0],
    ] as const) {
      const rig = rigOf(format);
      rig.offer(0, [chain]);
      assert.is(take(rig).length, 1);
      assert.throws(() => rig.queue.complete(0, most + 1), /bytes written/);
      rig.queue.complete(0, most);
      assert.throws(() => rig.queue.complete(0, 0), /not in flight/);
    }
  });

  test(`${format}: one whose only buffer is empty has no segments`, () => {
    const rig = rigOf(format);
    rig.offer(0, [readable(DATA)]);
    rig.offer(1, [writable(DATA, 0)]);
    rig.offer(2, [readable(HIGH)]);
    assert.equal(take(rig), [
      { handle: 0, readable: [[DATA, 16]], writable: [] },
      { handle: 1, readable: [], writable: [] },
      { handle: 2, readable: [[HIGH, 16]], writable: [] },
    ]);
  });

  const spoilt: readonly (readonly [string, number, RawDescriptor, string])[] = [
    ['outside memory', 2, readable(2 * END), 'ERR_VIRTQ_ADDRESS'],
    ['longer than 2 GiB', 2, readable(HIGH, 0xf000_0000), 'ERR_VIRTQ_ADDRESS'],
    ['in front of the region of the one before', 2, readable(HIGH - 16), 'ERR_VIRTQ_ADDRESS'],
    ['across the end of memory', 2, writable(HIGH + END - 8), 'ERR_VIRTQ_ADDRESS'],
    ['with an id that is in flight', 0, readable(DATA), 'ERR_VIRTQ_HEAD'],
  ];
  for (const [what, id, descriptor, code] of spoilt) {
    test(`${format}: those before one ${what} are taken; it breaks the queue`, () => {
      const rig = rigOf(format);
      rig.offer(0, [readable(DATA)]);
      rig.offer(1, [readable(HIGH)]);
      rig.offer(id, [descriptor]);
      assert.equal(
        take(rig).map(({ handle }) => handle),
        [0, 1],
      );
      assert.is(rig.queue.broken?.code, code);
      assert.equal(take(rig), []);
    });
  }
}

test('packed: more of them than the ring has slots free break the queue', () => {
  const rig = rigOf('packed', { size: 4 });
  rig.offer(0, [readable(DATA), readable(DATA), readable(DATA)]);
  assert.is(take(rig).length, 1);
  rig.offer(1, [readable(DATA)]);
  rig.offer(2, [readable(DATA)]);
  assert.equal(
    take(rig).map(({ handle }) => handle),
    [1],
  );
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_CHAIN');
});

test('packed: ids beyond the largest ring are not taken for others', () => {
  const rig = rigOf('packed', { size: 32768 });
  rig.offer(7, [readable(DATA)]);
  rig.offer(0x8008, [readable(DATA)]);
  assert.equal(
    take(rig).map(({ handle }) => handle),
    [7],
  );
  assert.is(rig.queue.broken?.code, 'ERR_VIRTQ_HEAD');
});

test.run();
