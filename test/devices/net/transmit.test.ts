import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { Random } from '../../support/random.js';
import { Card, frame, PLAIN } from './harness.js';

const test = suite('transmit queues of the network device');

const { version1 } = VirtioFeature;
const OFFLOADING = version1 | NetFeature.csum | NetFeature.hostTso4;

for (const [name, features] of [
  ['12 bytes', version1],
  ['10 bytes', 0n],
] as const) {
  test(`C11: a header of ${name} over descriptors of one byte each`, () => {
    const card = new Card({ features });
    const chain = card.send(frame(60), { cuts: new Array(30).fill(1) });
    card.serveTransmit();
    assert.equal(card.port.sent, [{ header: PLAIN, bytes: frame(60), pair: 0 }]);
    assert.is(chain.written, 0);
    assert.ok(chain.published);
  });

  test(`C11: a chain of exactly a header of ${name}, or of less, is malformed and given back`, () => {
    const card = new Card({ features });
    const size = card.headerSize;
    const chains = [0, 1, size - 1, size, size + 13].map((length) =>
      card.transmit[0]!.offer(length === 0 ? [] : [new Uint8Array(length)], []),
    );
    card.send(frame(60));
    card.serveTransmit();
    assert.is(card.port.sent.length, 1);
    assert.is(card.device.counters.transmitMalformed, chains.length);
    assert.ok(chains.every((chain) => chain.written === 0 && chain.published));
  });
}

test('C21: descriptors of length zero anywhere in a packet', () => {
  const card = new Card();
  card.send(frame(100), { cuts: [0, 5, 0, 7, 0, 0, 50, 0] });
  card.serveTransmit();
  assert.equal(card.port.sent[0]!.bytes, frame(100));
});

test('packets of every length up to the longest, cut anywhere', () => {
  const random = new Random(7);
  const card = new Card();
  for (let round = 0; round < 60; round++) {
    const length = random.chance(10) ? 60_000 : 14 + random.below(3000);
    const bytes = frame(length, round);
    card.send(bytes, { cuts: random.cut(length) });
    card.serveTransmit();
    assert.equal(card.port.sent.pop()!.bytes, bytes, `round ${round}`);
  }
  assert.is(card.device.counters.transmitted, 60);
  assert.ok(card.transmit[0]!.gapsUntouched);
});

test('a packet beyond the longest that there may be is malformed', () => {
  const card = new Card();
  card.transmit[0]!.offer([new Uint8Array(12 + 65_598)], []);
  card.serveTransmit();
  assert.is(card.device.counters.transmitMalformed, 1);
});

test('a burst of many packets keeps its order and is given back at once', () => {
  const card = new Card();
  const chains = Array.from({ length: 300 }, (_, i) => card.send(frame(60 + (i % 7), i)));
  card.serveTransmit();
  assert.equal(
    card.port.sent.map(({ bytes }) => bytes),
    chains.map((_, i) => frame(60 + (i % 7), i)),
  );
  assert.equal(card.transmit[0]!.completed, chains);
});

test('what the port cannot take stays in the ring, and what it has begun is sent when it can', () => {
  const card = new Card();
  const chains = Array.from({ length: 200 }, (_, i) => card.send(frame(60, i)));
  card.port.credit = 5;
  card.serveTransmit();
  assert.is(card.port.sent.length, 5);
  assert.is(card.transmit[0]!.completed.length, 0);
  card.serveTransmit();
  assert.is(card.port.sent.length, 5, 'a kick changes nothing');
  card.port.credit = Infinity;
  card.device.transmitReady(0);
  assert.is(card.transmit[0]!.resumes, 1);
  card.serveTransmit();
  assert.equal(
    card.port.sent.map(({ bytes }) => bytes),
    chains.map((_, i) => frame(60, i)),
  );
  assert.is(card.transmit[0]!.inFlight, 0);
});

test('a queue that stops while the port is blocked gives everything back', () => {
  const card = new Card();
  for (let i = 0; i < 10; i++) card.send(frame(60, i));
  card.port.credit = 3;
  card.serveTransmit();
  card.device.stopQueue(card.transmit[0]!);
  assert.is(card.transmit[0]!.inFlight, 0);
  card.device.transmitReady(0);
});

