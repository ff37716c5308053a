import * as assert from 'uvu/assert';
import type { VirtqueueConfiguration, DeviceVirtqueue } from '../../../runtime/virtqueue/device-virtqueue.js';
import { ChainBatch } from '../../../runtime/virtqueue/chain-batch.js';
import { inflightStride } from '../../../runtime/virtqueue/inflight/region.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../../runtime/virtqueue/start.js';
import { Random } from '../../support/random.js';
import { TestGuest } from '../../support/test-guest.js';
import { chainsOf } from '../device-rig.js';
import { lengthOf, PackedDriverModel, SplitDriverModel, type DriverModel } from './driver-model.js';
import { during } from './stores.js';

export interface Variant {
  readonly format: 'split' | 'packed';
  readonly size: number;
  readonly inOrder: boolean;
  readonly indirect: boolean;
  /** Split: index at which the ring stands. Packed: slot, in a lap with counter 0 when negative. */
  readonly start: number;
}

/** Everything that outlives a back-end: what the memory holds, and what the driver knows. */
interface Instant {
  readonly memory: Uint8Array;
  readonly region: Uint8Array;
  readonly driver: string;
}

const MEMORY = 0x6800;

/** One guest with one tracked ring, whose back-end can be put into any instant that it went through. */
export class Machine {
  readonly driver: DriverModel;
  readonly #guest = new TestGuest([{ address: 0, size: MEMORY }]);
  readonly #variant: Variant;
  readonly #configuration: VirtqueueConfiguration;
  readonly #memory: Uint8Array;
  readonly #region: Uint8Array;

