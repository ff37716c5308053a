import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { MacTable } from '../../../runtime/backings/ports/mac-table.js';
import { PlatformPacketMemory } from '../../../runtime/backings/ports/packet-memory.js';
import { Switch } from '../../../runtime/backings/ports/switch.js';
import { NetDevice, type NetPort } from '../../../runtime/devices/net/index.js';
import { createFakePlatform } from '../../../runtime/platform/fake.js';
import { FakeDeviceQueue } from '../../support/fake-device-queue.js';
import { frame, mac } from '../../devices/net/harness.js';

const test = suite('a switch between network cards');

const EVERYBODY = new Uint8Array(6).fill(0xff);

/** A card on a switch, with a driver that has `buffers` receive buffers. */
class Station {
  readonly port: NetPort;
  readonly device: NetDevice;
  readonly receive: FakeDeviceQueue;
  readonly transmit: FakeDeviceQueue;
  #seen = 0;

  constructor(network: Network, own: Uint8Array | null, buffers = 16) {
    this.port = network.switch.addPort();
    this.device = new NetDevice(this.port, own === null ? {} : { mac: own });
    this.device.setFeatures(VirtioFeature.version1);
    this.receive = new FakeDeviceQueue(network.platform, { index: 0 });
    this.transmit = new FakeDeviceQueue(network.platform, { index: 1 });
    for (const queue of [this.receive, this.transmit]) {
      queue.features = VirtioFeature.version1;
      this.device.startQueue(queue);
    }
    for (let i = 0; i < buffers; i++) this.receive.offer([], [1526]);
  }

  /** Sends packets with these (destination, source), cut after `cut` bytes of the packet. */
  send(packets: readonly (readonly [Uint8Array, Uint8Array])[], cut = 60): void {
    for (const [destination, source] of packets) {
      const bytes = frame(64);
      bytes.set(destination);
      bytes.set(source, 6);
      this.transmit.offer([new Uint8Array(12), bytes.subarray(0, cut), bytes.subarray(cut)], []);
    }
    this.device.serveQueue(this.transmit);
  }

  /** Last bytes of the source addresses of what came since the last time. */
  get news(): number[] {
    const chains = this.receive.completed.slice(this.#seen);
    this.#seen += chains.length;
    return chains.map((chain) => chain.answer[12 + 11]!);
  }
}

class Network {
  readonly platform = createFakePlatform();
  now = 0;
  readonly switch = new Switch(new PlatformPacketMemory(this.platform), () => this.now);

  stations(count: number, own = false): Station[] {
    return Array.from({ length: count }, (_, i) => new Station(this, own ? mac(i + 1) : null));
  }
}

test('floods what it does not know and learns where senders are', () => {
  const [a, b, c] = new Network().stations(3) as [Station, Station, Station];
  a.send([[mac(2), mac(1)]]);
  assert.equal([a.news, b.news, c.news], [[], [1], [1]]);
  b.send([[mac(1), mac(2)]]);
  assert.equal([a.news, b.news, c.news], [[2], [], []]);
  a.send([[mac(2), mac(1)]]);
  assert.equal([a.news, b.news, c.news], [[], [1], []]);
});

test('sends broadcasts and multicasts to all others', () => {
  const [a, b, c] = new Network().stations(3) as [Station, Station, Station];
  b.send([
    [EVERYBODY, mac(2)],
    [Uint8Array.of(0x33, 0x33, 0, 0, 0, 1), mac(2)],
  ]);
  assert.equal([a.news, b.news, c.news], [[2, 2], [], [2, 2]]);
});

test('sorts one burst by its destinations, in order', () => {
  const [a, b, c] = new Network().stations(3, true) as [Station, Station, Station];
  a.send([
    [mac(2), mac(1)],
    [mac(3), mac(11)],
    [EVERYBODY, mac(12)],
    [mac(2), mac(13)],
    [mac(1), mac(14)],
  ]);
  assert.equal([a.news, b.news, c.news], [[], [1, 12, 13], [11, 12]]);
});

test('reads addresses that are split over descriptors', () => {
  for (const cut of [0, 1, 5, 6, 11, 12, 13]) {
    const [a, b, c] = new Network().stations(3, true) as [Station, Station, Station];
    a.send([[mac(3), mac(1)]], cut);
    assert.equal([a.news, b.news, c.news], [[], [], [1]], `cut after ${cut}`);
  }
});

test('the address of a card stays with it, whoever sends from it', () => {
  const [a, b, c] = new Network().stations(3, true) as [Station, Station, Station];
  c.send([[EVERYBODY, mac(2)]]);
  assert.equal([a.news, b.news], [[2], [2]]);
  a.send([[mac(2), mac(1)]]);
  assert.equal([b.news, c.news], [[1], []]);
});

test('a group address is never learnt as a sender', () => {
  const [a, b, c] = new Network().stations(3) as [Station, Station, Station];
  a.send([[mac(9), Uint8Array.of(1, 0, 0, 0, 0, 7)]]);
  b.send([[Uint8Array.of(1, 0, 0, 0, 0, 7), mac(2)]]);
  assert.equal([a.news, b.news, c.news], [[2], [7], [7, 2]]);
});

test('an address that moved is found where it is, one that was silent for long everywhere', () => {
  const network = new Network();
  const [a, b, c] = network.stations(3) as [Station, Station, Station];
  a.send([[EVERYBODY, mac(1)]]);
  b.send([[EVERYBODY, mac(1)]]);
  void [a.news, b.news, c.news];
  c.send([[mac(1), mac(3)]]);
  assert.equal([a.news, b.news], [[], [3]]);
  network.now = 301;
  c.send([[mac(1), mac(3)]]);
  assert.equal([a.news, b.news], [[3], [3]]);
});

test('a station without buffers loses nothing at first and keeps nobody waiting', () => {
  const network = new Network();
  const [a, b] = network.stations(2, true) as [Station, Station];
  const slow = new Station(network, mac(3), 0);
  for (let i = 0; i < 1100; i += 10) {
    a.send(Array.from({ length: 10 }, () => [mac(3), mac(1)] as const));
  }
  a.send([[mac(2), mac(1)]]);
  assert.equal(b.news, [1]);
  assert.is(slow.device.waiting(0), 1024);
  assert.is(slow.device.counters.receiveOverrun, 76);
  for (let i = 0; i < 1024; i++) slow.receive.offer([], [1526]);
  slow.device.serveQueue(slow.receive);
  assert.is(slow.news.length, 1024);
});

test('a port that is closed gets nothing more, and its place is used again', () => {
  const network = new Network();
  const [a, b] = network.stations(2) as [Station, Station];
  b.send([[EVERYBODY, mac(2)]]);
  b.port.close();
  a.send([[mac(2), mac(1)]]);
  assert.equal(b.news, []);
  const c = new Station(network, null);
  a.send([[mac(2), mac(1)]]);
  assert.equal(c.news, [1]);
});

test('the table is bounded: the addresses that were silent for longest go first', () => {
  const table = new MacTable(4);
  for (let i = 0; i < 1000; i++) table.learn(2, i, i % 3, i);
  let known = 0;
  for (let i = 0; i < 1000; i++) if (table.find(2, i, 1000) >= 0) known++;
  assert.ok(known > 4 && known <= 16, `${known} known`);
  assert.is(table.find(2, 999, 1000), 999 % 3);
  table.forget(999 % 3);
  assert.is(table.find(2, 999, 1000), -1);
});

test.run();
