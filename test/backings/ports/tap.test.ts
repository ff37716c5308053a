import { NO_FRONTEND_SERVICES } from '../../../runtime/device/frontend-services.js';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { PlatformPacketMemory } from '../../../runtime/backings/ports/packet-memory.js';
import { TapPort } from '../../../runtime/backings/ports/tap.js';
import { NetDevice } from '../../../runtime/devices/net/index.js';
import { PlatformError } from '../../../runtime/errors.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/platform/fake.js';
import type { TapQueue } from '../../../runtime/platform/platform.js';
import { FakeDeviceQueue } from '../../support/fake-device-queue.js';
import { frame } from '../../devices/net/harness.js';

const test = suite('a TAP device as the port of a network card');

const EAGAIN = -11;
const EINVAL = -22;

/** One queue of a TAP device, with the test for a kernel. Packets have their header of 12 bytes in front. */
class FakeTapQueue implements TapQueue {
  readonly name = 'tap0';
  readonly rows = new Int32Array(256 * 5);
  readonly segments = new Int32Array(300 * 3);
  readonly lengths = new Int32Array(256);
  readonly written: Uint8Array[] = [];
  incoming: Uint8Array[] = [];
  /** What writing the n-th packet gives. */
  outcome = (_index: number): number => 0;
  offloads: object | null = null;
  readable: (() => void) | null = null;
  writable: (() => void) | null = null;
  closed = false;
  readonly #u8: readonly Uint8Array[];

  constructor(platform: FakePlatform) {
    this.#u8 = platform.windows.u8;
  }

  setOffloads(offloads: object): void {
    this.offloads = offloads;
  }

