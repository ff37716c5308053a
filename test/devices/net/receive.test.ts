import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { type OfferedChain, UNTOUCHED } from '../../support/fake-device-queue.js';
import { Random } from '../../support/random.js';
import { Card, frame, mac, PLAIN } from './harness.js';

const test = suite('receive queues of the network device');

const { version1 } = VirtioFeature;
const MERGEABLE = version1 | NetFeature.mrgRxbuf;

/** What a timer of the device brings about. */
async function until(done: () => boolean): Promise<void> {
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 5));
}

for (const [name, features, size] of [
  ['version 1', version1, 12],
  ['legacy', 0n, 10],
  ['legacy, mergeable', NetFeature.mrgRxbuf, 12],
  ['packed 46: packed without mergeable buffers', VirtioFeature.ringPacked, 12],
] as const) {
  test(`a packet lies behind a header of ${size} bytes: ${name}`, () => {
    const card = new Card({ features });
    const chain = card.receive[0]!.offer([], [1526]);
    card.deliver([{ bytes: frame(60) }]);
    assert.is(chain.written, size + 60);
    assert.ok(chain.published);
    // num-buffers is there in the long header only, and 1 then.
    assert.equal(card.received(chain), {
      header: { ...PLAIN, numBuffers: size === 12 ? 1 : 0 },
      bytes: frame(60),
    });
    assert.ok(chain.answer.subarray(size + 60).every((byte) => byte === UNTOUCHED));
  });
}

test('C11, C18: header and packet over descriptors of one byte each, at odd addresses', () => {
  for (const features of [version1, MERGEABLE]) {
    const card = new Card({ features });
    const chain = card.receive[0]!.offer([], new Array(72).fill(1));
    card.deliver([{ bytes: frame(60) }]);
    assert.equal(card.received(chain), { header: { ...PLAIN, numBuffers: 1 }, bytes: frame(60) });
    assert.ok(card.receive[0]!.gapsUntouched);
  }
});

test('a packet fills several mergeable buffers, and num-buffers says how many', () => {
  const card = new Card({ features: MERGEABLE });
  const chains = [100, 12, 20, 900, 500].map((length) => card.receive[0]!.offer([], [length]));
  card.deliver([{ bytes: frame(1000) }]);
  assert.equal(
    chains.map(({ written }) => written),
    [100, 12, 20, 880, null],
  );
  assert.equal(card.received(...chains.slice(0, 4)), {
    header: { ...PLAIN, numBuffers: 4 },
    bytes: frame(1000),
  });
  assert.is(chains[4]!.written, null, 'no buffer is taken that is not needed');
});

test('C18: the first of several buffers is exactly a header, split in two', () => {
  const card = new Card({ features: MERGEABLE });
  const chains = [card.receive[0]!.offer([], [11, 1]), card.receive[0]!.offer([], [60])];
  card.deliver([{ bytes: frame(60) }]);
  assert.equal(card.received(...chains), { header: { ...PLAIN, numBuffers: 2 }, bytes: frame(60) });
});

test('a packet that no buffer can hold is dropped, and the buffer serves the next one', () => {
  const card = new Card();
  const chain = card.receive[0]!.offer([], [112]);
  card.deliver([{ bytes: frame(101) }, { bytes: frame(100) }]);
  assert.equal(card.received(chain).bytes, frame(100));
  assert.is(card.device.counters.receiveOversize, 1);
});

test('a buffer that a packet did not fit serves a later burst', () => {
  const card = new Card();
  const chain = card.receive[0]!.offer([], [112]);
  card.deliver([{ bytes: frame(101) }]);
  assert.is(chain.written, null);
  card.deliver([{ bytes: frame(70) }]);
  assert.equal(card.received(chain).bytes, frame(70));
});

test('buffers without room for a header, or without any, are given back empty', () => {
  const card = new Card();
  const queue = card.receive[0]!;
  const bad = [queue.offer([], [11]), queue.offer([frame(60)], []), queue.offer([], [])];
  const good = queue.offer([frame(20)], [200]);
  card.deliver([{ bytes: frame(60) }]);
  assert.equal(
    bad.map(({ written }) => written),
    [0, 0, 0],
  );
  assert.equal(card.received(good).bytes, frame(60));
  assert.is(card.device.counters.receiveBadBuffers, 3);
});

