/**
 * Chains that come back when nobody collects them in his turn: the device that used them went without a call, somebody else
 * collected them, or whoever had asked gave up.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockClient } from '../../runtime/drivers/blk/block-client.js';
import { DriverQueue } from '../../runtime/drivers/driver-queue.js';
import { NetClient } from '../../runtime/drivers/net/net-client.js';
import { QueueMemory } from '../../runtime/drivers/queue-memory.js';
import { SharedMemory } from '../../runtime/memory/shared-memory.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import type { DeviceVirtqueue } from '../../runtime/virtqueue/device-virtqueue.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { turns } from '../support/raw-frontend.js';

const test = suite('chains that come back unasked');

const SIZE = 16;
const FEATURES = VirtioFeature.version1 | VirtioFeature.eventIdx | VirtioFeature.indirectDesc;
const FORMATS = ['split', 'packed'] as const;

/** A queue, and its device, which does what the test says. */
class World implements Disposable {
  readonly platform = createFakePlatform();
  readonly ram = new SharedMemory(this.platform, { size: 4 << 20 });
  readonly queues: readonly DriverQueue[];
  readonly #memories: readonly QueueMemory[];
  readonly #devices: DeviceVirtqueue[];
  readonly #batch = new ChainBatch(SIZE, 4 * SIZE);
  readonly #format: 'split' | 'packed';