  constructor(variant: Variant) {
    this.#variant = variant;
    const { format, size, start, inOrder } = variant;
    const { platform, windows, memory } = this.#guest;
    const wrap = start < 0 ? 0 : 1;
    const at = Math.abs(start);
    if (format === 'split') this.driver = new SplitDriverModel(this.#guest, size, start);
    else {
      const driver = new PackedDriverModel(this.#guest, size, at, wrap);
      if (start !== 0) driver.age();
      this.driver = driver;
    }
    const bytes = inflightStride(format, size);
    const fd = platform.createSharedMemory('inflight', BigInt(bytes));
    const mapping = platform.map(fd, 0n, BigInt(bytes));
    platform.closeFd(fd);
    this.#memory = this.#guest.bytes(0, MEMORY);
    this.#region = windows.u8[mapping.firstWindow]!;
    const [descriptor, driverArea, device] = this.driver.areas();
    this.#configuration = {
      index: 0,
      size,
      format,
      eventIdx: false,
      indirect: true,
      inOrder,
      areas: this.#guest.areas(descriptor, driverArea, device),
      memory,
      // What a front-end says that never heard where the ring stands: the place where it once began.
      state:
        format === 'split'
          ? { format, nextAvailable: start, nextUsed: start }
          : {
              ...initialVirtqueueState('packed'),
              format,
              nextAvailable: at,
              nextUsed: at,
              availableWrap: wrap,
              usedWrap: wrap,
            },
      inflight: { window: mapping.firstWindow, offset: 0, capacity: size, mapping },
    };
  }

  instant(): Instant {
    return { memory: this.#memory.slice(), region: this.#region.slice(), driver: this.driver.save() };
  }

  goTo(instant: Instant): void {
    this.#memory.set(instant.memory);
    this.#region.set(instant.region);
    this.driver.restore(instant.driver);
  }

  /** Starts a back-end process, so to speak. */
  start(): Life {
    const { state } = this.#configuration;
    const nextUsed =
      state.format === 'split'
        ? this.#guest.view(this.driver.areas()[2], 4).getUint16(2, true)
        : state.nextUsed;
    const configuration = { ...this.#configuration, state: { ...state, nextUsed } as typeof state };
    return new Life(this, this.#guest, startDeviceVirtqueue(configuration, this.#guest.windows));
  }

  /** A random request becomes available, if there is room. */
  offer(random: Random): boolean {
    const indirect = this.#variant.indirect && random.below(2) === 0;
    return this.driver.offer(1 + random.below(Math.min(3, this.#variant.size)), indirect);
  }
}

/** One life of the back-end: its queue, and the chains that its device holds. */
export class Life {
  readonly #machine: Machine;
  readonly #guest: TestGuest;
  readonly #queue: DeviceVirtqueue;
  readonly #batch = new ChainBatch(16, 64);
  /** Handles and tokens, in the order in which they were given to the device. */
  #held: { handle: number; token: number }[] = [];
  #last = -1;

  constructor(machine: Machine, guest: TestGuest, queue: DeviceVirtqueue) {
    this.#machine = machine;
    this.#guest = guest;
    this.#queue = queue;
  }

  get held(): number {
    return this.#held.length;
  }

  drain(max: number): number {
    const count = this.#queue.drain(this.#batch, max);
    assert.is(this.#queue.broken, null, this.#queue.broken?.message ?? '');
    for (const chain of chainsOf(this.#guest, this.#batch)) {
      const { token, buffers } = this.#machine.driver.of(chain.handle);
      assert.equal([...chain.readable, ...chain.writable], buffers, `buffers of request ${token}`);
      assert.ok(token > this.#last, `request ${token} comes after request ${this.#last}`);
      this.#last = token;
      this.#held.push({ handle: chain.handle, token });
    }
    return count;
  }

  /** Completes `count` of the chains held, in any order. */
  complete(count: number, random: Random): void {
    for (let i = 0; i < count && this.#held.length > 0; i++) {
      const [done] = this.#held.splice(random.below(this.#held.length), 1);
      this.#queue.complete(done!.handle, lengthOf(done!.token));
    }
  }

  /** Drains and completes a batch as quick devices do. */
  pass(max: number): number {
    const held = this.#held.length;
    const count = this.drain(max);
    const taken = this.#held.splice(held);
    for (let i = 0; i < count; i++) this.#batch.written[i] = lengthOf(taken[i]!.token);
    this.#queue.pushBatch(this.#batch, count);
    return count;
  }

  publish(): void {
    this.#queue.publish();
  }

  /** Serves all that the driver waits for. */
  finish(random: Random): void {
    const { driver } = this.#machine;
    for (let turn = 0; driver.outstanding > 0; turn++) {
      assert.ok(turn < 100, `the driver waits for ${driver.outstanding} requests for ever: lost`);
      if (random.below(3) === 0 && this.#held.length === 0) this.pass(1 + random.below(4));
      else this.drain(1 + random.below(8));
      this.complete(1 + random.below(this.#held.length + 1), random);
      if (random.below(4) > 0 || this.#held.length === 0) this.publish();
      driver.poll();
    }
    assert.is(this.#held.length, 0, 'the device holds nothing that the driver does not wait for');
  }
}

/** Every instant between two stores of `action`, and the one after it. */
export function instants(machine: Machine, action: () => void): Instant[] {
  const seen: Instant[] = [];
  during(() => seen.push(machine.instant()), action);
  seen.push(machine.instant());
  return seen;
}

/** A back-end at work with ups and downs, from its start to some point at which chains are in flight. */
export function work(machine: Machine, random: Random, steps: number): void {
  const life = machine.start();
  for (let step = 0; step < steps; step++) {
    for (let n = random.below(4); n > 0; n--) machine.offer(random);
    switch (random.below(5)) {
      case 0:
        if (life.held === 0) life.pass(1 + random.below(6));
        else life.drain(1 + random.below(6));
        break;
      case 1:
      case 2:
        life.drain(1 + random.below(6));
        break;
      case 3:
        life.complete(1 + random.below(4), random);
        break;
      default:
        life.complete(random.below(3), random);
        life.publish();
    }
    if (random.below(2) === 0) machine.driver.poll();
  }
}

/** A new process takes over and everything comes to its end: each request was reported once. */
export function takeOver(machine: Machine, random: Random, busyDriver: boolean): void {
  // The driver does not know that the back-end is gone.
  if (busyDriver) {
    machine.driver.poll();
    while (machine.offer(random));
  }
  machine.start().finish(random);
  const { reported, offered } = machine.driver;
  assert.is(reported.length, offered, 'as many requests reported as were made');
  assert.is(new Set(reported).size, offered, 'each of them once');
}