test('packets wait for buffers in their order, and those that came later wait behind them', () => {
  const card = new Card();
  const queue = card.receive[0]!;
  const chains = [queue.offer([], [200])];
  card.deliver([1, 2, 3].map((seed) => ({ bytes: frame(60, seed) })));
  assert.is(card.device.waiting(0), 2);
  assert.ok(queue.resumes > 0, 'kicks are asked for');
  card.deliver([{ bytes: frame(60, 4) }]);
  chains.push(queue.offer([], [200]), queue.offer([], [200]));
  card.serveReceive();
  assert.is(card.device.waiting(0), 1);
  chains.push(queue.offer([], [200]), queue.offer([], [200]));
  card.port.ready.length = 0;
  card.serveReceive();
  assert.equal(card.port.ready, [0]);
  assert.equal(
    chains.slice(0, 4).map((chain) => card.received(chain).bytes),
    [1, 2, 3, 4].map((seed) => frame(60, seed)),
  );
  assert.is(chains[4]!.written, null);
});

test('what is offered and has no buffers stays with the port, behind what waits', () => {
  const card = new Card();
  const queue = card.receive[0]!;
  const offer = (...seeds: number[]): number => card.offer(seeds.map((seed) => ({ bytes: frame(60, seed) })));
  queue.offer([], [200]);
  assert.is(offer(1, 2), 1);
  assert.ok(queue.resumes > 0, 'kicks are asked for');
  card.deliver([{ bytes: frame(60, 2) }]);
  assert.is(offer(3), 0);
  for (let i = 0; i < 3; i++) queue.offer([], [200]);
  assert.is(offer(3, 4, 5), 2);
  assert.equal(
    queue.completed.map((chain) => card.received(chain).bytes),
    [1, 2, 3, 4].map((seed) => frame(60, seed)),
  );
  assert.is(card.device.counters.receiveOverrun, 0);
  card.device.stopQueue(queue);
  assert.is(offer(5, 6), 2);
  assert.is(card.device.counters.receiveUnwanted, 2);
});

test('an offered packet that is not fit for the driver is made fit, and those behind it keep their place', () => {
  const card = new Card({ features: version1 });
  const queue = card.receive[0]!;
  for (let i = 0; i < 2; i++) queue.offer([], [200]);
  const partial = { ...PLAIN, flags: 1, csumStart: 34, csumOffset: 16 };
  const packets = [
    { bytes: frame(60, 1) },
    { bytes: frame(60, 2), header: partial },
    { bytes: frame(60, 3), header: partial },
    { bytes: frame(60, 4) },
  ];
  assert.is(card.offer(packets), 3, 'the third is made fit, waits, and keeps the fourth from its turn');
  assert.is(card.device.counters.softwareChecksums, 2);
  assert.is(card.device.waiting(0), 1);
  for (let i = 0; i < 2; i++) queue.offer([], [200]);
  assert.is(card.offer(packets.slice(3)), 1);
  assert.equal(
    queue.completed.map((chain) => card.received(chain).bytes[20]),
    [1, 2, 3, 4].map((seed) => frame(60, seed)[20]),
  );
});

test('a packet that waits for the rest of its buffers keeps those that it has', () => {
  const card = new Card({ features: MERGEABLE });
  const queue = card.receive[0]!;
  const chains: OfferedChain[] = [queue.offer([], [100]), queue.offer([], [100])];
  card.deliver([{ bytes: frame(400) }]);
  assert.is(queue.completed.length, 0);
  for (let i = 0; i < 3; i++) {
    chains.push(queue.offer([], [100]));
    card.serveReceive();
  }
  assert.equal(card.received(...chains), { header: { ...PLAIN, numBuffers: 5 }, bytes: frame(400) });
});