  write(count: number): number {
    for (let i = 0; i < count; i++) {
      const result = this.outcome(this.written.length);
      if (result === EAGAIN) return i;
      this.lengths[i] = result;
      const row = this.rows.subarray(i * 5, i * 5 + 5);
      const bytes = [...new Uint8Array(Int32Array.from(row.subarray(0, 3)).buffer)];
      for (let j = row[3]!; j < row[3]! + row[4]!; j++) {
        const [window, offset, length] = this.segments.subarray(j * 3, j * 3 + 3);
        bytes.push(...this.#u8[window!]!.subarray(offset!, offset! + length!));
      }
      this.written.push(Uint8Array.from(bytes));
    }
    return count;
  }

  read(window: number, offset: number, stride: number, count: number): number {
    const packets = this.incoming.splice(0, count);
    packets.forEach((packet, i) => {
      this.#u8[window]!.set(packet, offset + i * stride);
      this.lengths[i] = packet.byteLength;
    });
    return packets.length;
  }

  onReadable(callback: (() => void) | null): void {
    this.readable = callback;
  }

  onWritable(callback: (() => void) | null): void {
    this.writable = callback;
  }

  close(): void {
    this.closed = true;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

class Station {
  readonly platform = createFakePlatform();
  readonly tap = new FakeTapQueue(this.platform);
  readonly port = new TapPort(new PlatformPacketMemory(this.platform), [this.tap]);
  readonly device = new NetDevice(this.port);
  readonly receive = this.#start(0);
  readonly transmit = this.#start(1);

  send(bytes: Uint8Array, pieces = 2): void {
    const step = Math.ceil(bytes.byteLength / pieces);
    const cut = Array.from({ length: pieces }, (_, i) => bytes.subarray(i * step, (i + 1) * step));
    this.transmit.offer([new Uint8Array(12), ...cut], []);
  }

  #start(index: number): FakeDeviceQueue {
    const queue = new FakeDeviceQueue(this.platform, { index });
    queue.features = VirtioFeature.version1;
    this.device.startQueue(queue);
    return queue;
  }
}

const HEADER = new Uint8Array(12);
const withHeader = (bytes: Uint8Array): Uint8Array => Uint8Array.from([...HEADER, ...bytes]);

test('what the driver sends is written with its header in front', () => {
  const station = new Station();
  const sent = Array.from({ length: 300 }, (_, i) => frame(60 + i, i));
  for (const bytes of sent) station.send(bytes);
  station.device.serveQueue(station.transmit);
  assert.equal(station.tap.written, sent.map(withHeader));
  assert.is(station.transmit.inFlight, 0);
});

test('a device that takes no more is waited for, and nothing is lost or sent twice', () => {
  const station = new Station();
  let credit = 70;
  station.tap.outcome = () => (credit-- > 0 ? 0 : EAGAIN);
  const sent = Array.from({ length: 100 }, (_, i) => frame(60, i));
  for (const bytes of sent) station.send(bytes);
  station.device.serveQueue(station.transmit);
  assert.is(station.tap.written.length, 70);
  credit = Infinity;
  station.tap.writable!();
  assert.is(station.tap.writable, null);
  assert.is(station.transmit.resumes, 1);
  station.device.serveQueue(station.transmit);
  assert.equal(station.tap.written, sent.map(withHeader));
});

test('a packet that the kernel refuses, or that has more pieces than it takes, is lost alone', () => {
  const station = new Station();
  station.tap.outcome = (index) => (index === 1 ? EINVAL : 0);
  for (let i = 0; i < 3; i++) station.send(frame(60, i));
  station.send(frame(400, 3), 400);
  station.send(frame(60, 4));
  station.device.serveQueue(station.transmit);
  assert.is(station.port.refused, 2);
  assert.equal(station.tap.written.at(-1), withHeader(frame(60, 4)));
  assert.is(station.transmit.inFlight, 0);
});

test('what comes in is delivered with its header, as long as there are buffers', () => {
  const station = new Station();
  const packets = Array.from({ length: 100 }, (_, i) => frame(60 + i, i));
  station.tap.incoming = packets.map(withHeader);
  for (let i = 0; i < 40; i++) station.receive.offer([], [1526]);
  station.tap.readable!();
  assert.is(station.tap.readable, null, 'the kernel keeps the rest');
  assert.is(station.tap.incoming.length, 36);
  for (let i = 0; i < 200; i++) station.receive.offer([], [1526]);
  station.device.serveQueue(station.receive);
  station.tap.readable!();
  assert.equal(
    station.receive.completed.map((chain) => chain.answer.subarray(12, chain.written!)),
    packets,
  );
  assert.is(station.device.counters.receiveOverrun, 0);
});

test('a pair that the driver does not use has its packets delivered on one that it uses', () => {
  const platform = createFakePlatform();
  const queues = [new FakeTapQueue(platform), new FakeTapQueue(platform)] as const;
  const device = new NetDevice(new TapPort(new PlatformPacketMemory(platform), queues), { queuePairs: 2 });
  const receive = new FakeDeviceQueue(platform, { index: 0 });
  receive.features = VirtioFeature.version1;
  device.startQueue(receive);
  queues[1].incoming = [frame(60, 1), frame(60, 2)].map(withHeader);
  receive.offer([], [1526]);
  queues[1].readable!();
  // The second packet waits, and nothing more is read from either queue meanwhile.
  for (const queue of queues) queue.readable?.();
  assert.equal(
    queues.map((queue) => queue.readable),
    [null, null],
  );
  receive.offer([], [1526]);
  device.serveQueue(receive);
  queues[1].incoming = [withHeader(frame(60, 3))];
  receive.offer([], [1526]);
  queues[1].readable!();
  assert.equal(
    receive.completed.map((chain) => chain.answer.subarray(12, chain.written!)),
    [frame(60, 1), frame(60, 2), frame(60, 3)],
  );
});

test('nothing is read for a queue that has stopped, nor after the port is closed', () => {
  const station = new Station();
  station.device.stopQueue(station.receive);
  station.tap.incoming = [withHeader(frame(60))];
  station.tap.readable!();
  assert.is(station.tap.readable, null);
  assert.is(station.tap.incoming.length, 1);
  station.port.close();
  station.port.receiveReady();
  assert.ok(station.tap.closed);
  assert.is(station.tap.readable, null);
});

test('a device that was deleted is read no more, and that is logged', () => {
  const station = new Station();
  const logged: unknown[] = [];
  station.device.attach({
    frontend: NO_FRONTEND_SERVICES,
    configurationChanged: () => {},
    log: (level, message) => logged.push([level, message]),
  });
  station.receive.offer([], [1526]);
  station.tap.read = () => {
    throw new PlatformError('ERR_PLATFORM_SYSTEM_CALL', 'EBADFD from read');
  };
  station.tap.readable!();
  assert.is(station.tap.readable, null);
  assert.equal(logged, [['error', 'the port failed']]);
});

test('a read without a whole Ethernet header is no packet', () => {
  const station = new Station();
  station.receive.offer([], [1526]);
  station.tap.incoming = [HEADER, withHeader(frame(13)), withHeader(frame(60))];
  station.tap.readable!();
  assert.is(station.device.counters.received, 1);
});

test('the kernel is told which offloads the driver takes', () => {
  const station = new Station();
  for (const [features, offloads] of [
    [0n, { checksum: false, tcp4: false, tcp6: false, ecn: false }],
    [NetFeature.guestTso4, { checksum: false, tcp4: false, tcp6: false, ecn: false }],
    [NetFeature.guestCsum | NetFeature.guestTso6, { checksum: true, tcp4: false, tcp6: true, ecn: false }],
    [station.device.features, { checksum: true, tcp4: true, tcp6: true, ecn: true }],
    [NetFeature.guestCsum | NetFeature.guestEcn, { checksum: true, tcp4: false, tcp6: false, ecn: false }],
  ] as const) {
    station.device.setFeatures(features);
    assert.equal(station.tap.offloads, offloads);
  }
});

test.run();
