/**
 * Driver against device over one ring, with seeded random traffic: every chain arrives once, whole and in order, and
 * comes back once with the length that the device gave it.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { type Buffer, chainOf, randomChain, Rig, type RigOptions, writableBytes } from './property-rig.js';
import { Random } from '../support/random.js';

const test = suite('virtqueue properties');

interface Outstanding {
  readonly id: number;
  readonly buffers: readonly Buffer[];
}

for (const options of combinations()) {
  test(`every chain arrives once and comes back once: ${describe(options)}`, () => {
    for (let seed = 1; seed <= 3; seed++) exchange(options, seed * 7919 + options.size, 400);
  });
}

for (const options of [
  { format: 'split', size: 8, state: { format: 'split', nextAvailable: 65533, nextUsed: 65533 } },
  {
    format: 'packed',
    size: 5,
    state: { format: 'packed', nextAvailable: 3, availableWrap: 0, nextUsed: 3, usedWrap: 0 },
  },
  {
    format: 'packed',
    size: 8,
    state: { format: 'packed', nextAvailable: 0, availableWrap: 0, nextUsed: 0, usedWrap: 0 },
  },
  {
    format: 'packed',
    size: 7,
    state: { format: 'packed', nextAvailable: 6, availableWrap: 1, nextUsed: 6, usedWrap: 1 },
  },
] satisfies RigOptions[]) {
  test(`a ring that goes on from a saved state exchanges chains: ${describe(options)}`, () => {
    const rig = new Rig(options);
    assert.equal(rig.driver.state(), options.state);
    assert.not(rig.device.hasAvailable());
    assert.not(rig.driver.hasUsed());
    exchange(options, 4711, 300);
  });
}

function exchange(options: RigOptions, seed: number, chains: number): void {
  const random = new Random(seed);
  const rig = new Rig(options);
  const { driver, device } = rig;
  const capacity = options.indirectCapacity ?? 0;
  const longest = Math.min(options.size, 12);
  const sent: Outstanding[] = [];
  const atDevice: Outstanding[] = [];
  const completed = new Map<number, number>();
  const finished: number[] = [];
  let added = 0;
  let collected = 0;

  const addSome = (): void => {
    for (let n = random.below(5); n >= 0 && added < chains; n--) {
      const indirect = capacity > 0 && random.chance(2);
      const buffers = randomChain(random, rig, indirect ? capacity : longest);
      const needed = indirect ? 1 : buffers.length;
      const free = driver.free;
      const id = rig.add(buffers, indirect);
      assert.is(id >= 0, needed <= free, `a chain of ${needed} descriptors with ${free} free`);
      if (id < 0) break;
      assert.is(driver.free, free - needed);
      assert.not(
        [...sent, ...atDevice].some((other) => other.id === id) || completed.has(id),
        'ids in flight differ',
      );
      sent.push({ id, buffers });
      added++;
    }
    if (!random.chance(5)) driver.publish();
  };

  const takeSome = (): void => {
    // Room for one whole chain at least; otherwise as narrow as it comes.
    const max = 1 + random.below(8);
    const batch = new ChainBatch(max, Math.max(capacity, longest) + random.below(20));
    const count = device.drain(batch, max);
    for (let row = 0; row < count; row++) {
      const chain = chainOf(batch, row);
      const expected = sent.shift()!;
      assert.equal(chain, { handle: expected.id, buffers: expected.buffers });
      atDevice.push(expected);
    }
    if (device.broken !== null) throw device.broken;
    if (count === 0 || !random.chance(3)) return;
    // The batch form: everything of this drain at once.
    for (let row = 0; row < count; row++) {
      const chain = atDevice[atDevice.length - count + row]!;
      batch.written[row] = random.below(writableBytes(chain.buffers) + 1);
      completed.set(chain.id, batch.written[row]!);
      finished.push(chain.id);
    }
    atDevice.length -= count;
    device.pushBatch(batch, count);
  };

  const completeSome = (): void => {
    for (let n = random.below(6); n > 0 && atDevice.length > 0; n--) {
      const [chain] = atDevice.splice(random.below(atDevice.length), 1);
      const written = random.below(writableBytes(chain!.buffers) + 1);
      device.complete(chain!.id, written);
      completed.set(chain!.id, written);
      finished.push(chain!.id);
    }
    if (!random.chance(5)) device.publish();
  };

  const collectSome = (): void => {
    for (const { id, length } of rig.collect(1 + random.below(6))) {
      assert.is(completed.get(id), length, `chain ${id} comes back with what was written`);
      completed.delete(id);
      if (options.inOrder !== true)
        assert.is(finished.shift(), id, 'used entries keep the order of completion');
      collected++;
    }
    assert.is(driver.broken, null);
  };

  for (let step = 0; collected < chains; step++) {
    assert.ok(step < chains * 100, `stuck: ${collected} of ${chains} came back`);
    random.pick([addSome, takeSome, completeSome, collectSome])();
    if (random.chance(20)) {
      driver.publish();
      device.publish();
    }
  }
  assert.is(driver.free, options.size);
  assert.is(driver.inFlight, 0);
  assert.is(device.inFlight, 0);
  assert.equal(rig.collect(), []);
  assert.equal(rig.drain(), []);
  // Used and available cursors of both sides meet.
  assert.equal(driver.state(), device.state());
}

function combinations(): RigOptions[] {
  const sizes = { split: [1, 2, 4, 16, 256], packed: [1, 2, 3, 5, 7, 16, 100, 256] };
  return (['split', 'packed'] as const).flatMap((format) =>
    sizes[format].flatMap((size) =>
      [false, true].flatMap((inOrder) =>
        [0, 16].map((indirectCapacity) => ({
          format,
          size,
          inOrder,
          eventIdx: size % 2 === 0,
          indirectCapacity: Math.min(indirectCapacity, Math.max(size, 0)),
        })),
      ),
    ),
  );
}

function describe(options: RigOptions): string {
  return [
    `${options.format} ring of ${options.size}`,
    options.inOrder === true ? 'in order' : 'any order',
    (options.indirectCapacity ?? 0) > 0 ? 'direct and indirect' : 'direct',
    ...(options.state === undefined ? [] : [`from ${JSON.stringify(options.state)}`]),
  ].join(', ');
}

test.run();
