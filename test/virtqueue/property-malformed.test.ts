/**
 * Either side may write whatever it likes into the ring: the other one never throws, never reaches outside memory, never
 * counts wrong, and once it has seen a defect it stays broken.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { UsedBatch } from '../../runtime/virtqueue/driver-virtqueue.js';
import { chainOf, randomChain, Rig, type RigOptions, writableBytes } from './property-rig.js';
import { Random } from '../support/random.js';

const test = suite('virtqueues under malformed input');

const combinations: RigOptions[] = (['split', 'packed'] as const).flatMap((format) =>
  [false, true].flatMap((inOrder) =>
    [0, 8].map((indirectCapacity) => ({ format, size: 8, eventIdx: true, inOrder, indirectCapacity })),
  ),
);

for (const options of combinations) {
  const name = `${options.format}, in order ${options.inOrder}, indirect ${options.indirectCapacity !== 0}`;

  test(`a device faces a driver that scribbles over its ring: ${name}`, () => {
    const seen = new Set<string>();
    for (let seed = 1; seed <= 600; seed++) attackDevice(options, seed * 31337, seen);
    assert.ok(seen.size >= 3, `defects of several kinds were found: ${[...seen].join(', ')}`);
  });

  test(`a driver faces a device that scribbles over its ring: ${name}`, () => {
    let broken = 0;
    for (let seed = 1; seed <= 600; seed++) broken += attackDriver(options, seed * 65537) ? 1 : 0;
    assert.ok(broken > 25, `${broken} of 600 queues broke`);
  });
}

/** Valid traffic with random writes into what the driver owns. */
function attackDevice(options: RigOptions, seed: number, seen: Set<string>): void {
  const random = new Random(seed);
  const rig = new Rig(options);
  const { driver, device } = rig;
  const inFlight = new Set<number>();
  const capacity = options.indirectCapacity ?? 0;
  for (let round = 0; round < 12 && device.broken === null; round++) {
    for (let n = random.below(4); n > 0; n--) {
      const indirect = capacity > 0 && random.chance(2);
      rig.add(randomChain(random, rig, 4), indirect);
    }
    driver.publish();
    if (round > 1 || random.chance(2)) scribble(random, rig, ['descriptor', 'driver']);
    const batch = new ChainBatch(options.size, 4 * options.size);
    const count = device.drain(batch, options.size);
    for (let row = 0; row < count; row++) {
      const chain = chainOf(batch, row);
      assert.ok(chain.handle >= 0 && chain.handle < options.size);
      assert.not(inFlight.has(chain.handle), `handle ${chain.handle} is in flight already`);
      inFlight.add(chain.handle);
      for (const { window, offset, length } of chain.buffers) {
        const bytes = rig.platform.windows.u8[window];
        assert.ok(bytes !== undefined && length > 0 && offset >= 0 && offset + length <= bytes.length);
      }
      batch.written[row] = writableBytes(chain.buffers) % 0x1_0000_0000;
    }
    assert.is(device.inFlight, inFlight.size);
    assert.ok(inFlight.size <= options.size);
    if (!random.chance(3)) {
      device.pushBatch(batch, count);
      for (let row = 0; row < count; row++) inFlight.delete(batch.chains[row * 4]!);
      if (options.inOrder === true) break;
    }
    device.needsCall();
    device.enableNotifications();
  }
  if (device.broken === null) return;
  seen.add(device.broken.code);
  const { broken } = device;
  assert.is(device.drain(new ChainBatch(8, 64), 8), 0, 'a broken queue gives nothing');
  assert.is(device.broken, broken, 'the first reason stays');
}

/** Valid traffic with random writes into what the device owns; true when the driver's queue broke. */
function attackDriver(options: RigOptions, seed: number): boolean {
  const random = new Random(seed);
  const rig = new Rig(options);
  const { driver } = rig;
  const outstanding = new Map<number, { writable: number; slots: number }>();
  for (let round = 0; round < 12 && driver.broken === null; round++) {
    for (let n = random.below(4); n > 0; n--) {
      const buffers = randomChain(random, rig, 4);
      const id = rig.add(buffers);
      if (id < 0) continue;
      assert.not(outstanding.has(id), `id ${id} is handed out twice`);
      outstanding.set(id, { writable: writableBytes(buffers), slots: buffers.length });
    }
    driver.publish();
    const chains = rig.drain();
    if (rig.device.broken === null) {
      for (const { handle } of chains)
        if (options.inOrder === true || random.chance(2)) rig.device.complete(handle, 0);
      rig.device.publish();
    }
    scribble(random, rig, options.format === 'split' ? ['device'] : ['descriptor', 'device']);
    const used = new UsedBatch(options.size);
    const count = driver.collect(used, 1 + random.below(options.size));
    for (let row = 0; row < count; row++) {
      const chain = outstanding.get(used.ids[row]!);
      assert.ok(chain !== undefined, `id ${used.ids[row]} is not in flight`);
      assert.ok(used.lengths[row]! <= chain!.writable, 'no length beyond the writable bytes');
      outstanding.delete(used.ids[row]!);
    }
    const held = [...outstanding.values()].reduce((sum, chain) => sum + chain.slots, 0);
    assert.is(driver.free, options.size - held, 'the free slots are those that no chain holds');
    assert.is(driver.inFlight, outstanding.size);
    driver.needsKick();
    driver.enableCalls();
  }
  if (driver.broken === null) return false;
  const { broken } = driver;
  assert.is(broken.code, 'ERR_VIRTQ_USED');
  assert.is(rig.collect().length, 0);
  assert.is(rig.add(randomChain(random, rig, 1)), -1);
  assert.is(driver.broken, broken);
  return true;
}

/** A few random 16-bit writes into the areas: a new value, a flipped bit, or a neighbour's value. */
function scribble(random: Random, rig: Rig, areas: readonly ('descriptor' | 'driver' | 'device')[]): void {
  for (let n = random.below(3); n >= 0; n--) {
    const words = rig.u16(random.pick(areas));
    const index = random.chance(3) ? random.below(Math.min(4, words.length)) : random.below(words.length);
    const value = random.below(4);
    if (value === 0) words[index] = random.below(0x1_0000);
    else if (value === 1) words[index] = words[random.below(words.length)]!;
    else if (value === 2) words[index]! ^= 1 << random.below(16);
    else words[index]! += 1;
  }
}

test.run();
