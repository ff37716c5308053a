import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { VirtqueueError } from '../../runtime/errors.js';
import { ChainBatch, type DeviceQueue, type VirtioDevice } from '../../runtime/device/index.js';
import { QueueHost } from '../../runtime/device/queue-host.js';
import { QueueLoop } from '../../runtime/device/queue-loop.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';
import { RawSplitRing, WRITE } from '../support/raw-rings.js';
import { turns } from '../support/raw-frontend.js';
import { TestGuest } from '../support/test-guest.js';

const test = suite('the host of a queue');

/** A split ring in a guest, hosted for a device whose `serve` a test writes. */
function open(
  serve: (queue: DeviceQueue) => void,
  size = 1024,
  device: Partial<VirtioDevice> = {},
  inOrder = false,
  called: () => void = () => undefined,
) {
  const guest = new TestGuest();
  const ring = new RawSplitRing(guest, size);
  const memory = guest.memory;
  const areas = guest.areas(ring.descriptorAddress, ring.driverAddress, ring.deviceAddress);
  const virtqueue = startDeviceVirtqueue(
    {
      index: 2,
      size,
      format: 'split',
      eventIdx: false,
      indirect: true,
      inOrder,
      areas,
      memory,
      state: initialVirtqueueState('split'),
    },
    guest.windows,
  );
  const events: string[] = [];
  const broken: VirtqueueError[] = [];
  let calls = 0;
  const host = new QueueHost({
    virtqueue,
    device: {
      deviceId: 0,
      features: 0n,
      queueCount: 4,
      startQueue: () => events.push('start'),
      stopQueue: () => events.push('stop'),
      serveQueue: (queue) => {
        events.push('serve');
        serve(queue);
      },
      ...device,
    },
    features: 5n,
    windows: guest.windows,
    loop: new QueueLoop({ spinMicroseconds: 0 }),
    call: () => {
      calls++;
      called();
    },
    onBroken: (error) => broken.push(error),
  });
  const offer = (count: number): void => {
    for (let i = 0; i < count; i++) {
      const head = ring.availableIndex % size;
      ring.chain([head], [{ address: 0x8_0000, length: 16, flags: WRITE }]);
      ring.offer(head);
    }
  };
  return { guest, ring, areas, host, events, broken, offer, calls: () => calls };
}

const batch = new ChainBatch(64, 256);

/** Completes whatever is there. */
function serveAll(queue: DeviceQueue): void {
  for (let count = queue.drain(batch, 64); count > 0; count = queue.drain(batch, 64)) {
    batch.written.fill(0);
    queue.pushBatch(batch, count);
  }
}

/** A device that keeps what it takes. */
function keeper() {
  const held: { queue: DeviceQueue; handle: number }[] = [];
  return {
    held,
    serve: (queue: DeviceQueue): void => {
      for (let count = queue.drain(batch, 64); count > 0; count = queue.drain(batch, 64)) {
        for (let i = 0; i < count; i++) held.push({ queue, handle: batch.chains[i * 4]! });
      }
    },
    finish: (count: number): void => {
      for (const { queue, handle } of held.splice(0, count)) {
        queue.complete(handle, 0);
        queue.commit();
      }
    },
  };
}

test('a device is told of its queue once, and served whether a kick comes or not', async () => {
  const { host, events, offer, ring } = open(serveAll);
  offer(3);
  host.enable();
  assert.equal(events, ['start']);
  await turns(2);
  assert.is(ring.usedIndex, 3);
  host.disable();
  host.enable();
  await turns(2);
  assert.is(events.filter((event) => event === 'start').length, 1);
  assert.is(host.features, 5n);
});

test('one call for what one turn completed, none when the driver wants none', async () => {
  const { host, offer, ring, calls } = open(serveAll);
  host.enable();
  await turns(2);
  offer(5);
  host.kick();
  assert.equal([ring.usedIndex, calls()], [5, 1]);
  ring.availableFlags = 1;
  offer(1);
  host.kick();
  assert.equal([ring.usedIndex, calls()], [6, 1]);
  assert.equal([host.counters.kicks, host.counters.calls], [2, 1]);
});

test('a turn takes at most 256 chains; the rest follows on later turns of the loop', async () => {
  const { host, offer, ring } = open(serveAll);
  host.enable();
  await turns(2);
  offer(1000);
  host.kick();
  assert.is(ring.usedIndex, 256);
  await turns(5);
  assert.is(ring.usedIndex, 1000);
});

test('kicks are off while the device is served and on while the queue sleeps', async () => {
  let during = -1;
  const { host, offer, ring } = open((queue) => {
    during = ring.usedFlags;
    serveAll(queue);
  });
  host.enable();
  await turns(2);
  assert.is(ring.usedFlags, 0);
  offer(1);
  host.kick();
  assert.is(during, 1);
  assert.is(ring.usedFlags, 0);
});