  constructor(format: 'split' | 'packed', queues = 1) {
    this.#format = format;
    const features = FEATURES | (format === 'packed' ? VirtioFeature.ringPacked : 0n);
    const ended = new Promise<Error>(() => undefined);
    this.#memories = Array.from(
      { length: queues },
      (_, index) => new QueueMemory(this.ram, index, SIZE, features),
    );
    this.queues = this.#memories.map(
      (memory, index) => new DriverQueue(index, this.ram, memory.start(), { kick: () => undefined, ended }),
    );
    this.#devices = this.#memories.map((_, index) => this.#device(index));
  }

  get areas() {
    return this.#memories[0]!.areas;
  }

  get queue(): DriverQueue {
    return this.queues[0]!;
  }

  /** Uses up to `max` chains with as many bytes each as fit, status 0, and says nothing. Returns how many there were. */
  use(max = SIZE, index = 0): number {
    const device = this.#devices[index]!;
    const { chains, segments } = this.#batch;
    const count = device.drain(this.#batch, max);
    for (let row = 0; row < count; row++) {
      const [handle, first, readable, writable] = chains.subarray(row * 4, row * 4 + 4);
      let written = 0;
      for (let i = first! + readable!; i < first! + readable! + writable!; i++) {
        const [window, offset, length] = segments.subarray(i * 4, i * 4 + 3);
        this.platform.windows.u8[window!]!.fill(0, offset!, offset! + length!);
        written += length!;
      }
      device.complete(handle!, written);
    }
    device.publish();
    return count;
  }

  /** Another device takes over, in a fresh ring or in the ring as it is. */
  replace(how: 'restart' | 'resume'): void {
    for (const [index, queue] of this.queues.entries()) {
      if (how === 'resume') queue.resume();
      else {
        queue.restart(() => this.#memories[index]!.start());
        this.#devices[index] = this.#device(index);
      }
    }
  }

  #device(index: number): DeviceVirtqueue {
    const configuration = {
      ...{ index, size: SIZE, format: this.#format, eventIdx: true, indirect: true, inOrder: false },
      ...{ areas: this.#memories[index]!.areas, memory: this.ram.memory },
      state: initialVirtqueueState(this.#format),
    };
    return startDeviceVirtqueue(configuration, this.platform.windows);
  }

  [Symbol.dispose](): void {
    this.ram[Symbol.dispose]();
  }
}

function batch(count: number, more: { signal?: AbortSignal } = {}) {
  const positions = Float64Array.from({ length: count }, (_, i) => i * 512);
  return { operation: 'read' as const, positions, blockLength: 512, depth: 4, ...more };
}

/** The error that it rejects with. */
function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => new Error('it resolved'),
    (error: unknown) => error,
  );
}

for (const format of FORMATS) {
  for (const how of ['restart', 'resume'] as const) {
    test(`${format}, ${how}: a batch ends whose last requests a device used that went without a call`, async () => {
      using world = new World(format);
      const run = new BlockClient(world.queue).run(batch(4));
      await turns(1);
      assert.is(world.use(), 4);
      world.replace(how);
      assert.is((await run).requests, 4);
    });

    test(`${format}, ${how}: a batch goes on after what such a device used`, async () => {
      using world = new World(format);
      const run = new BlockClient(world.queue).run(batch(6));
      await turns(1);
      assert.is(world.use(), 4);
      world.replace(how);
      await turns(1);
      assert.is(world.use(), 2);
      world.queue.notify();
      assert.is((await run).requests, 6);
    });

    test(`${format}, ${how}: packets that such a device brought are received, and there is room to send`, async () => {
      using world = new World(format, 2);
      const client = new NetClient(
        { features: FEATURES, queues: world.queues },
        { receive: { buffers: 4, bufferLength: 128 }, transmit: { buffers: 2 } },
      );
      const received = client.receive(3);
      const sent = client.send([1, 2, 3].map((value) => new Uint8Array(20).fill(value)));
      await turns(1);
      assert.is(world.use(3, 0), 3);
      assert.is(world.use(SIZE, 1), 2);
      world.replace(how);
      assert.equal(
        (await received).map(({ bytes }) => bytes.byteLength),
        [116, 116, 116],
      );
      await sent;
      assert.is(client.pairs[0]!.transmitter.underWay, 1);
    });
  }

  test(`${format}: what an aborted batch had under way does not count for the next one`, async () => {
    using world = new World(format);
    const disk = new BlockClient(world.queue);
    const abort = new AbortController();
    const first = failure(disk.run(batch(4, { signal: abort.signal })));
    await turns(1);
    const reason = new Error('no more');
    abort.abort(reason);
    assert.is(await first, reason);
    const second = disk.run({ ...batch(1), depth: 1 });
    await turns(1);
    // The four of the first one, which is over.
    assert.is(world.use(4), 4);
    world.queue.notify();
    await turns(1);
    assert.is(world.use(), 1);
    world.queue.notify();
    assert.is((await second).requests, 1);
    assert.is(world.queue.driver.inFlight, 0);
  });

  test(`${format}: a transfer that nobody waits for any more takes nothing from a batch, nor keeps its memory`, async () => {
    using world = new World(format);
    const before = world.ram.freeBytes;
    const abort = new AbortController();
    const transfer = failure(world.queue.transfer([], [512], { signal: abort.signal }));
    abort.abort(new Error('no more'));
    await transfer;
    const run = new BlockClient(world.queue).run(batch(6));
    await turns(1);
    // The transfer and four of the batch, which takes four at a time; then what is left of it.
    for (const chains of [5, 2]) {
      assert.is(world.use(), chains);
      world.queue.notify();
      await turns(1);
    }
    assert.is((await run).requests, 6);
    assert.is(world.ram.freeBytes, before);
  });

  test(`${format}: a batch on a queue that has failed fails with its reason`, async () => {
    using world = new World(format);
    const transfer = failure(world.queue.transfer([], [512]));
    const reason = new Error('the ring is broken');
    world.queue.fail(reason);
    assert.is(await transfer, reason);
    world.use();
    assert.is(await failure(new BlockClient(world.queue).run(batch(2))), reason);
  });
}

test('split: a device that uses more than it was given, just when it is asked to call, does not keep the queue busy', async () => {
  using world = new World('split');
  const { driver } = world.queue;
  const { areas } = world;
  const used = new Uint16Array(
    world.platform.windows.u8[areas.device.window]!.buffer,
    world.platform.windows.u8[areas.device.window]!.byteOffset + areas.device.offset,
    2,
  );
  const { enableCalls } = driver;
  let asked = 0;
  driver.enableCalls = function (): boolean {
    if (++asked > 100) throw new Error('it asks for ever');
    if (driver.inFlight === 0) used[1]! += 1;
    return enableCalls.call(this);
  };
  const transfer = world.queue.transfer([], [8]);
  world.use();
  world.queue.notify();
  assert.is((await transfer).written, 8);
});

test.run();
