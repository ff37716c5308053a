import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PollingLoop } from '../../runtime/device/polling-loop.js';
import type { LoopQueue, QueueScheduler } from '../../runtime/device/queue-scheduler.js';
import { turns, until } from '../support/raw-frontend.js';

const test = suite('the loop that polls');

/** A queue of `work` items; a turn takes 10 of them. */
class StubQueue implements LoopQueue {
  work = 0;
  inFlight = 0;
  turnsTaken = 0;
  peeks = 0;
  onTurn: (() => void) | null = null;

  turn(): boolean {
    this.turnsTaken++;
    this.work -= Math.min(this.work, 10);
    this.onTurn?.();
    return this.work > 0;
  }
  wantsTurn(): boolean {
    this.peeks++;
    return this.work > 0;
  }
  sleep(): boolean {
    throw new Error('kicks are asked for');
  }
}

async function withQueues(
  count: number,
  use: (loop: PollingLoop, ...queues: StubQueue[]) => Promise<void>,
): Promise<void> {
  const loop = new PollingLoop();
  const queues = Array.from({ length: count }, () => new StubQueue());
  for (const queue of queues) loop.add(queue);
  try {
    await use(loop, ...queues);
  } finally {
    // What is left polls on, and the process would not end.
    for (const queue of queues) loop.remove(queue);
  }
}

test('chains are served without a kick, and none is asked for', () =>
  withQueues(2, async (_, first, second) => {
    for (let i = 0; i < 3; i++) {
      first!.work = 35;
      second!.work = 5;
      // How many turns fit into a slice is the machine's business.
      await until(() => first!.work === 0 && second!.work === 0, 'all is served');
    }
    assert.equal([first!.turnsTaken, second!.turnsTaken], [12, 3]);
  }));

test('a kick that comes all the same changes nothing', () =>
  withQueues(1, async (loop, queue) => {
    await turns(1);
    (loop as QueueScheduler).kicked(queue!);
    await turns(2);
    assert.is(queue!.turnsTaken, 0);
  }));

test('a queue that asks for a turn has one, whether it has chains or not', () =>
  withQueues(2, async (loop, queue, other) => {
    loop.schedule(queue!);
    await turns(2);
    assert.equal([queue!.turnsTaken, other!.turnsTaken], [1, 0]);
  }));

test('a queue that never runs dry starves neither the others nor the sockets', () =>
  withQueues(2, async (_, busy, other) => {
    busy!.work = Infinity;
    for (let i = 0; i < 5; i++) {
      other!.work = 1;
      await turns(2);
      assert.is(other!.work, 0);
    }
    assert.ok(busy!.turnsTaken >= 10);
  }));

test('while chains are with the device it leaves off looking for Node to bring completions', () =>
  withQueues(1, async (_, queue) => {
    queue!.inFlight = 1;
    await turns(2);
    const { peeks } = queue!;
    await turns(10);
    assert.ok(queue!.peeks > peeks && queue!.peeks <= peeks + 20, `${queue!.peeks - peeks} peeks`);
  }));

test('a queue may be removed in its own turn, and has no more then', () =>
  withQueues(2, async (loop, queue, other) => {
    queue!.work = 100;
    queue!.onTurn = () => loop.remove(queue!);
    other!.work = 1;
    await turns(3);
    assert.equal([queue!.turnsTaken, other!.work], [1, 0]);
    loop.schedule(queue!);
    await turns(3);
    assert.is(queue!.turnsTaken, 1);
  }));

test('without queues nothing keeps the process', async () => {
  const loop = new PollingLoop();
  const queue = new StubQueue();
  loop.add(queue);
  loop.remove(queue);
  await turns(2);
  assert.is(queue.peeks, 0);
  assert.ok(!process.getActiveResourcesInfo().includes('Immediate'));
});

test.run();