test('a driver that adds no buffers while a packet waits for more gets the next ones', async () => {
  const card = new Card({ features: MERGEABLE });
  const queue = card.receive[0]!;
  const { counters } = card.device;
  const chains = [queue.offer([], [100]), queue.offer([], [100])];
  card.deliver([{ bytes: frame(400) }, { bytes: frame(60, 1) }]);
  assert.is(card.device.waiting(0), 2);
  await until(() => counters.receiveOversize === 1);
  assert.equal(card.received(chains[0]!).bytes, frame(60, 1));
  assert.is(card.device.waiting(0), 0);
  // From now on such packets do not wait, and shorter ones do; until there is room for one after all.
  card.deliver([{ bytes: frame(500) }]);
  assert.equal([counters.receiveOversize, card.device.waiting(0)], [2, 0]);
  card.deliver([{ bytes: frame(200) }]);
  assert.equal([counters.receiveOversize, card.device.waiting(0)], [2, 1]);
  for (let i = 0; i < 11; i++) queue.offer([], [100]);
  card.serveReceive();
  card.deliver([{ bytes: frame(450) }, { bytes: frame(400) }]);
  assert.equal([counters.received, counters.receiveOversize], [3, 2]);
  assert.is(card.device.waiting(0), 1, 'the last one waits again');
  card.device.stopQueue(queue);
});

test('so it does of a port that keeps its packets', async () => {
  const card = new Card({ features: MERGEABLE });
  const queue = card.receive[0]!;
  const chains = [queue.offer([], [100]), queue.offer([], [100])];
  const packets = [{ bytes: frame(400) }, { bytes: frame(60, 1) }];
  card.port.ready.length = 0;
  assert.is(card.offer(packets), 0);
  await until(() => card.port.ready.length > 0);
  assert.is(card.offer(packets), 2);
  assert.is(card.device.counters.receiveOversize, 1);
  assert.equal(card.received(chains[0]!).bytes, frame(60, 1));
  card.device.stopQueue(queue);
});

test('what waits is bounded, by number and by bytes, and the rest is counted', () => {
  for (const [length, count, most] of [
    [60, 1200, 1024],
    [60_000, 100, 70],
  ] as const) {
    const card = new Card();
    const bytes = frame(length);
    for (let i = 0; i < count; i++) card.deliver([{ bytes }]);
    const waiting = card.device.waiting(0);
    assert.ok(waiting <= most && waiting > most / 2, `${waiting} wait`);
    assert.is(card.device.counters.receiveOverrun, count - waiting);
  }
});

test('a queue that stops gives back what it has and forgets what waits', () => {
  const card = new Card({ features: MERGEABLE });
  const queue = card.receive[0]!;
  const chain = queue.offer([], [100]);
  card.deliver([{ bytes: frame(400) }]);
  assert.is(queue.inFlight, 1);
  card.device.stopQueue(queue);
  assert.is(queue.inFlight, 0);
  assert.is(chain.written, 0);
  card.deliver([{ bytes: frame(60) }]);
  assert.is(card.device.counters.receiveUnwanted, 2);
});

test('a packet that would take more buffers than the queue has is dropped', () => {
  const card = new Card({ features: MERGEABLE, size: 8 });
  const queue = card.receive[0]!;
  const chains = Array.from({ length: 8 }, () => queue.offer([], [20]));
  card.deliver([{ bytes: frame(400) }, { bytes: frame(60) }]);
  assert.is(card.device.counters.receiveOversize, 1);
  assert.equal(card.received(...chains.slice(0, 4)).bytes, frame(60));
});

test('so is one that would take more than the ring holds of buffers in several descriptors; it does not wait for ever', () => {
  const card = new Card({ features: MERGEABLE, size: 8 });
  const queue = card.receive[0]!;
  const chains = Array.from({ length: 3 }, () => queue.offer([], [10, 10]));
  card.deliver([{ bytes: frame(400) }, { bytes: frame(60, 1) }]);
  assert.is(card.device.counters.receiveOversize, 0, 'the ring holds one more');
  assert.is(card.device.waiting(0), 2);
  chains.push(queue.offer([], [10, 10]));
  card.serveReceive();
  assert.is(card.device.counters.receiveOversize, 1);
  assert.is(card.device.waiting(0), 0);
  assert.equal(card.received(...chains).bytes, frame(60, 1));
});