test('nothing is sent while the link is down', () => {
  const card = new Card();
  card.port.up = false;
  card.send(frame(60));
  card.serveTransmit();
  assert.equal([card.port.sent.length, card.device.counters.transmitLinkDown], [0, 1]);
  assert.is(card.transmit[0]!.inFlight, 0);
});

test('a header is ignored when no offload was negotiated', () => {
  const card = new Card();
  card.send(frame(60), {
    header: { flags: 3, hdrLen: 9, gsoSize: 8, csumStart: 700, csumOffset: 6, numBuffers: 3 },
  });
  card.serveTransmit();
  assert.equal(card.port.sent[0]!.header, PLAIN);
});

test('bits that a driver must not set, and num-buffers, do not reach the port', () => {
  const card = new Card({ features: OFFLOADING });
  card.send(frame(60), { header: { flags: 0xff, csumStart: 34, csumOffset: 16, numBuffers: 3 } });
  card.send(frame(60), { header: { flags: 0xfe, csumStart: 34, csumOffset: 16 } });
  card.serveTransmit();
  assert.equal(
    card.port.sent.map(({ header }) => header),
    [{ ...PLAIN, flags: 1, csumStart: 34, csumOffset: 16 }, PLAIN],
  );
});

const partial = { flags: 1, csumStart: 34, csumOffset: 16 };
for (const [name, header, good] of [
  ['csum at the end of the packet', { flags: 1, csumStart: 82, csumOffset: 16 }, true],
  ['C12: csum one byte past the end', { flags: 1, csumStart: 83, csumOffset: 16 }, false],
  ['C12: csum-start beyond the packet', { flags: 1, csumStart: 0xffff, csumOffset: 0 }, false],
  [
    'C12: csum-start and csum-offset that overflow 16 bits',
    { flags: 1, csumStart: 0xffff, csumOffset: 0xffff },
    false,
  ],
  ['TSO', { ...partial, gsoType: 1, gsoSize: 1000 }, true],
  ['TSO without NEEDS_CSUM', { gsoType: 1, gsoSize: 1000 }, false],
  ['TSO with a size of 0', { ...partial, gsoType: 1, gsoSize: 0 }, false],
  ['TSO into crumbs', { ...partial, gsoType: 1, gsoSize: 1 }, false],
  ['TSO over IPv6, not negotiated', { ...partial, gsoType: 4, gsoSize: 1000 }, false],
  ['TSO with ECN, not negotiated', { ...partial, gsoType: 0x81, gsoSize: 1000 }, false],
  ['ECN alone', { ...partial, gsoType: 0x80, gsoSize: 1000 }, false],
  ['UFO', { ...partial, gsoType: 3, gsoSize: 1000 }, false],
  ['an unknown kind', { ...partial, gsoType: 0x7f, gsoSize: 1000 }, false],
] as const) {
  test(`offload header: ${name} is ${good ? 'taken' : 'malformed'}`, () => {
    const card = new Card({ features: OFFLOADING });
    card.send(frame(100), { header });
    card.serveTransmit();
    assert.equal([card.port.sent.length, card.device.counters.transmitMalformed], good ? [1, 0] : [0, 1]);
    assert.is(card.transmit[0]!.inFlight, 0);
  });
}

test('C12: no header, however odd, lets a checksum fall outside its packet', () => {
  const random = new Random(12);
  const card = new Card({ features: version1 | card0().device.features });
  for (let round = 0; round < 2000; round++) {
    const bytes = frame(14 + random.below(120), round);
    card.transmit[0]!.offer([Uint8Array.from({ length: 12 }, () => random.below(256)), bytes], []);
    card.serveTransmit();
    for (const { header } of card.port.sent.splice(0)) {
      assert.ok(header.csumStart + header.csumOffset + 2 <= bytes.byteLength, JSON.stringify(header));
      assert.ok(header.gsoType === 0 || (header.flags === 1 && header.gsoSize > 0));
    }
  }
  assert.is(card.transmit[0]!.completed.length, 2000);
});

function card0(): Card {
  return new Card();
}

test.run();
