import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { Random } from '../../support/random.js';
import { Card, PLAIN } from './harness.js';
import { checkPacket, ipPacket } from './packets.js';

const test = suite('checksums and segmentation for drivers that do without');

const { version1 } = VirtioFeature;
const { guestCsum, guestTso4, guestTso6, guestEcn } = NetFeature;

function cardWith(features: bigint, buffers: number): Card {
  const card = new Card({ features: version1 | features });
  for (let i = 0; i < buffers; i++) card.receive[0]!.offer([], [12 + 65_600]);
  return card;
}

for (const version of [4, 6] as const) {
  for (const protocol of ['tcp', 'udp'] as const) {
    test(`a partial ${protocol} checksum over IPv${version} is completed for a driver without GUEST_CSUM`, () => {
      for (const payload of [0, 1, 2, 501, 1400]) {
        const { bytes, header } = ipPacket({ version, protocol, payload });
        const card = cardWith(0n, 1);
        card.deliver([{ bytes, header }]);
        const packet = card.received(card.receive[0]!.completed[0]!);
        assert.equal(packet.header, { ...PLAIN, numBuffers: 1 });
        assert.ok(checkPacket(packet.bytes), `payload of ${payload}`);
        assert.is(packet.bytes.byteLength, bytes.byteLength);
      }
    });

    test(`it passes unchanged with GUEST_CSUM: ${protocol}, IPv${version}`, () => {
      const { bytes, header } = ipPacket({ version, protocol, payload: 100 });
      const card = cardWith(guestCsum, 1);
      card.deliver([{ bytes, header }]);
      assert.equal(card.received(card.receive[0]!.completed[0]!), {
        bytes,
        header: { ...header, numBuffers: 1 },
      });
    });
  }

  test(`a large TCP packet over IPv${version} is cut for a driver without the offload`, () => {
    for (const vlan of [false, true]) {
      const { bytes, header } = ipPacket({ version, protocol: 'tcp', payload: 4321, gsoSize: 1448, vlan });
      for (const features of [0n, guestCsum, guestCsum | (version === 4 ? guestTso6 : guestTso4)]) {
        const card = cardWith(features, 8);
        card.deliver([{ bytes, header }]);
        const packets = card.receive[0]!.completed.map((chain) => card.received(chain));
        assert.is(packets.length, 3);
        const head = header.csumStart + 20;
        const ip = vlan ? 18 : 14;
        let at = head;
        packets.forEach((packet, i) => {
          const view = new DataView(packet.bytes.buffer);
          assert.equal(packet.header, { ...PLAIN, numBuffers: 1 });
          assert.ok(checkPacket(packet.bytes), `segment ${i}`);
          assert.is(
            view.getUint32(header.csumStart + 4),
            (0xffff_ff00 + at - head) >>> 0,
            'sequence, wrapping',
          );
          const flags = packet.bytes[header.csumStart + 13]!;
          assert.is(flags & 0x09, i === 2 ? 0x09 : 0, 'FIN and PSH in the last');
          assert.is(flags & 0x80, i === 0 ? 0x80 : 0, 'CWR in the first');
          if (version === 4)
            assert.is(view.getUint16(ip + 4), (0xffff + i) & 0xffff, 'identification, wrapping');
          assert.equal(packet.bytes.subarray(head), bytes.subarray(at, at + packet.bytes.byteLength - head));
          at += packet.bytes.byteLength - head;
        });
        assert.is(at, bytes.byteLength);
        assert.is(card.device.counters.softwareSegmented, 1);
      }
    }
  });

  test(`a large TCP packet over IPv${version} passes whole to a driver with the offload`, () => {
    const { bytes, header } = ipPacket({ version, protocol: 'tcp', payload: 60_000, gsoSize: 1448 });
    const card = cardWith(guestCsum | (version === 4 ? guestTso4 : guestTso6), 1);
    card.deliver([{ bytes, header }]);
    assert.equal(card.received(card.receive[0]!.completed[0]!), {
      bytes,
      header: { ...header, numBuffers: 1 },
    });
  });
}

test('ECN is an offload of its own', () => {
  const { bytes, header } = ipPacket({ version: 4, protocol: 'tcp', payload: 3000, gsoSize: 1448 });
  const ecn = { ...header, gsoType: header.gsoType | 0x80 };
  for (const [features, count] of [
    [guestCsum | guestTso4, 3],
    [guestCsum | guestTso4 | guestEcn, 1],
  ] as const) {
    const card = cardWith(features, 4);
    card.deliver([{ bytes, header: ecn }]);
    assert.is(card.receive[0]!.completed.length, count);
  }
});

test('packets keep their order around one that is cut', () => {
  const large = ipPacket({ version: 4, protocol: 'tcp', payload: 3000, gsoSize: 1448 });
  const small = ipPacket({ version: 4, protocol: 'udp', payload: 10 });
  const card = cardWith(0n, 10);
  card.deliver([small, large, small]);
  assert.equal(
    card.receive[0]!.completed.map((chain) => chain.written! - 12 - 42),
    [10, 1460, 1460, 116, 10],
  );
});

test('DATA_VALID reaches only a driver with GUEST_CSUM', () => {
  const { bytes } = ipPacket({ version: 4, protocol: 'udp', payload: 10 });
  for (const [features, flags] of [
    [0n, 0],
    [guestCsum, 2],
  ] as const) {
    const card = cardWith(features, 1);
    card.deliver([{ bytes, header: { ...PLAIN, flags: 2 } }]);
    assert.equal(card.received(card.receive[0]!.completed[0]!), {
      bytes,
      header: { ...PLAIN, flags, numBuffers: 1 },
    });
  }
});

test('C12: packets that are not what their header says are dropped or delivered, and nothing else is written', () => {
  const random = new Random(33);
  const card = cardWith(0n, 0);
  const queue = card.receive[0]!;
  for (let round = 0; round < 1500; round++) {
    while (queue.offered.length - queue.completed.length < 4) queue.offer([], [2000]);
    const { bytes, header } = ipPacket({
      version: random.chance(2) ? 4 : 6,
      protocol: random.chance(4) ? 'udp' : 'tcp',
      payload: random.below(1500),
      gsoSize: 200 + random.below(1300),
    });
    for (let i = random.below(4); i > 0; i--) bytes[random.below(bytes.byteLength)] = random.below(256);
    const odd = { ...header };
    if (random.chance(2)) odd.csumStart = random.below(bytes.byteLength - 1);
    if (random.chance(3)) odd.csumOffset = random.below(bytes.byteLength - 1 - odd.csumStart);
    card.deliver([{ bytes, header: odd }]);
    card.serveReceive();
  }
  assert.is(queue.failure, null);
  assert.ok(queue.gapsUntouched);
  assert.ok(card.device.counters.receiveUnsegmentable > 0);
  assert.ok(card.device.counters.softwareSegmented > 0);
});

test.run();
