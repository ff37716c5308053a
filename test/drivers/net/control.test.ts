/** The control queue in front of a back-end, and queue pairs, over a socket in memory. */
import { once } from 'node:events';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { EchoPort } from '../../../runtime/backings/ports/echo.js';
import { PlatformPacketMemory } from '../../../runtime/backings/ports/packet-memory.js';
import { NetDevice } from '../../../runtime/devices/net/index.js';
import { NetClient, type NetStartOptions } from '../../../runtime/drivers/net/net-client.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/testing/index.js';
import { serveDevice } from '../../../runtime/vhost-user/backend/server.js';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { NetStatus } from '../../../generated/virtio/devices/net/layouts.js';

const test = suite('control queue of the network client');

const PATH = '/run/net.sock';
const MAC = Uint8Array.of(2, 0, 0, 0, 0, 1);

async function withClient(
  options: Partial<NetStartOptions>,
  use: (client: NetClient, platform: FakePlatform) => Promise<void>,
): Promise<void> {
  const platform = createFakePlatform();
  const device = new NetDevice(new EchoPort(new PlatformPacketMemory(platform)), {
    mac: MAC,
    mtu: 9000,
    queuePairs: 4,
  });
  const backend = serveDevice(device, { platform, socketPath: PATH });
  try {
    using client = await NetClient.start({
      platform,
      path: PATH,
      signal: AbortSignal.timeout(120_000),
      queueSize: 64,
      ...options,
    });
    await use(client, platform);
  } finally {
    await backend.close();
  }
}

async function refused(command: Promise<void>): Promise<void> {
  try {
    await command;
  } catch (error) {
    assert.match(String(error), /refused \(1\)/);
    return;
  }
  assert.unreachable();
}

for (const format of ['split', 'packed'] as const) {
  test(`${format}: commands are answered by the front-end`, async () => {
    await withClient({ format }, async ({ control, controlState: state }) => {
      await control!.setReceive('promisc', true);
      await control!.setReceive('nobcast', true);
      await control!.setReceive('promisc', false);
      assert.equal(
        [...state!.receive],
        [
          ['promisc', false],
          ['nobcast', true],
        ],
      );
      await control!.setMac(MAC);
      assert.equal(state!.mac, MAC);
      const group = Uint8Array.of(1, 0, 0x5e, 0, 0, 1);
      await control!.setMacTable([MAC], [group, group]);
      assert.equal([state!.unicast, state!.multicast], [[MAC], [group, group]]);
      await control!.addVlan(5);
      await control!.addVlan(4095);
      await control!.removeVlan(5);
      assert.equal([...state!.vlans], [4095]);
      await control!.acknowledgeAnnouncement();
      assert.is(state!.announcements, 1);
    });
  });

  test(`${format}: commands that make no sense are refused, and the next ones still answered`, async () => {
    await withClient({ format }, async ({ control, controlState: state }) => {
      for (const [subject, command, data] of [
        [0, 0, [2]],
        [0, 0, []],
        [0, 6, [1]],
        [1, 1, [1, 2, 3, 4, 5]],
        [1, 0, [255, 255, 255, 255]],
        [1, 0, [0, 0, 0, 0, 0, 0, 0, 0, 0]],
        [2, 0, [0, 16]],
        [2, 2, [1, 0]],
        [3, 1, []],
        [4, 1, [1, 0]],
        [9, 0, []],
        [255, 255, []],
      ] as [number, number, number[]][]) {
        await refused(control!.command('nonsense', subject, command, Uint8Array.from(data)));
      }
      // Without a header, and without a place for the answer.
      const short = await control!.queue.transfer([Uint8Array.of(0)], [1]);
      assert.is(short.buffers[0]![0], 1);
      assert.is((await control!.queue.transfer([Uint8Array.of(0, 0, 1)])).written, 0);
      // Longer than any command.
      const long = await control!.queue.transfer([new Uint8Array(60_000)], [1]);
      assert.is(long.buffers[0]![0], 1);
      await control!.addVlan(7);
      assert.equal([...state!.vlans], [7]);
    });
  });

  test(`${format}: queue pairs are enabled and disabled while they run`, async () => {
    await withClient({ format, queuePairs: 3 }, async (client) => {
      assert.is(client.controlState!.queuePairs, 3);
      const signal = AbortSignal.timeout(120_000);
      const through = async (pair: number): Promise<void> => {
        const bytes = new Uint8Array(60).fill(pair + 1);
        await client.send([bytes], { pair, signal });
        assert.equal((await client.receive(1, { pair, signal }))[0]!.bytes, bytes);
      };
      for (const pair of [0, 1, 2]) await through(pair);
      await client.control!.setQueuePairs(1);
      assert.equal(
        [0, 2, 4].map((index) => client.driver.frontend.vring(index)!.enabled),
        [true, false, false],
      );
      await through(0);
      // What is sent on a pair that is disabled is dropped (vhost-user, "Ring states"), and does not come back later.
      await client.send([new Uint8Array(60).fill(9)], { pair: 2, signal });
      await through(0);
      assert.is(client.pairs[2]!.transmitter.underWay, 0);
      await client.control!.setQueuePairs(3);
      for (const pair of [0, 1, 2]) await through(pair);
      await refused(client.control!.setQueuePairs(0));
      await refused(client.control!.setQueuePairs(4));
      assert.is(client.controlState!.queuePairs, 3);
    });
  });
}

