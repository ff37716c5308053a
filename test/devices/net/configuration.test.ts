import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { NetConfig, NetStatus } from '../../../generated/virtio/devices/net/layouts.js';
import type { NetDeviceOptions } from '../../../runtime/devices/net/index.js';
import { decodeExactly } from '../../../runtime/wire/index.js';
import { Card, mac } from './harness.js';

const test = suite('what a network device offers and shows');

function shown(card: Card): NetConfig {
  return decodeExactly(NetConfig, card.device.config.read());
}

test('offers what it serves and what its port honours', () => {
  const always = NetFeature.mrgRxbuf | NetFeature.status | NetFeature.mtu | NetFeature.guestAnnounce;
  assert.is(new Card({ offloads: 0n }).device.features, always);
  const some = NetFeature.csum | NetFeature.guestCsum;
  assert.is(new Card({ offloads: some | NetFeature.hostUfo }).device.features, always | some);
  assert.is(
    new Card({ offloads: 0n, options: { mac: mac(1), queuePairs: 2 } }).device.features,
    always | NetFeature.mac | NetFeature.mq,
  );
});

test('offers nothing that a 64-bit word cannot carry, and nothing of the control queue', () => {
  const { features } = new Card({ options: { mac: mac(1), queuePairs: 2 } }).device;
  assert.is(BigInt.asUintN(64, features), features);
  const { ctrlVq, ctrlRx, ctrlVlan, ctrlRxExtra, ctrlMacAddr, ctrlGuestOffloads, rss, notfCoal } = NetFeature;
  assert.is(
    features & (ctrlVq | ctrlRx | ctrlVlan | ctrlRxExtra | ctrlMacAddr | ctrlGuestOffloads | rss | notfCoal),
    0n,
  );
});

test('shows address, link, pairs and MTU in 28 bytes', () => {
  const card = new Card({ options: { mac: mac(9), queuePairs: 3, mtu: 9000 } });
  assert.is(card.device.config.size, 28);
  const config = shown(card);
  assert.equal(config.mac, mac(9));
  assert.equal([config.status, config.maxVirtqueuePairs, config.mtu], [NetStatus.linkUp, 3, 9000]);
  assert.equal([config.speed, config.duplex], [0xffff_ffff, 255]);
  assert.is(card.device.queueCount, 6);
});

test('tells the driver when the link goes down and comes back', () => {
  const card = new Card();
  card.device.linkChanged();
  assert.is(card.configurationChanges, 0, 'nothing has changed');
  card.port.up = false;
  card.device.linkChanged();
  assert.equal([card.configurationChanges, shown(card).status], [1, 0]);
  card.port.up = true;
  card.device.linkChanged();
  assert.equal([card.configurationChanges, shown(card).status], [2, NetStatus.linkUp]);
});

test('the driver writes nothing; restored state may be written', () => {
  const { config } = new Card({ options: { mac: mac(1) } }).device;
  assert.not(config.write(0, mac(2), false));
  assert.ok(config.write(0, mac(1), false));
  assert.ok(config.write(0, mac(2), true));
  assert.equal(config.read().subarray(0, 6), mac(1));
});

test('tells the port which offloads the driver takes, and when it is gone', () => {
  const features = VirtioFeature.version1 | NetFeature.guestCsum | NetFeature.csum | NetFeature.guestTso6;
  const card = new Card({ features });
  assert.is(card.port.accepted, NetFeature.guestCsum | NetFeature.guestTso6);
  card.device.reset();
  assert.is(card.port.accepted, 0n);
});

test('an MTU that the front-end sets is shown until a reset, and one that is none is refused', () => {
  const card = new Card();
  assert.equal(
    [67, 65_536].map((mtu) => card.device.setMtu(mtu)),
    [false, false],
  );
  assert.ok(card.device.setMtu(1300));
  assert.is(shown(card).mtu, 1300);
  card.device.reset();
  assert.is(shown(card).mtu, 1500);
});

test('announces an address by a reverse ARP request to everybody', () => {
  const card = new Card();
  card.device.announce(mac(5));
  const { bytes } = card.port.sent[0]!;
  assert.is(bytes.byteLength, 60);
  const hex = Buffer.from(bytes).toString('hex');
  const address = '020000000005';
  assert.is(
    hex,
    `ffffffffffff${address}8035000108000604 0003${address}00000000${address}`
      .replace(' ', '')
      .padEnd(120, '0'),
  );
  card.port.up = false;
  card.device.announce(mac(5));
  assert.is(card.port.sent.length, 1);
});

for (const [name, options] of [
  ['a group address', { mac: Uint8Array.of(3, 0, 0, 0, 0, 1) }],
  ['an address of zeros', { mac: new Uint8Array(6) }],
  ['an address of five bytes', { mac: new Uint8Array(5).fill(2) }],
  ['MTU 67', { mtu: 67 }],
  ['MTU 65536', { mtu: 65_536 }],
  ['no pair', { queuePairs: 0 }],
  ['more pairs than the port serves', { queuePairs: 5 }],
  ['queues of one', { queueSize: 1 }],
] as const satisfies readonly (readonly [string, NetDeviceOptions])[]) {
  test(`refuses ${name}`, () => {
    assert.throws(
      () => new Card({ options }),
      (error: { code: string }) => error.code === 'ERR_DEVICE_CONFIGURATION',
    );
  });
}

test.run();
