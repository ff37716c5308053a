/** What the driver's side of both ring formats promises, and what it does about a device that breaks the rules. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtqueueError } from '../../runtime/errors.js';
import { type DriverVirtqueue, UsedBatch } from '../../runtime/virtqueue/driver-virtqueue.js';
import { startDriverVirtqueue } from '../../runtime/virtqueue/start-driver.js';
import { type Buffer, Rig, type RigOptions } from './property-rig.js';

const test = suite('driver virtqueues');

const FORMATS = ['split', 'packed'] as const;

for (const format of FORMATS) {
  const rig = (options: Partial<RigOptions> = {}) => new Rig({ format, size: 4, ...options });

  test(`${format}: nothing is visible before publish, everything after it`, () => {
    const each = rig();
    add(each, 1, 1);
    add(each, 1, 0);
    assert.not(each.device.hasAvailable());
    assert.equal(each.drain(), []);
    each.driver.publish();
    assert.is(each.drain().length, 2);
  });

  test(`${format}: packed 30: a chain that does not fit takes no slot, and fits when slots are free again`, () => {
    const each = rig();
    const first = add(each, 2, 1);
    assert.is(add(each, 1, 1), -1);
    assert.is(each.driver.free, 1);
    assert.is(each.driver.inFlight, 1);
    each.driver.publish();
    each.drain();
    each.device.complete(first, 0);
    each.device.publish();
    assert.equal(each.collect(), [{ id: first, length: 0 }]);
    assert.ok(add(each, 1, 1) >= 0);
  });

  test(`${format}: an indirect chain takes one slot whatever its length`, () => {
    const each = rig({ indirectCapacity: 4 });
    for (let i = 0; i < 4; i++) assert.ok(add(each, 3, 1, true) >= 0);
    assert.is(each.driver.free, 0);
    assert.is(add(each, 1, 0, true), -1);
    each.driver.publish();
    assert.equal(
      each.drain().map((chain) => chain.buffers.length),
      [4, 4, 4, 4],
    );
  });

  test(`${format}: packed 26: direct and indirect chains share a ring`, () => {
    const each = rig({ indirectCapacity: 4 });
    add(each, 2, 1);
    add(each, 1, 2, true);
    each.driver.publish();
    const chains = each.drain();
    assert.equal(
      chains.map((chain) => chain.buffers.map((buffer) => buffer.writable)),
      [
        [false, false, true],
        [false, true, true],
      ],
    );
  });

  test(`${format}: a chain that could never be added is the caller's mistake`, () => {
    const each = rig({ indirectCapacity: 2 });
    for (const make of [
      () => add(each, 0, 0),
      () => add(each, 3, 2),
      () => add(each, 2, 1, true),
      () => each.driver.add(new Int32Array(8), 0, -1, 2),
    ]) {
      assert.throws(make, code('ERR_VIRTQ_CHAIN'));
    }
    const nowhere = { window: 77, offset: 0, length: 8, writable: false };
    const negative = { window: each.dataWindows[0]!, offset: 0, length: -8, writable: false };
    for (const wrong of [nowhere, negative]) {
      assert.throws(() => each.add([wrong]), code('ERR_VIRTQ_ADDRESS'));
      assert.throws(() => each.add([wrong], true), code('ERR_VIRTQ_ADDRESS'));
    }
    assert.is(each.driver.free, 4, 'and takes nothing');
    assert.is(each.driver.inFlight, 0);
    assert.ok(add(each, 1, 1) >= 0, 'the queue goes on');
  });

  test(`${format}: packed 19, 31: ids never issued, completed twice or with too many bytes latch the queue`, () => {
    const wrongs: [string, (each: Rig, id: number) => void, RegExp][] = [
      [
        'an id outside the ring',
        (each) => forge(each, 0, 4, 0),
        /chain 4 with 0 bytes written: the ring has ids 0 to 3/,
      ],
      ['an id not in flight', (each, id) => forge(each, 0, id ^ 1, 0), /not in flight/],
      [
        'too many bytes',
        (each, id) => forge(each, 0, id, 101),
        /101 bytes written: only 100 bytes are writable/,
      ],
      ['a length of 2^32 - 1', (each, id) => forge(each, 0, id, 0xffff_ffff), /only 100 bytes/],
    ];
    for (const [name, write, message] of wrongs) {
      for (const inOrder of [false, true]) {
        const each = rig({ inOrder });
        const id = add(each, 0, 1);
        each.driver.publish();
        each.drain();
        write(each, id);
        assert.equal(each.collect(), [], name);
        assert.is(each.driver.broken?.code, 'ERR_VIRTQ_USED', name);
        assert.match(each.driver.broken!.message, message);
        assert.is(each.driver.free, 3, `${name}: the chain stays taken`);
        assert.is(add(each, 1, 0), -1, 'nothing is added any more');
        assert.equal(each.collect(), [], 'nothing is collected any more');
      }
    }
  });

  test(`${format}: what came before a bad used entry is still handed out`, () => {
    const each = rig();
    const first = add(each, 0, 1);
    add(each, 0, 1);
    each.driver.publish();
    each.drain();
    each.device.complete(first, 7);
    each.device.publish();
    forge(each, 1, first, 7);
    assert.equal(each.collect(), [{ id: first, length: 7 }]);
    assert.match(each.driver.broken!.message, /not in flight/);
    assert.is(each.driver.free, 3);
  });

  test(`${format}: more used entries than chains in flight latch the queue`, () => {
    const each = rig();
    const id = add(each, 0, 1);
    each.driver.publish();
    each.drain();
    each.device.complete(id, 1);
    each.device.publish();
    assert.is(each.collect().length, 1);
    forge(each, 1, id, 1);
    assert.equal(each.collect(), []);
    assert.is(each.driver.broken?.code, 'ERR_VIRTQ_USED');
  });

  test(`${format}: packed 33, 34: one used entry stands for an in-order batch; skipped chains count as wholly used`, () => {
    for (const room of [4, 1]) {
      const each = rig({ inOrder: true });
      const ids = [add(each, 0, 1), add(each, 1, 0), add(each, 0, 1)];
      each.driver.publish();
      each.drain();
      // The device writes one entry only, where the batch began, and skips over the rest.
      forge(each, 0, ids[2]!, 5, 3);
      const got: { id: number; length: number }[] = [];
      while (each.driver.hasUsed()) {
        const some = each.collect(room);
        assert.ok(some.length > 0 && some.length <= room);
        got.push(...some);
      }
      assert.equal(got, [
        { id: ids[0], length: 100 },
        { id: ids[1], length: 0 },
        { id: ids[2], length: 5 },
      ]);
      assert.is(each.driver.broken, null);
      assert.is(each.driver.free, 4);
      assert.not(each.driver.enableCalls());
      // The next batch of one begins where the last one ended.
      const next = add(each, 0, 1);
      each.driver.publish();
      forge(each, 3, next, 1, 1);
      assert.equal(each.collect(), [{ id: next, length: 1 }]);
    }
  });

  test(`${format}: packed 35: in-order batches of one, of a whole ring and over the ring's end`, () => {
    const each = rig({ inOrder: true });
    let slot = 0;
    for (const length of [1, 4, 3, 4, 2, 4, 4, 1, 3]) {
      const ids = Array.from({ length }, () => add(each, 0, 1));
      each.driver.publish();
      forge(each, slot, ids.at(-1)!, 9, length);
      slot += length;
      assert.equal(
        each.collect(),
        ids.map((id, i) => ({ id, length: i === length - 1 ? 9 : 100 })),
      );
    }
    assert.is(each.driver.broken, null);
  });

  test(`${format}: an in-order device that names a chain not among those published is broken`, () => {
    const each = rig({ inOrder: true });
    add(each, 0, 1);
    each.driver.publish();
    const unpublished = add(each, 0, 1);
    forge(each, 0, unpublished, 0, 1);
    assert.equal(each.collect(), []);
    assert.is(each.driver.broken?.code, 'ERR_VIRTQ_USED');
  });

  test(`${format}: packed 40: the first publish after a start asks for a kick whatever the event says`, () => {
    const each = rig({ eventIdx: true, size: 4 });
    add(each, 1, 0);
    each.driver.publish();
    assert.ok(each.driver.needsKick());
    assert.not(each.driver.needsKick(), 'once');
  });

  test(`${format}: kicks are wanted from the device's event on, and not before`, () => {
    const each = rig({ eventIdx: true, size: 8 });
    add(each, 1, 0);
    each.driver.publish();
    each.driver.needsKick();
    each.drain();
    assert.not(each.device.enableNotifications());
    add(each, 1, 0);
    each.driver.publish();
    assert.ok(each.driver.needsKick(), 'the event is the next chain');
    add(each, 1, 0);
    each.driver.publish();
    assert.not(each.driver.needsKick(), 'the event is behind');
    each.drain();
    each.device.disableNotifications();
    add(each, 1, 0);
    each.driver.publish();
    assert.not(each.driver.needsKick(), 'the device polls');
  });

  test(`${format}: packed 6: a chain used between the last look and asking for calls is not slept through`, () => {
    for (const eventIdx of [false, true]) {
      const each = rig({ eventIdx });
      const id = add(each, 0, 1);
      each.driver.publish();
      each.driver.disableCalls();
      each.drain();
      each.device.complete(id, 0);
      each.device.publish();
      assert.ok(each.driver.enableCalls());
      assert.is(each.collect().length, 1);
      assert.not(each.driver.enableCalls());
    }
  });

  test(`${format}: memory that vanishes breaks the queue with its own code`, () => {
    const each = rig();
    const id = add(each, 0, 1);
    each.driver.publish();
    each.drain();
    each.device.complete(id, 0);
    each.device.publish();
    each.memory.release();
    assert.equal(each.collect(), []);
    assert.is(each.driver.broken?.code, 'ERR_VIRTQ_MEMORY_LOST');
  });

  test(`${format}: sizes and states that the format does not allow are refused`, () => {
    const bad = format === 'split' ? [0, 3, 65536, 1.5] : [0, 32769, 1.5];
    for (const size of bad) {
      assert.throws(
        () => startAnother(rig(), { format, size }),
        code('ERR_VIRTQ_CONFIGURATION'),
        `size ${size}`,
      );
    }
    const other = { format: 'split', nextAvailable: 5, nextUsed: 4 } as const;
    assert.throws(
      () => startAnother(rig(), { format, size: 4, state: other }),
      code('ERR_VIRTQ_CONFIGURATION'),
    );
  });

  test(`${format}: plain counters say what happened`, () => {
    const each = rig();
    const id = add(each, 1, 2);
    each.driver.publish();
    each.driver.needsKick();
    each.drain();
    each.device.complete(id, 0);
    each.device.publish();
    each.collect();
    assert.equal(each.driver.counters, {
      chains: 1,
      segments: 3,
      completed: 1,
      publishes: 1,
      calls: 0,
      kicks: 1,
    });
  });
}

test('split: in order, descriptors are taken in table order and chained to their neighbours', () => {
  const each = new Rig({ format: 'split', size: 8, inOrder: true });
  const heads: number[] = [];
  for (let i = 0; i < 9; i++) {
    const id = add(each, 1, 1);
    heads.push(id);
    each.driver.publish();
    assert.is(each.drain()[0]!.handle, id);
    each.device.complete(id, 0);
    each.device.publish();
    each.collect();
  }
  assert.equal(heads, [0, 2, 4, 6, 0, 2, 4, 6, 0]);
});

test('split: with event idx the flags words stay 0, without it the event words do', () => {
  for (const eventIdx of [true, false]) {
    const each = new Rig({ format: 'split', size: 4, eventIdx });
    const driverArea = each.u16('driver');
    each.driver.disableCalls();
    assert.is(driverArea[0], eventIdx ? 0 : 1);
    assert.is(driverArea[2 + 4], eventIdx ? 0xffff : 0);
    each.driver.enableCalls();
    assert.is(driverArea[0], 0);
    assert.is(driverArea[2 + 4], 0);
  }
});

test('split: indexes run freely over 16 bits', () => {
  const each = new Rig({ format: 'split', size: 2, eventIdx: true });
  const used = new UsedBatch(2);
  const row = new Int32Array([each.dataWindows[0]!, 0, 4, 0]);
  for (let i = 0; i < 70_000; i++) {
    const id = each.driver.add(row, 0, 1, 0);
    each.driver.publish();
    if (each.drain().length !== 1) assert.unreachable(`chain ${i} did not arrive`);
    each.device.complete(id, 0);
    each.device.publish();
    if (each.driver.collect(used, 2) !== 1) assert.unreachable(`chain ${i} did not come back`);
  }
  assert.equal(each.driver.state(), {
    format: 'split',
    nextAvailable: 70_000 % 65536,
    nextUsed: 70_000 % 65536,
  });
});

/** Adds a chain of `readable` and `writable` buffers of 100 bytes. */
function add(rig: Rig, readable: number, writable: number, indirect = false): number {
  const buffers: Buffer[] = Array.from({ length: readable + writable }, (_, i) => ({
    window: rig.dataWindows[i % 2]!,
    offset: i * 128,
    length: 100,
    writable: i >= readable,
  }));
  return rig.add(buffers, indirect);
}

/** Writes a used entry as a device would, right or wrong: entry number `at` since the start, worth `count` entries. */
function forge(rig: Rig, at: number, id: number, length: number, count = 1): void {
  const { format, size } = rig.options;
  if (format === 'split') {
    const area = rig.u32('device');
    area[1 + (at % size) * 2] = id;
    area[2 + (at % size) * 2] = length;
    rig.u16('device')[1] = at + count;
    return;
  }
  const slot = at % size;
  const wrap = Math.floor(at / size) % 2 === 0;
  rig.u32('descriptor')[slot * 4 + 2] = length;
  rig.u16('descriptor')[slot * 8 + 6] = id;
  rig.u16('descriptor')[slot * 8 + 7] = (wrap ? 0x8080 : 0) | 2;
}

function startAnother(rig: Rig, options: RigOptions): DriverVirtqueue {
  return startDriverVirtqueue(
    {
      index: 0,
      eventIdx: false,
      inOrder: false,
      areas: rig.areas,
      memory: rig.memory,
      ...options,
    },
    rig.platform.windows,
  );
}

function code(expected: string): (error: Error) => boolean {
  return (error) => error instanceof VirtqueueError && error.code === expected;
}

test.run();