test('the back-end is not told of what belongs to the control queue, nor of MAC and STATUS', async () => {
  await withClient({}, async ({ driver }) => {
    const { features, driverFeatures } = driver.frontend.negotiated;
    const own =
      NetFeature.ctrlVq | NetFeature.ctrlRx | NetFeature.ctrlVlan | NetFeature.ctrlMacAddr | NetFeature.mac;
    assert.is(features & (own | NetFeature.status), 0n);
    assert.is(features & NetFeature.mrgRxbuf, NetFeature.mrgRxbuf);
    assert.is(driverFeatures & NetFeature.ctrlVq, NetFeature.ctrlVq);
    assert.is(driverFeatures & NetFeature.mq, NetFeature.mq);
  });
});

test('features that are not asked for are not there, and their commands are refused', async () => {
  await withClient({ netFeatures: 0n }, async (client) => {
    assert.not(client.pairs[0]!.receiver.mergeable);
    await refused(client.control!.setQueuePairs(1));
    await refused(client.control!.acknowledgeAnnouncement());
  });
});

test('the configuration space comes decoded', async () => {
  await withClient({}, async (client) => {
    const { mac, status, maxVirtqueuePairs, mtu } = await client.configuration();
    assert.equal([mac, status, maxVirtqueuePairs, mtu], [MAC, NetStatus.linkUp, 4, 9000]);
  });
});

test('when the back-end goes, commands, sending and receiving fail with the reason', async () => {
  const platform = createFakePlatform();
  const device = new NetDevice(new EchoPort(new PlatformPacketMemory(platform)));
  const backend = serveDevice(device, { platform, socketPath: PATH });
  using client = await NetClient.start({ platform, path: PATH, queueSize: 64 });
  const waiting = client.receive(1);
  await backend.close();
  const codes: unknown[] = [];
  const sending = async (): Promise<void> => {
    for (;;) await client.send([new Uint8Array(60)]);
  };
  for (const attempt of [() => waiting, sending, () => client.control!.addVlan(1)]) {
    await attempt().then(
      () => codes.push('none'),
      (error: { code?: string }) => codes.push(error.code),
    );
  }
  assert.equal(codes, ['ERR_VHOST_DISCONNECTED', 'ERR_VHOST_DISCONNECTED', 'ERR_VHOST_DISCONNECTED']);
});

test('another back-end takes over: packets under way are sent to it, and buffers are its own', async () => {
  const platform = createFakePlatform();
  const start = () =>
    serveDevice(new NetDevice(new EchoPort(new PlatformPacketMemory(platform))), {
      platform,
      socketPath: PATH,
    });
  let backend = start();
  using client = await NetClient.start({
    platform,
    path: PATH,
    queueSize: 32,
    reconnect: true,
    retry: { attempts: 1000, delayMilliseconds: 1 },
    signal: AbortSignal.timeout(120_000),
  });
  const signal = AbortSignal.timeout(120_000);
  for (let round = 0; round < 3; round++) {
    const packets = Array.from({ length: 20 }, (_, i) => new Uint8Array(100).fill(i + round * 32));
    await client.send(packets, { signal });
    const received = await client.receive(packets.length, { signal });
    assert.equal(
      received.map(({ bytes }) => bytes),
      packets,
    );
    const back = once(client.driver.frontend, 'reconnected');
    await backend.close();
    // Sent while nobody is there.
    await client.send([new Uint8Array(60).fill(99)], { signal });
    backend = start();
    await back;
    assert.equal((await client.receive(1, { signal }))[0]!.bytes, new Uint8Array(60).fill(99));
    assert.is(client.pairs[0]!.receiver.atDevice, 32);
  }
  client.close();
  await backend.close();
});

test.run();