test('a device that takes nothing is left alone until it resumes, with kicks off', async () => {
  let willing = false;
  const { host, offer, ring, events } = open((queue) => {
    if (willing) serveAll(queue);
  });
  host.enable();
  await turns(2);
  offer(4);
  host.kick();
  const before = events.length;
  await turns(10);
  assert.is(events.length, before);
  assert.is(ring.usedFlags, 1);
  willing = true;
  host.resume();
  await turns(2);
  assert.equal([ring.usedIndex, ring.usedFlags], [4, 0]);
});

test('chains that come right after the device found none are not taken for unwanted', () => {
  let lookedInVain = 0;
  const { host, offer, ring } = open((queue) => {
    serveAll(queue);
    // The driver is quicker than the end of the turn, and sees that kicks are off.
    if (lookedInVain++ === 0) offer(2);
  });
  host.enable();
  host.kick();
  assert.is(ring.usedIndex, 2);
  assert.is(ring.usedFlags, 0);
});

test('a device that takes one chain at a time is asked again until none is left', () => {
  const { host, offer, ring } = open((queue) => {
    if (queue.drain(batch, 1) === 1) queue.pushBatch(batch, 1);
  });
  host.enable();
  offer(20);
  host.kick();
  assert.is(ring.usedIndex, 20);
});

test('completions from a callback are published by commit', async () => {
  const { held, serve, finish } = keeper();
  const { host, offer, ring, calls } = open(serve);
  host.enable();
  offer(3);
  host.kick();
  assert.equal([held.length, host.inFlight, ring.usedIndex], [3, 3, 0]);
  finish(2);
  assert.equal([host.inFlight, ring.usedIndex, calls()], [1, 2, 2]);
});

test('a disabled queue gives no chains but takes completions', async () => {
  const { serve, finish } = keeper();
  const { host, offer, ring } = open(serve);
  host.enable();
  offer(1);
  host.kick();
  host.disable();
  offer(1);
  host.kick();
  await turns(3);
  assert.is(host.inFlight, 1);
  finish(1);
  assert.is(ring.usedIndex, 1);
});

test('a device that is stopped is first asked for what it only keeps in hand, as in every wait; one that goes away is not', async () => {
  for (const end of ['stop', 'detach'] as const) {
    const { serve, finish } = keeper();
    let yielded = 0;
    const { host, offer, ring, events } = open(serve, 1024, {
      yieldQueue: () => {
        assert.is(events.at(-1), 'serve');
        yielded++;
        finish(2);
      },
    });
    host.enable();
    offer(2);
    host.kick();
    if (end === 'detach') host.detach(() => undefined);
    else assert.is((await host.stop()).nextAvailable, 2);
    assert.equal([yielded, ring.usedIndex, events.at(-1)], end === 'stop' ? [1, 2, 'stop'] : [0, 0, 'stop']);
  }
});

test('stop waits for the last chain, then tells where the ring stands', async () => {
  const { serve, finish } = keeper();
  const { host, offer, ring, events } = open(serve);
  host.enable();
  offer(2);
  host.kick();
  let state: unknown = null;
  void host.stop().then((stopped) => (state = stopped));
  assert.is(events.at(-1), 'stop');
  offer(1);
  host.kick();
  finish(1);
  await turns(3);
  assert.is(state, null);
  finish(1);
  await turns(1);
  assert.equal(state, { format: 'split', nextAvailable: 2, nextUsed: 2 });
  assert.is(ring.usedIndex, 2, 'completed chains are published before');
});

test('an idle queue stops at once', async () => {
  const { host } = open(serveAll);
  assert.equal(await host.stop(), { format: 'split', nextAvailable: 0, nextUsed: 0 });
});

test('detach leaves the ring alone and tells when nobody uses the memory any more', () => {
  const { serve, finish } = keeper();
  const { host, offer, ring } = open(serve);
  host.enable();
  offer(2);
  host.kick();
  let released = 0;
  host.detach(() => released++);
  finish(1);
  assert.equal([released, host.inFlight], [0, 1]);
  finish(1);
  assert.equal([released, ring.usedIndex], [1, 0]);
});

test('detach does not wait for completions that IN_ORDER holds back: they have come already', async () => {
  const { held, serve, finish } = keeper();
  const { host, offer } = open(serve, 1024, {}, true);
  host.enable();
  offer(3);
  host.kick();
  held.push(held.shift()!);
  finish(2);
  let released = 0;
  host.detach(() => released++);
  assert.equal([released, host.inFlight], [0, 1]);
  finish(1);
  assert.is(released, 1);
});

test('detach while stop waits ends the waiting', async () => {
  const { serve } = keeper();
  const { host, offer } = open(serve);
  host.enable();
  offer(1);
  host.kick();
  const stopped = host.stop();
  host.detach(() => undefined);
  assert.is((await stopped).nextAvailable, 1);
});

test('a queue that is ended while it tells of its last chain does nothing of what waited for that', async () => {
  for (const wait of ['whenQuiet', 'stop'] as const) {
    const { held, serve } = keeper();
    let released = 0;
    const { host, offer } = open(serve, 8, {}, false, () => host.detach(() => released++));
    offer(1);
    host.enable();
    await turns(2);
    let moved = false;
    const stopped = wait === 'stop' ? host.stop() : undefined;
    if (wait === 'whenQuiet') host.whenQuiet(() => (moved = true));
    const { queue, handle } = held[0]!;
    queue.complete(handle, 0);
    assert.is(released, 1);
    assert.not(moved);
    if (stopped !== undefined) assert.is((await stopped).nextUsed, 1);
  }
});