test('with MTU negotiated no longer packet reaches the driver, unless it is to be cut', () => {
  const features = version1 | NetFeature.mtu | NetFeature.guestCsum | NetFeature.guestTso4;
  const card = new Card({ features, options: { mtu: 1000 } });
  for (let i = 0; i < 3; i++) card.receive[0]!.offer([], [4096]);
  const tso = { flags: 1, gsoType: 1, gsoSize: 900, csumStart: 34, csumOffset: 16 };
  card.deliver([
    { bytes: frame(1018) },
    { bytes: frame(1019) },
    { bytes: frame(1019), header: { ...PLAIN, flags: 1, csumStart: 34, csumOffset: 16 } },
    { bytes: frame(3000), header: { ...PLAIN, ...tso } },
  ]);
  assert.equal([card.device.counters.received, card.device.counters.receiveOversize], [2, 2]);
  assert.ok(card.device.setMtu(1500));
  card.deliver([{ bytes: frame(1518) }]);
  assert.is(card.device.counters.received, 3);
});

test('packets of all kinds through buffers of all kinds arrive whole and in order', () => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = new Random(seed);
    const mergeable = !random.chance(3);
    const card = new Card({ features: mergeable ? MERGEABLE : version1 });
    const queue = card.receive[0]!;
    const sent: Uint8Array[] = [];
    while (sent.length < 150) {
      for (let i = random.below(20); i > 0; i--) {
        const length = mergeable ? 12 + random.below(800) : 12 + 1500;
        queue.offer([], random.cut(length));
      }
      const burst = Array.from({ length: 1 + random.below(12) }, (_, i) =>
        frame(14 + random.below(random.chance(3) ? 900 : 200), sent.length + i),
      );
      sent.push(...burst);
      card.deliver(burst.map((bytes) => ({ bytes })));
      if (random.chance(2)) card.serveReceive();
    }
    while (card.device.waiting(0) > 0) {
      queue.offer([], [1600]);
      card.serveReceive();
    }
    const received: Uint8Array[] = [];
    for (let i = 0; i < queue.completed.length;) {
      const count = card.received(queue.completed[i]!).header.numBuffers;
      received.push(card.received(...queue.completed.slice(i, i + count)).bytes);
      i += count;
    }
    const dropped = card.device.counters.receiveOversize;
    assert.is(dropped, 0, `seed ${seed}`);
    assert.is(received.length, sent.length, `seed ${seed}`);
    received.forEach((bytes, i) => assert.equal(bytes, sent[i], `seed ${seed}, packet ${i}`));
    assert.ok(queue.gapsUntouched);
  }
});

test('a receive queue that fails does not harm who sends to it', () => {
  const card = new Card();
  const queue = card.receive[0]!;
  const chain = queue.offer([], [200]);
  queue.pushBatch = () => {
    throw new Error('no such memory');
  };
  card.deliver([{ bytes: frame(60) }]);
  assert.match((queue.failure as Error).message, /receive queue 0: packets could not be delivered/);
  assert.is(chain.written, 0);
  assert.is(queue.inFlight, 0);
});

test('multiqueue: a flow is received on the pair on which it was sent', () => {
  const card = new Card({ options: { queuePairs: 2, mac: mac(1) } });
  for (const queue of card.receive) for (let i = 0; i < 8; i++) queue.offer([], [1526]);
  const flow = (from: number, to: number, fromPort: number, toPort: number): Uint8Array => {
    const bytes = frame(80);
    bytes.set([0x08, 0x00, 0x45], 12);
    bytes[23] = 6;
    bytes.set([10, 0, 0, from, 10, 0, 0, to, fromPort >> 8, fromPort, toPort >> 8, toPort], 26);
    return bytes;
  };
  for (let port = 1; port <= 4; port++) card.send(flow(1, 2, port, 80), { pair: port % 2 });
  card.serveTransmit(0);
  card.serveTransmit(1);
  card.deliver(
    [1, 2, 3, 4].map((port) => ({ bytes: flow(2, 1, 80, port) })),
    -1,
  );
  assert.equal(
    card.receive.map(({ completed }) => completed.map((chain) => card.received(chain).bytes[37])),
    [
      [2, 4],
      [1, 3],
    ],
  );
});

test('multiqueue: what belongs to a pair that is disabled goes to one that is not', () => {
  const card = new Card({ options: { queuePairs: 2 } });
  for (const queue of card.receive) queue.offer([], [1526]);
  card.receive[1]!.enabled = false;
  card.deliver([{ bytes: frame(60) }], 1);
  assert.equal(
    card.receive.map(({ completed }) => completed.length),
    [1, 0],
  );
});

test.run();
