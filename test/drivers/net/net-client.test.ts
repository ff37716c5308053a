/** The network client against this package's network device, in memory. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { EchoPort } from '../../../runtime/backings/ports/echo.js';
import { PlatformPacketMemory } from '../../../runtime/backings/ports/packet-memory.js';
import { SourcePort } from '../../../runtime/backings/ports/source.js';
import { NetDevice } from '../../../runtime/devices/net/index.js';
import { NetClient } from '../../../runtime/drivers/net/net-client.js';
import { PACKET_STRIDE, PacketField, PacketTable } from '../../../runtime/drivers/net/packet-table.js';
import { createFakePlatform, Loopback, type LoopbackOptions } from '../../../runtime/testing/index.js';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';

const test = suite('network client');

const variants: LoopbackOptions[] = [
  {},
  { eventIdx: false },
  { inOrder: true },
  { indirect: false },
  { queueSize: 8 },
  { ram: { regions: 4, size: 16 << 20 } },
];

/** `length` bytes of a packet that says which it is. */
function packet(length: number, number: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i < 12 ? 2 : (i * 7 + number * 13) & 0xff));
}

function echo(options: LoopbackOptions = {}): Loopback {
  const platform = createFakePlatform();
  return new Loopback(new NetDevice(new EchoPort(new PlatformPacketMemory(platform))), {
    platform,
    ...options,
  });
}

for (const format of ['split', 'packed'] as const) {
  for (const mergeable of [true, false]) {
    for (const variant of variants) {
      const name = `${format}, mergeable ${mergeable}, ${JSON.stringify(variant)}`;
      test(`${name}: packets of every length come back in order`, async () => {
        const deviceFeatures = mergeable ? NetFeature.mrgRxbuf : 0n;
        await using loopback = echo({ format, deviceFeatures, ...variant });
        using client = new NetClient(loopback);
        const packets = Array.from({ length: 300 }, (_, i) => packet(14 + ((i * 97) % 1505), i));
        const signal = AbortSignal.timeout(120_000);
        const [received] = await Promise.all([
          client.receive(packets.length, { signal }),
          client.send(packets, { signal }),
        ]);
        assert.equal(
          received.map(({ bytes }) => bytes),
          packets,
        );
        // virtio 1.4, 5.1.6.4.1: num-buffers is 1 for a packet in one buffer, mergeable or not.
        for (const { header } of received) assert.equal(header, [0, 0, 1 << 16]);
      });
    }
  }

  test(`${format}: with mergeable buffers a packet may span many of them`, async () => {
    await using loopback = echo({ format, deviceFeatures: NetFeature.mrgRxbuf });
    using client = new NetClient(loopback, { receive: { bufferLength: 100 } });
    const packets = [1514, 14, 88, 89, 600, 1514].map(packet);
    const signal = AbortSignal.timeout(120_000);
    await client.send(packets, { signal });
    const received = await client.receive(packets.length, { signal });
    assert.equal(
      received.map(({ bytes }) => bytes),
      packets,
    );
    assert.equal(
      received.map(({ header }) => header[2] >>> 16),
      packets.map(({ byteLength }) => Math.ceil((byteLength + 12) / 100)),
    );
  });

  test(`${format}: bursts go without copies, by rows of a table`, async () => {
    await using loopback = echo({ format, deviceFeatures: NetFeature.mrgRxbuf });
    using client = new NetClient(loopback);
    const { receiver, transmitter } = client.pairs[0]!;
    const { u8 } = client.memory.platform.windows;
    const out = new PacketTable(32);
    const back = new PacketTable(32);
    let received = 0;
    for (let round = 0; round < 40; round++) {
      await transmitter.room();
      const count = transmitter.reserve(out);
      for (let row = 0; row < count; row++) {
        const window = u8[out.segments[row * 4]!]!;
        window.set(packet(60, round * 32 + row), out.segments[row * 4 + 1]);
        out.packets[row * PACKET_STRIDE + PacketField.length] = 60;
      }
      transmitter.send(out);
      assert.is(out.count, 0);
      for (let left = count; left > 0;) {
        await receiver.ready();
        left -= receiver.receive(back);
        for (let row = 0; row < back.count; row++) {
          const at = row * PACKET_STRIDE;
          assert.is(back.packets[at + PacketField.length], 60);
          const segment = back.packets[at + PacketField.firstSegment]! * 4;
          const [window, offset, length] = back.segments.subarray(segment, segment + 3);
          assert.equal(u8[window!]!.slice(offset, offset! + length!), packet(60, received++));
        }
        receiver.release(back);
      }
    }
    await transmitter.drained();
    assert.is(transmitter.completed, received);
    assert.is(receiver.atDevice, receiver.queue.driver.size);
  });

  test(`${format}: rows that are reserved and not sent are free again`, async () => {
    await using loopback = echo({ format, queueSize: 8 });
    using client = new NetClient(loopback);
    const { transmitter } = client.pairs[0]!;
    const table = new PacketTable(8);
    assert.is(transmitter.reserve(table), 8);
    assert.is(transmitter.reserve(new PacketTable(8)), 0);
    for (let row = 0; row < 8; row++) table.packets[row * PACKET_STRIDE + PacketField.length] = 60;
    transmitter.send(table, 3);
    assert.is(transmitter.underWay, 3);
    assert.is(transmitter.reserve(table), 5);
    transmitter.send(table, 0);
    await transmitter.drained();
    assert.is(transmitter.reserve(table), 8);
  });

  test(`${format}: what the caller holds is not given to the device, and nothing is lost meanwhile`, async () => {
    const platform = createFakePlatform();
    const port = new SourcePort(new PlatformPacketMemory(platform), { limit: 100, burst: 16 });
    await using loopback = new Loopback(new NetDevice(port), { platform, format, queueSize: 16 });
    using client = new NetClient(loopback);
    const { receiver } = client.pairs[0]!;
    const tables = [new PacketTable(4), new PacketTable(4), new PacketTable(4), new PacketTable(4)];
    const numbers: number[] = [];
    while (numbers.length < 100) {
      for (const table of tables) {
        if (numbers.length === 100) break;
        await receiver.ready(AbortSignal.timeout(120_000));
        receiver.receive(table);
        for (let row = 0; row < table.count; row++) {
          const segment = table.packets[row * PACKET_STRIDE + PacketField.firstSegment]!;
          const window = platform.windows.u8[table.segments[segment * 4]!]!;
          const offset = table.segments[segment * 4 + 1]! + 14;
          numbers.push(window[offset]! | (window[offset + 1]! << 8));
        }
      }
      for (const table of tables) receiver.release(table);
    }
    assert.equal(
      numbers,
      Array.from({ length: 100 }, (_, i) => i),
    );
    port.close();
  });
}