test('whenQuiet runs at once on an idle queue, else behind the last chain; meanwhile nothing is taken', async () => {
  const { held, serve, finish } = keeper();
  const { host, offer, guest, areas, ring } = open(serve);
  const order: string[] = [];
  host.enable();
  host.whenQuiet(() => order.push('idle') > 0);
  assert.equal(order, ['idle']);
  offer(1);
  host.kick();
  host.whenQuiet(() => order.push('replaced') > 0);
  host.whenQuiet(() => {
    order.push('quiet');
    host.rebind(guest.memory, areas);
    return true;
  });
  offer(1);
  host.kick();
  assert.is(held.length, 1);
  finish(1);
  assert.equal(order, ['idle', 'quiet']);
  await turns(2);
  assert.is(held.length, 1, 'it goes on without a kick');
  finish(1);
  assert.is(ring.usedIndex, 2);
});

test('a queue whose action says no stays closed until another one says yes', async () => {
  const { host, offer, ring } = open(serveAll);
  host.enable();
  await turns(2);
  host.whenQuiet(() => false);
  offer(1);
  host.kick();
  await turns(3);
  assert.is(ring.usedIndex, 0);
  host.whenQuiet(() => true);
  await turns(2);
  assert.is(ring.usedIndex, 1);
});

test('what the device throws breaks the queue, once, with the cause', async () => {
  const cause = new Error('out of luck');
  const { host, offer, broken, events } = open(() => {
    throw cause;
  });
  host.enable();
  offer(1);
  host.kick();
  await turns(3);
  assert.is(broken.length, 1);
  assert.is(broken[0]!.code, 'ERR_VIRTQ_DEVICE');
  assert.is(broken[0]!.queue, 2);
  assert.is(broken[0]!.cause, cause);
  const before = events.length;
  host.kick();
  host.resume();
  await turns(3);
  assert.is(events.length, before, 'it is not served again');
});

test('a device that fails in startQueue breaks the queue too', () => {
  const startQueue = (): never => {
    throw new Error('no room');
  };
  const { host, broken } = open(serveAll, 16, { startQueue });
  host.enable();
  assert.match(broken[0]!.message, /no room/);
});

test('a failed queue stops without its chains, an otherwise broken one waits for them', async () => {
  const failed = keeper();
  const first = open(failed.serve);
  first.host.enable();
  first.offer(1);
  first.host.kick();
  first.host.fail(new Error('gone'));
  await first.host.stop();

  const { serve, finish } = keeper();
  const second = open(serve);
  second.host.enable();
  second.offer(1);
  second.host.kick();
  second.ring.offer(5000);
  second.host.kick();
  assert.is(second.broken[0]?.code, 'ERR_VIRTQ_HEAD');
  let stopped = false;
  void second.host.stop().then(() => (stopped = true));
  await turns(3);
  assert.not.ok(stopped);
  finish(1);
  await turns(1);
  assert.ok(stopped);
});

test('completing a chain twice is an error of the device, not of the driver', () => {
  const { held, serve } = keeper();
  const { host, offer } = open(serve);
  host.enable();
  offer(1);
  host.kick();
  const { handle } = held[0]!;
  host.complete(handle, 0);
  assert.throws(
    () => host.complete(handle, 0),
    (error: VirtqueueError) => error.code === 'ERR_VIRTQ_HANDLE',
  );
});

test('a queue that is disabled is emptied unserved if its device has it so, but not before it was enabled', async () => {
  const disabled: number[] = [];
  const { host, ring, events, offer } = open(serveAll, 16, {
    discardsDisabled: (index) => index === 2,
    disableQueue: (queue) => disabled.push(queue.index),
  });
  offer(2);
  host.kick();
  await turns(4);
  assert.is(ring.usedIndex, 0);

  host.enable();
  await turns(4);
  offer(1);
  host.kick();
  assert.is(ring.usedIndex, 3);
  const served = events.length;

  // What is there already goes the same way as what comes.
  offer(1);
  host.disable();
  assert.equal(disabled, [2]);
  host.disable();
  assert.equal(disabled, [2], 'told once');
  await turns(4);
  assert.is(ring.usedIndex, 4);
  for (let i = 0; i < 40; i++) {
    offer(16);
    host.kick();
    await turns(4);
  }
  assert.is(ring.usedIndex, 644);
  assert.is(events.length, served);

  host.enable();
  offer(1);
  host.kick();
  assert.is(ring.usedIndex, 645);
  assert.is(events.length > served, true);
  await host.stop();
});

test('a disabled queue of any other device keeps its chains', async () => {
  const { host, ring, offer } = open(serveAll, 16);
  host.enable();
  await turns(4);
  host.disable();
  offer(3);
  host.kick();
  await turns(4);
  assert.is(ring.usedIndex, 0);
  host.enable();
  await turns(4);
  assert.is(ring.usedIndex, 3);
});

test.run();
