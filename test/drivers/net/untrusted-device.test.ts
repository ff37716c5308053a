/** What the network client makes of a device that writes what it likes. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChainBatch, type DeviceQueue, type VirtioDevice } from '../../../runtime/device/index.js';
import { NetClient } from '../../../runtime/drivers/net/net-client.js';
import { PacketTable } from '../../../runtime/drivers/net/packet-table.js';
import { Loopback } from '../../../runtime/testing/index.js';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';

const test = suite('network client under a misbehaving device');

/** Gives receive buffers back with these bytes in them, one entry a buffer, and records what is sent. */
class ScriptedCard implements VirtioDevice {
  readonly deviceId = 1;
  readonly features = NetFeature.mrgRxbuf;
  readonly queueCount = 2;
  readonly sent: Uint8Array[] = [];
  readonly #batch = new ChainBatch(1, 8);
  readonly #answers: Uint8Array[];
  #receive: DeviceQueue | null = null;

  constructor(...answers: Uint8Array[]) {
    this.#answers = answers;
  }

  startQueue(queue: DeviceQueue): void {
    if (queue.index === 0) this.#receive = queue;
  }

  /** Gives one more buffer back. */
  answer(bytes: Uint8Array): void {
    this.#answers.push(bytes);
    this.#receive!.resume();
  }

  serveQueue(queue: DeviceQueue): void {
    const batch = this.#batch;
    while ((queue.index === 1 || this.#answers.length > 0) && queue.drain(batch, 1) > 0) {
      const [window, offset, length] = batch.segments;
      const bytes = queue.u8[window!]!.subarray(offset, offset! + length!);
      batch.written[0] = 0;
      if (queue.index === 1) this.sent.push(bytes.slice());
      else {
        const answer = this.#answers.shift()!;
        bytes.set(answer);
        batch.written[0] = answer.byteLength;
      }
      queue.pushBatch(batch, 1);
    }
  }
}

/** A buffer with a header that says `buffers`, and `length` bytes behind it. */
function answer(buffers: number, length: number, value = 7): Uint8Array {
  const bytes = new Uint8Array(12 + length).fill(value);
  bytes.fill(0, 0, 12);
  new DataView(bytes.buffer).setUint16(10, buffers, true);
  return bytes;
}

const bad: [string, Uint8Array, RegExp][] = [
  ['in no buffer', answer(0, 60), /a packet in 0 buffers; the device had 1 to 4/],
  ['in more buffers than there are', answer(5, 60), /a packet in 5 buffers/],
  ['shorter than its header', new Uint8Array(11), /11 bytes is shorter than its header/],
  ['of nothing at all', new Uint8Array(0), /0 bytes is shorter/],
];

for (const format of ['split', 'packed'] as const) {
  for (const [what, bytes, message] of bad) {
    test(`${format}: a packet ${what} is an error for ever, told behind the packets before it`, async () => {
      await using loopback = new Loopback(new ScriptedCard(answer(1, 60), bytes, answer(1, 60)), {
        format,
        queueSize: 4,
      });
      using client = new NetClient(loopback);
      const { receiver } = client.pairs[0]!;
      const table = new PacketTable(4);
      const signal = AbortSignal.timeout(120_000);
      await receiver.ready(signal);
      // The three buffers may come in several calls; the first packet comes in any case.
      assert.is(receiver.receive(table, 1), 1);
      receiver.release(table);
      for (let i = 0; i < 3; i++) {
        try {
          for (;;) {
            await receiver.ready(signal);
            assert.is(receiver.receive(table), 0);
          }
        } catch (error) {
          assert.match(String(error), message);
          assert.is((error as { code?: string }).code, 'ERR_DEVICE_REQUEST');
        }
      }
    });
  }

  test(`${format}: a packet appears when the last of its buffers is there`, async () => {
    const card = new ScriptedCard(answer(3, 10, 1));
    await using loopback = new Loopback(card, { format, queueSize: 4 });
    using client = new NetClient(loopback);
    const waiting = client.receive(1, { signal: AbortSignal.timeout(120_000) });
    let arrived = false;
    void waiting.then(() => (arrived = true));
    await turns();
    card.answer(new Uint8Array(5).fill(2));
    await turns();
    assert.not(arrived);
    card.answer(new Uint8Array(0));
    const [packet] = await waiting;
    assert.equal(packet!.bytes, Uint8Array.from([...Array(10).fill(1), ...Array(5).fill(2)]));
  });

  test(`${format}: a table without room for a packet's segments says so`, async () => {
    const card = new ScriptedCard(answer(2, 10), new Uint8Array(4));
    await using loopback = new Loopback(card, { format, queueSize: 4 });
    using client = new NetClient(loopback);
    const { receiver } = client.pairs[0]!;
    await receiver.ready(AbortSignal.timeout(120_000));
    assert.throws(() => receiver.receive(new PacketTable(1)), /2 buffers; the table takes 1 segments/);
  });
}

test('without VERSION_1, mergeable buffers and packed rings the header has 10 bytes', async () => {
  const card = new ScriptedCard(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa1, 0xa2, 0xa3));
  await using loopback = new Loopback(card, { queueSize: 4, deviceFeatures: 0n });
  using client = new NetClient({ queues: loopback.queues, features: 0n });
  const [packet] = await client.receive(1);
  assert.equal(packet, { bytes: Uint8Array.of(0xa1, 0xa2, 0xa3), header: [0, 0, 0] });
  await client.send([Uint8Array.of(0xb1, 0xb2, 0xb3, 0xb4)], { header: [0x0102_0304, 0x0506_0708, 0x090a] });
  await client.pairs[0]!.transmitter.drained();
  assert.equal(card.sent, [Uint8Array.of(4, 3, 2, 1, 8, 7, 6, 5, 0x0a, 9, 0xb1, 0xb2, 0xb3, 0xb4)]);
});

async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise(setImmediate);
}

test.run();
