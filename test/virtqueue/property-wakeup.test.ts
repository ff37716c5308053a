/**
 * No lost wake-ups: driver and device take single steps in random alternation, and each goes to sleep as soon as its queue
 * says that it may. Only a kick or a call wakes it. Whatever the order of steps, all chains must come back.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { UsedBatch } from '../../runtime/virtqueue/driver-virtqueue.js';
import { randomChain, Rig, type RigOptions } from './property-rig.js';
import { Random } from '../support/random.js';

const test = suite('virtqueue wake-ups');

const CHAINS = 300;

for (const format of ['split', 'packed'] as const) {
  for (const eventIdx of [false, true]) {
    for (const inOrder of [false, true]) {
      for (const size of format === 'split' ? [1, 4, 64] : [1, 3, 4, 64, 99]) {
        const options: RigOptions = { format, eventIdx, inOrder, size };
        test(`${format} ring of ${size}, event idx ${eventIdx}, in order ${inOrder}`, () => {
          for (let seed = 1; seed <= 8; seed++) run(options, seed * 104729);
        });
      }
    }
  }
}

test('events hold notifications back: far fewer calls and kicks than chains', () => {
  for (const format of ['split', 'packed'] as const) {
    const { kicks, calls } = run({ format, eventIdx: true, size: 64 }, 99);
    assert.ok(kicks < CHAINS && calls < CHAINS, `${kicks} kicks, ${calls} calls`);
  }
});

/** A side of the ring: one step at a time, awake until its queue lets it sleep. */
interface Agent {
  awake: boolean;
  step(): void;
}

function run(options: RigOptions, seed: number): { kicks: number; calls: number } {
  const random = new Random(seed);
  const rig = new Rig(options);
  const { driver, device } = rig;
  const longest = Math.min(3, options.size);
  const used = new UsedBatch(options.size);
  const batch = new ChainBatch(options.size, options.size * 4 + 8);
  const held: number[] = [];
  let added = 0;
  let collected = 0;
  let kicks = 0;
  let calls = 0;

  /** Each entry is one atomic step; the next one may find the world changed by the other side. */
  const driverAgent: Agent & { todo: (() => void)[] } = {
    awake: true,
    todo: [],
    step() {
      const next = this.todo.shift();
      if (next !== undefined) return next();
      collected += driver.collect(used, 1 + random.below(options.size));
      if (used.count > 0) return;
      let room = added < CHAINS;
      if (room) {
        for (let n = 1 + random.below(6); n > 0 && added < CHAINS; n--) {
          room = rig.add(randomChain(random, rig, longest)) >= 0;
          if (!room) break;
          added++;
        }
        this.todo.push(
          () => driver.publish(),
          () => {
            if (!driver.needsKick()) return;
            kicks++;
            deviceAgent.awake = true;
          },
        );
        if (room && !random.chance(3)) return;
      }
      if (random.chance(2)) this.todo.push(() => driver.disableCalls());
      this.todo.push(() => {
        if (!driver.enableCalls()) this.awake = false;
      });
    },
  };

  const deviceAgent: Agent & { todo: (() => void)[] } = {
    awake: true,
    todo: [],
    step() {
      const next = this.todo.shift();
      if (next !== undefined) return next();
      const count = device.drain(batch, 1 + random.below(options.size));
      for (let row = 0; row < count; row++) held.push(batch.chains[row * 4]!);
      if (count > 0 || held.length > 0) {
        for (let n = 1 + random.below(4); n > 0 && held.length > 0; n--) {
          device.complete(held.splice(random.below(held.length), 1)[0]!, 0);
        }
        this.todo.push(
          () => device.publish(),
          () => {
            if (!device.needsCall()) return;
            calls++;
            driverAgent.awake = true;
          },
        );
        return;
      }
      if (random.chance(2)) this.todo.push(() => device.disableNotifications());
      this.todo.push(() => {
        if (!device.enableNotifications()) this.awake = false;
      });
    },
  };

  while (collected < CHAINS) {
    const awake = [driverAgent, deviceAgent].filter((agent) => agent.awake);
    assert.ok(
      awake.length > 0,
      `both sleep with ${added} chains added, ${driver.inFlight} in flight, ${held.length} at the device, ${collected} collected`,
    );
    random.pick(awake).step();
    assert.is(driver.broken, null);
    assert.is(device.broken, null);
  }
  return { kicks, calls };
}

test.run();