test('a header of the sender comes back where both sides negotiated what it says', async () => {
  const checksum = NetFeature.csum | NetFeature.guestCsum;
  await using loopback = echo({ deviceFeatures: checksum });
  using client = new NetClient(loopback);
  // NEEDS_CSUM with the checksum over byte 14 on, to be put 6 bytes behind that.
  await client.send([packet(80, 1)], { header: [1, 14 << 16, 6] });
  const [received] = await client.receive(1);
  assert.equal(received!.header, [1, 14 << 16, 6 | (1 << 16)]);
  assert.equal(received!.bytes, packet(80, 1));
});

test('a packet that cannot be sent is refused, with nothing sent', async () => {
  await using loopback = echo();
  using client = new NetClient(loopback);
  const { transmitter } = client.pairs[0]!;
  for (const length of [0, 1519]) {
    try {
      await client.send([packet(60, 0), packet(length, 0)]);
      assert.unreachable();
    } catch (error) {
      assert.match(String(error), new RegExp(`${length} bytes; 1 to 1518`));
    }
    const table = new PacketTable(1);
    transmitter.reserve(table);
    table.packets[PacketField.length] = length;
    assert.throws(() => transmitter.send(table), /1 to 1518/);
    transmitter.send(table, 0);
  }
  assert.is(transmitter.underWay, 0);
});

test('waiting for a packet ends when the signal aborts, and the next one still comes', async () => {
  await using loopback = echo();
  using client = new NetClient(loopback);
  const abort = new AbortController();
  const waiting = client.receive(1, { signal: abort.signal });
  setImmediate(() => abort.abort());
  try {
    await waiting;
    assert.unreachable();
  } catch (error) {
    assert.is((error as Error).name, 'AbortError');
  }
  await client.send([packet(60, 5)]);
  assert.equal((await client.receive(1))[0]!.bytes, packet(60, 5));
});

test.run();
