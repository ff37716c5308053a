import * as assert from 'uvu/assert';
import type { VirtqueueErrorCode } from '../../../runtime/errors.js';
import { ChainBatch } from '../../../runtime/virtqueue/chain-batch.js';
import { UsedBatch } from '../../../runtime/virtqueue/driver-virtqueue.js';
import { Random } from '../../support/random.js';
import { chainOf, randomChain, Rig, type RigOptions, writableBytes } from '../../virtqueue/property-rig.js';

/**
 * Either side may write whatever it likes into the ring: the other one never throws, never reaches outside memory, never
 * counts wrong, and once it has seen a defect it stays broken.
 */

/** How an attack went: how often the ring was scribbled over, and what the queue broke with. */
export interface Attack {
  readonly inputs: number;
  readonly defect: VirtqueueErrorCode | null;
}

/** Valid traffic with random writes into what the driver owns. */
export function attackDevice(options: RigOptions, seed: number): Attack {
  const random = new Random(seed);
  const rig = new Rig(options);
  const { driver, device } = rig;
  const inFlight = new Set<number>();
  const capacity = options.indirectCapacity ?? 0;
  let inputs = 0;
  for (let round = 0; round < 12 && device.broken === null; round++) {
    inputs++;
    for (let n = random.below(4); n > 0; n--) {
      const indirect = capacity > 0 && random.chance(2);
      rig.add(randomChain(random, rig, indirect ? 4 : Math.min(4, options.size)), indirect);
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
  if (device.broken === null) return { inputs, defect: null };
  const { broken } = device;
  assert.is(device.drain(new ChainBatch(8, 64), 8), 0, 'a broken queue gives nothing');
  assert.is(device.broken, broken, 'the first reason stays');
  return { inputs, defect: broken.code };
}

/** Valid traffic with random writes into what the device owns. */
export function attackDriver(options: RigOptions, seed: number): Attack {
  const random = new Random(seed);
  const rig = new Rig(options);
  const { driver } = rig;
  const outstanding = new Map<number, { writable: number; slots: number }>();
  let inputs = 0;
  for (let round = 0; round < 12 && driver.broken === null; round++) {
    inputs++;
    for (let n = random.below(4); n > 0; n--) {
      const buffers = randomChain(random, rig, Math.min(4, options.size));
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
  if (driver.broken === null) return { inputs, defect: null };
  const { broken } = driver;
  assert.is(broken.code, 'ERR_VIRTQ_USED');
  assert.is(rig.collect().length, 0);
  assert.is(rig.add(randomChain(random, rig, 1)), -1);
  assert.is(driver.broken, broken);
  return { inputs, defect: broken.code };
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
