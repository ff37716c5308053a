/** The driver's side of a packed ring at the level of its bits. Numbers name the known traps. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { type Buffer, Rig, type RigOptions } from './property-rig.js';

const test = suite('packed driver virtqueue');

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 0x80;
const USED = 0x8000;

test('packed 2: the head of a batch gets its flags last; the chains behind it are complete by then', () => {
  const rig = start({ size: 8 });
  add(rig, 2, 1);
  add(rig, 1, 1);
  assert.equal(flagsOf(rig), [0, AVAIL | NEXT, AVAIL | WRITE, AVAIL | NEXT, AVAIL | WRITE, 0, 0, 0]);
  rig.driver.publish();
  assert.is(flagsOf(rig)[0], AVAIL | NEXT);
});

test('packed 8: a chain that crosses the end flips the bits of its tail', () => {
  const rig = start({ size: 4 });
  turn(rig, add(rig, 3, 0));
  add(rig, 1, 2);
  rig.driver.publish();
  const flags = flagsOf(rig);
  assert.is(flags[3], AVAIL | NEXT);
  assert.equal(flags.slice(0, 2), [USED | WRITE | NEXT, USED | WRITE]);
});

test('packed 9: a chain as long as the ring ends where it began, with the counter flipped', () => {
  for (const size of [1, 3, 4]) {
    const rig = start({ size });
    for (let lap = 0; lap < 5; lap++) {
      const wrap = lap % 2 === 0 ? 1 : 0;
      assert.equal(rig.driver.state(), packedState(0, wrap));
      turn(rig, add(rig, 0, size));
    }
    assert.is(rig.driver.free, size);
  }
});

test('packed 10: any size up to 32768 turns over', () => {
  for (const size of [1, 2, 3, 5, 7, 100, 32768]) {
    const rig = start({ size });
    for (let i = 0; i < Math.min(size * 2 + 3, 300); i++) turn(rig, add(rig, 1, 0));
    if (size < 32768) continue;
    // The largest ring: fill it whole, twice.
    for (let lap = 0; lap < 2; lap++) {
      for (let i = 0; i < size; i++) assert.ok(add(rig, 1, 0) >= 0);
      rig.driver.publish();
      assert.is(add(rig, 1, 0), -1);
      const chains = rig.drain();
      assert.is(chains.length, size);
      for (const { handle } of chains) rig.device.complete(handle, 0);
      rig.device.publish();
      assert.is(rig.collect().length, size);
    }
  }
});

test('packed 11, 17: out of order, the used cursor skips as many slots as the id holds', () => {
  const rig = start({ size: 8 });
  const long = add(rig, 4, 0);
  const short = add(rig, 1, 0);
  const middle = add(rig, 2, 0);
  rig.driver.publish();
  rig.drain();
  for (const id of [middle, long, short]) rig.device.complete(id, 0);
  rig.device.publish();
  assert.equal(
    rig.collect().map(({ id }) => id),
    [middle, long, short],
  );
  assert.equal(rig.driver.state(), packedState(7, 1));
  assert.equal(rig.driver.state(), rig.device.state());
});

test('packed 13: a zeroed ring holds nothing used', () => {
  const rig = start({ size: 4 });
  assert.not(rig.driver.hasUsed());
  assert.equal(rig.collect(), []);
});

test('packed 14: used descriptors of the lap before do not look used', () => {
  const rig = start({ size: 2 });
  for (let i = 0; i < 4; i++) turn(rig, add(rig, 1, 0));
  add(rig, 1, 0);
  rig.driver.publish();
  assert.not(rig.driver.hasUsed());
  assert.equal(rig.collect(), []);
  assert.is(rig.driver.broken, null);
});

test('packed 17, 26: an indirect chain counts as one slot', () => {
  const rig = start({ size: 4, indirectCapacity: 4 });
  const id = add(rig, 2, 2, true);
  rig.driver.publish();
  assert.is(flagsOf(rig)[0], AVAIL | INDIRECT);
  rig.drain();
  rig.device.complete(id, 200);
  rig.device.publish();
  assert.equal(rig.collect(), [{ id, length: 200 }]);
  assert.equal(rig.driver.state(), packedState(1, 1));
});

test('packed 20: the returned id names the chain, not the slot that it is returned in', () => {
  const rig = start({ size: 4 });
  const first = add(rig, 0, 1);
  const second = add(rig, 0, 1);
  rig.driver.publish();
  rig.drain();
  rig.device.complete(second, 22);
  rig.device.publish();
  assert.equal(rig.collect(), [{ id: second, length: 22 }]);
  rig.device.complete(first, 11);
  rig.device.publish();
  assert.equal(rig.collect(), [{ id: first, length: 11 }]);
});

test('packed 31: without WRITE a used length means nothing', () => {
  const rig = start({ size: 4 });
  const id = add(rig, 1, 1);
  rig.driver.publish();
  forge(rig, 0, id, 0xffff_ffff, AVAIL | USED);
  assert.equal(rig.collect(), [{ id, length: 0 }]);
});

test('packed 32: NEXT and INDIRECT in a used descriptor are ignored', () => {
  const rig = start({ size: 4 });
  const id = add(rig, 0, 2);
  rig.driver.publish();
  forge(rig, 0, id, 5, AVAIL | USED | NEXT | INDIRECT | WRITE);
  assert.equal(rig.collect(), [{ id, length: 5 }]);
  assert.equal(rig.driver.state().nextUsed, 2);
});

test('packed 36: asking for calls looks at the last used index, also with chains', () => {
  const rig = start({ size: 8, eventIdx: true });
  const first = add(rig, 3, 0);
  const second = add(rig, 2, 0);
  rig.driver.publish();
  rig.drain();
  rig.device.complete(first, 0);
  rig.device.publish();
  rig.collect();
  assert.not(rig.driver.enableCalls());
  assert.is(rig.u16('driver')[0], 3 | 0x8000, 'the event is the slot where the next used descriptor will be');
  rig.device.complete(second, 0);
  rig.device.publish();
  assert.ok(rig.device.needsCall());
  assert.ok(rig.driver.enableCalls());
});

test('packed 37: device events: disable, enable, descriptor, and reserved values as enable', () => {
  for (const eventIdx of [false, true]) {
    for (const [flags, wanted] of [
      [0, true],
      [1, false],
      [3, true],
    ] as const) {
      const rig = start({ size: 4, eventIdx });
      turn(rig, add(rig, 1, 0));
      rig.driver.needsKick();
      rig.u16('device').set([0, flags]);
      add(rig, 1, 0);
      rig.driver.publish();
      assert.is(rig.driver.needsKick(), wanted, `flags ${flags}, event idx ${eventIdx}`);
    }
  }
  const rig = start({ size: 4, eventIdx: false });
  turn(rig, add(rig, 1, 0));
  rig.driver.needsKick();
  // A descriptor event that is far away: without EVENT_IDX it must still be a kick.
  rig.u16('device').set([0x8003, 2]);
  add(rig, 1, 0);
  rig.driver.publish();
  assert.ok(rig.driver.needsKick());
});

test('packed 38: the event is found on either side of the ring’s end', () => {
  const size = 5;
  for (let start_ = 0; start_ < 2 * size; start_++) {
    for (let count = 1; count <= size - 1; count++) {
      for (let event = 0; event < 2 * size; event++) {
        const rig = start({ size, eventIdx: true, state: packedState(start_ % size, start_ < size ? 1 : 0) });
        // The first check always fires; it is out of the way here because one chain went before.
        turn(rig, add(rig, 1, 0));
        rig.driver.needsKick();
        const first = (start_ + 1) % (2 * size);
        rig.u16('device').set([(event % size) | (event < size ? 0x8000 : 0), 2]);
        for (let i = 0; i < count; i++) add(rig, 1, 0);
        rig.driver.publish();
        const distance = (event - first + 2 * size) % (2 * size);
        assert.is(
          rig.driver.needsKick(),
          distance < count,
          `${count} slots from place ${first}, event at place ${event}`,
        );
      }
    }
  }
});

test('packed 39: an event inside a chain fires', () => {
  const rig = start({ size: 8, eventIdx: true });
  turn(rig, add(rig, 1, 0));
  rig.driver.needsKick();
  rig.u16('device').set([0x8000 | 3, 2]);
  add(rig, 4, 0);
  rig.driver.publish();
  assert.ok(rig.driver.needsKick());
});

test('packed 38: an event offset outside the ring asks for a kick rather than for none', () => {
  const rig = start({ size: 4, eventIdx: true });
  turn(rig, add(rig, 1, 0));
  rig.driver.needsKick();
  rig.u16('device').set([0x8000 | 1000, 2]);
  add(rig, 1, 0);
  rig.driver.publish();
  assert.ok(rig.driver.needsKick());
});

test('packed 41: a spurious call finds nothing and breaks nothing', () => {
  const rig = start({ size: 4 });
  add(rig, 1, 0);
  rig.driver.publish();
  for (let i = 0; i < 3; i++) assert.equal(rig.collect(), []);
  assert.is(rig.driver.broken, null);
});

test('packed 46: a fresh start has both wrap counters at 1, whatever the memory held', () => {
  const rig = start({ size: 4, eventIdx: true });
  assert.equal(rig.driver.state(), packedState(0, 1));
  assert.equal(flagsOf(rig), [0, 0, 0, 0]);
  assert.equal([...rig.u16('device')], [0, 0]);
});

test('packed 12: the head’s wrap counter counts for a chain that crosses the end', () => {
  const rig = start({ size: 4 });
  turn(rig, add(rig, 3, 0));
  // The head lies in the last slot of this lap, so its used descriptor carries this lap's bits.
  const id = add(rig, 0, 3);
  rig.driver.publish();
  rig.drain();
  rig.device.complete(id, 1);
  rig.device.publish();
  assert.is(flagsOf(rig)[3], AVAIL | USED | WRITE);
  assert.equal(rig.collect(), [{ id, length: 1 }]);
  assert.equal(rig.driver.state(), packedState(2, 0));
});

function start(options: Omit<RigOptions, 'format'>): Rig {
  return new Rig({ format: 'packed', ...options });
}

function add(rig: Rig, readable: number, writable: number, indirect = false): number {
  const buffers: Buffer[] = Array.from({ length: readable + writable }, (_, i) => ({
    window: rig.dataWindows[i % 2]!,
    offset: (i % 1000) * 128,
    length: 100,
    writable: i >= readable,
  }));
  return rig.add(buffers, indirect);
}

/** Publishes what was added and has the device return this chain. */
function turn(rig: Rig, id: number): void {
  rig.driver.publish();
  assert.is(rig.drain()[0]?.handle, id);
  rig.device.complete(id, 0);
  rig.device.publish();
  assert.equal(rig.collect(), [{ id, length: 0 }]);
}

function forge(rig: Rig, slot: number, id: number, length: number, flags: number): void {
  rig.u32('descriptor')[slot * 4 + 2] = length;
  rig.u16('descriptor').set([id, flags], slot * 8 + 6);
}

function flagsOf(rig: Rig): number[] {
  const words = rig.u16('descriptor');
  return Array.from({ length: rig.options.size }, (_, slot) => words[slot * 8 + 7]!);
}

function packedState(slot: number, wrap: 0 | 1) {
  return {
    format: 'packed',
    nextAvailable: slot,
    availableWrap: wrap,
    nextUsed: slot,
    usedWrap: wrap,
  } as const;
}

test.run();
