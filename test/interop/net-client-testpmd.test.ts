import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NetClient, type NetStartOptions } from '../../runtime/drivers/net/net-client.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { PATIENCE, TemporaryFolder } from '../support/guest/processes.js';
import { Testpmd, testpmdPath } from '../support/testpmd.js';
import { VirtioFeature } from '../../generated/virtio/features.js';

const test = suite("the network client on testpmd's net_vhost");

const LIMIT_MS = PATIENCE;
const LENGTHS = [60, 64, 1500];
const PACKETS = 700;

/** A frame that says which it is, between two addresses. */
function frame(length: number, number: number): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, i) => (i * 7 + number * 31) & 0xff);
  bytes.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
  new DataView(bytes.buffer).setUint32(14, number);
  return bytes;
}

/** The same as it comes back from macswap. */
function swapped(bytes: Uint8Array): Uint8Array {
  const back = bytes.slice();
  back.set(bytes.subarray(6, 12), 0);
  back.set(bytes.subarray(0, 6), 6);
  return back;
}

function start(path: string, options: Partial<NetStartOptions>): Promise<NetClient> {
  const signal = AbortSignal.timeout(LIMIT_MS);
  return NetClient.start({ platform: createLinuxPlatform(), path, signal, ...options });
}

/** Sends packets round after round and has every one of them back, in order. Gives how many they were. */
async function exchange(
  client: NetClient,
  pair: number,
  expected: (bytes: Uint8Array) => Uint8Array,
): Promise<number> {
  const signal = AbortSignal.timeout(LIMIT_MS);
  let sent = 0;
  for (const length of LENGTHS) {
    const packets = Array.from({ length: PACKETS }, (_, i) => frame(length, sent + i));
    // Fewer under way than the ring has buffers: what testpmd cannot give back at once it drops.
    for (let at = 0; at < packets.length; at += 64) {
      const some = packets.slice(at, at + 64);
      await client.send(some, { pair, signal });
      const back = await client.receive(some.length, { pair, signal });
      for (const [i, { bytes }] of back.entries()) {
        if (Buffer.compare(bytes, expected(some[i]!)) !== 0) assert.equal(bytes, expected(some[i]!));
      }
    }
    sent += packets.length;
  }
  return sent;
}

/** It counts a burst a little after the packets have left. */
async function assertCounts(testpmd: Testpmd, total: number): Promise<void> {
  const counts = await testpmd.until(
    'all counted',
    ({ received, sent }) => received >= total && sent >= total,
  );
  assert.equal(counts, { received: total, sent: total });
}

if (testpmdPath === null) {
  console.log('dpdk-testpmd is not installed: nothing is tested here');
} else {
  const variants: Partial<NetStartOptions>[] = [
    {},
    { netFeatures: 0n },
    { inOrder: true },
    { receive: { bufferLength: 512 } },
    { memory: { size: 16 << 20, regions: 4 } },
    { withoutCall: true },
  ];
  for (const format of ['split', 'packed'] as const) {
    test(`${format}: packets are counted there and come back as they were, or with addresses swapped`, async () => {
      using folder = new TemporaryFolder();
      const socket = folder.file('net');
      await using testpmd = await Testpmd.startBackend(socket, { queues: 1 });
      let total = 0;
      for (const [i, variant] of variants.entries()) {
        const mode = i % 2 === 0 ? 'macswap' : 'io';
        await testpmd.run('stop', `set fwd ${mode}`, 'start');
        using client = await start(socket, { format, ...variant });
        const packed = (client.driver.features & VirtioFeature.ringPacked) !== 0n;
        assert.is(packed, format === 'packed');
        total += await exchange(client, 0, mode === 'io' ? (bytes) => bytes : swapped);
        const { transmitter } = client.pairs[0]!;
        await transmitter.drained(AbortSignal.timeout(LIMIT_MS));
        assert.is(transmitter.completed, PACKETS * LENGTHS.length);
        await assertCounts(testpmd, total);
      }
    });

    test(`${format}: two pairs, the second one disabled and enabled again while it runs`, async () => {
      using folder = new TemporaryFolder();
      const socket = folder.file('net');
      await using testpmd = await Testpmd.startBackend(socket, { queues: 2 }, ['--rxq=2', '--txq=2']);
      await testpmd.run('stop', 'set fwd macswap', 'start');
      using client = await start(socket, { format, queuePairs: 2 });
      let total = 0;
      for (const pair of [0, 1]) total += await exchange(client, pair, swapped);
      await client.control!.setQueuePairs(1);
      total += await exchange(client, 0, swapped);
      await client.control!.setQueuePairs(2);
      for (const pair of [0, 1]) total += await exchange(client, pair, swapped);
      await assertCounts(testpmd, total);
    });
  }
}

test.run();
