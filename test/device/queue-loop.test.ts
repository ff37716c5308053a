import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { QueueLoop } from '../../runtime/device/queue-loop.js';
import type { LoopQueue } from '../../runtime/device/queue-scheduler.js';
import { turn, turns } from '../support/raw-frontend.js';

const test = suite('the loop between queues');

/** A queue of `work` items; a turn takes `bound` of them. */
class StubQueue implements LoopQueue {
  work = 0;
  inFlight = 0;
  bound = 10;
  turnsTaken = 0;
  peeks = 0;
  asleep = 0;
  /** Arrives while notifications are being enabled. */
  late = 0;
  /** Called at each peek. */
  onPeek: (() => void) | null = null;

  turn(): boolean {
    this.turnsTaken++;
    this.work -= Math.min(this.work, this.bound);
    return this.work > 0;
  }
  wantsTurn(): boolean {
    this.peeks++;
    this.onPeek?.();
    return this.work > 0;
  }
  sleep(): boolean {
    this.asleep++;
    this.work += this.late;
    const came = this.late > 0;
    this.late = 0;
    return came;
  }
}

function open(spinMicroseconds = 0, count = 1): { loop: QueueLoop; queues: StubQueue[] } {
  const loop = new QueueLoop({ spinMicroseconds });
  const queues = Array.from({ length: count }, () => new StubQueue());
  for (const queue of queues) loop.add(queue);
  return { loop, queues };
}

test('a kick is served in its own callback, then the queue sleeps', () => {
  const { loop, queues } = open();
  const [queue] = queues as [StubQueue];
  queue.work = 3;
  loop.kicked(queue);
  assert.equal([queue.work, queue.turnsTaken, queue.asleep], [0, 1, 1]);
});

test('what arrives while kicks are being enabled is served without a kick', () => {
  const { loop, queues } = open();
  const [queue] = queues as [StubQueue];
  queue.late = 2;
  loop.kicked(queue);
  assert.equal([queue.work, queue.turnsTaken, queue.asleep], [0, 2, 2]);
});

test('a queue with more work than a turn holds goes on behind everything else', async () => {
  const { loop, queues } = open(0, 2);
  const [busy, other] = queues as [StubQueue, StubQueue];
  busy.work = 35;
  loop.kicked(busy);
  assert.is(busy.turnsTaken, 1);
  other.work = 1;
  loop.kicked(other);
  assert.is(other.work, 0, 'another queue is not starved');
  await turns(4);
  assert.equal([busy.turnsTaken, busy.work, busy.asleep], [4, 0, 1]);
});

test('a queue that never runs dry leaves the loop to others after every round', async () => {
  const { loop, queues } = open();
  const [queue] = queues as [StubQueue];
  queue.turn = () => {
    queue.turnsTaken++;
    return false;
  };
  queue.wantsTurn = () => true;
  loop.kicked(queue);
  let others = 0;
  for (let i = 0; i < 5; i++) {
    await turn();
    others++;
  }
  assert.is(others, 5);
  assert.ok(queue.turnsTaken >= 5 && queue.turnsTaken <= 16 * 7, `${queue.turnsTaken} turns`);
  loop.remove(queue);
  const before = queue.turnsTaken;
  await turns(3);
  assert.is(queue.turnsTaken, before, 'a removed queue has no more turns');
});

test('a scheduled queue has its turn later, once', async () => {
  const { loop, queues } = open();
  const [queue] = queues as [StubQueue];
  loop.schedule(queue);
  loop.schedule(queue);
  assert.is(queue.turnsTaken, 0);
  await turns(2);
  assert.is(queue.turnsTaken, 1);
});

test('without spinning the ring is peeked at once and left', () => {
  const { loop, queues } = open(0);
  const [queue] = queues as [StubQueue];
  loop.kicked(queue);
  assert.is(queue.peeks, 1);
});

test('with spinning, chains that come meanwhile need no kick', () => {
  const { loop, queues } = open(1_000_000);
  const [queue] = queues as [StubQueue];
  queue.onPeek = () => {
    if (queue.peeks === 100) queue.work = 1;
    // Ends the test's spin: completions that are awaited forbid it.
    if (queue.peeks === 101) queue.inFlight = 1;
  };
  loop.kicked(queue);
  assert.is(queue.turnsTaken, 2);
  assert.is(queue.asleep, 1);
});

test('vain spins become rarer, and one that pays brings them back', () => {
  const { loop, queues } = open(1);
  const [queue] = queues as [StubQueue];
  /** Whether the loop spun after a kick: without, it peeks once. */
  const spins = () => {
    queue.peeks = 0;
    loop.kicked(queue);
    return queue.peeks > 1;
  };
  const spun = (kicks: number) =>
    Array.from({ length: kicks }, spins).flatMap((each, i) => (each ? [i] : []));
  assert.equal(spun(64), [0, 2, 6, 14, 30, 62]);
  assert.equal(spun(640).length, 10, 'it never gives up, and pauses for a bounded number of kicks');

  while (!spins());
  assert.equal(spun(63), []);
  queue.onPeek = () => {
    if (queue.peeks === 2) queue.work = 1;
  };
  assert.ok(spins());
  queue.onPeek = null;
  assert.equal(spun(7), [1, 5]);
});

test('nothing spins while completions are awaited or another queue is ready', () => {
  const { loop, queues } = open(1_000_000, 2);
  const [queue, other] = queues as [StubQueue, StubQueue];
  other.inFlight = 1;
  loop.kicked(queue);
  assert.is(queue.asleep, 1);
  other.inFlight = 0;
  loop.schedule(other);
  loop.kicked(queue);
  assert.is(queue.asleep, 2);
  loop.remove(other);
});

test('work on another queue ends the spin; it has the next turn and the first one sleeps', async () => {
  const { loop, queues } = open(1_000_000, 2);
  const [queue, other] = queues as [StubQueue, StubQueue];
  other.onPeek = () => {
    if (other.peeks === 3) other.work = 1;
    if (other.turnsTaken > 0) other.inFlight = 1;
  };
  loop.kicked(queue);
  assert.equal([queue.asleep, other.turnsTaken], [1, 0]);
  await turns(2);
  assert.is(other.turnsTaken, 1);
});

test('a polled queue needs no kicks and never asks for any', async () => {
  const { loop, queues } = open();
  const [queue] = queues as [StubQueue];
  loop.setPolled(queue, true);
  for (let i = 1; i <= 3; i++) {
    queue.work = 1;
    await turns(3);
    assert.is(queue.work, 0);
  }
  assert.is(queue.asleep, 0);
  loop.setPolled(queue, false);
  queue.work = 1;
  await turns(5);
  assert.is(queue.work, 1);
});

test('a polled queue that was idle for long is still looked at', async () => {
  const { loop, queues } = open();
  const [queue] = queues as [StubQueue];
  loop.setPolled(queue, true);
  await turns(400);
  queue.work = 1;
  while (queue.work > 0) await new Promise((resolve) => setTimeout(resolve, 1));
  loop.remove(queue);
  assert.is(queue.work, 0);
});

test.run();
