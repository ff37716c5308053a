import { NO_FRONTEND_SERVICES } from '../../../runtime/device/frontend-services.js';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { EchoPort } from '../../../runtime/backings/ports/echo.js';
import { PlatformPacketMemory } from '../../../runtime/backings/ports/packet-memory.js';
import { PcapPort } from '../../../runtime/backings/ports/pcap.js';
import { SinkPort } from '../../../runtime/backings/ports/sink.js';
import { SourcePort } from '../../../runtime/backings/ports/source.js';
import { NetDevice, type NetPort, type PacketMemory } from '../../../runtime/devices/net/index.js';
import { createFakePlatform } from '../../../runtime/platform/fake.js';
import { frame } from '../../devices/net/harness.js';
import { FakeDeviceQueue } from '../../support/fake-device-queue.js';

const test = suite('ports of a network card');

class Station {
  readonly device: NetDevice;
  readonly receive: FakeDeviceQueue;
  readonly transmit: FakeDeviceQueue;

  constructor(makePort: (memory: PacketMemory) => NetPort) {
    const platform = createFakePlatform();
    this.device = new NetDevice(makePort(new PlatformPacketMemory(platform)));
    this.receive = new FakeDeviceQueue(platform, { index: 0 });
    this.transmit = new FakeDeviceQueue(platform, { index: 1 });
    for (const queue of [this.receive, this.transmit]) {
      queue.features = VirtioFeature.version1;
      this.device.startQueue(queue);
    }
  }

  send(bytes: Uint8Array): void {
    this.transmit.offer([new Uint8Array(12), bytes.subarray(0, 20), bytes.subarray(20)], []);
  }

  serve(queue: FakeDeviceQueue): void {
    this.device.serveQueue(queue);
  }

  get received(): Uint8Array[] {
    return this.receive.completed.map((chain) => chain.answer.subarray(12, chain.written!));
  }
}

test('sink takes everything', () => {
  const station = new Station((memory) => new SinkPort(memory));
  for (let i = 0; i < 300; i++) station.send(frame(60, i));
  station.serve(station.transmit);
  assert.is(station.transmit.completed.length, 300);
  assert.is(station.device.counters.transmitted, 300);
});

test('echo gives back what was sent, and sends no more while the driver has no buffers', () => {
  const station = new Station((memory) => new EchoPort(memory));
  for (let i = 0; i < 5; i++) station.receive.offer([], [1526]);
  const sent = Array.from({ length: 2000 }, (_, i) => frame(60 + (i % 50), i));
  for (const bytes of sent) station.send(bytes);
  station.serve(station.transmit);
  assert.equal(station.received, sent.slice(0, 5));
  assert.ok(station.transmit.completed.length < 2000);
  while (station.receive.completed.length < 2000) {
    for (let i = 0; i < 100; i++) station.receive.offer([], [1526]);
    const before = station.receive.completed.length;
    station.serve(station.receive);
    if (station.transmit.resumes > 0) station.serve(station.transmit);
    assert.ok(station.receive.completed.length > before);
  }
  assert.equal(station.received, sent);
  assert.is(station.device.counters.receiveOverrun, 0, 'nothing is lost');
  assert.is(station.transmit.inFlight, 0);
});

test('echo holds back what there are no buffers for, and asks for word of more', () => {
  const station = new Station((memory) => new EchoPort(memory));
  for (let i = 0; i < 3; i++) station.receive.offer([], [1526]);
  for (let i = 0; i < 10; i++) station.send(frame(60, i));
  station.serve(station.transmit);
  assert.is(station.device.waiting(0), 0, 'nothing is copied to wait');
  assert.is(station.device.counters.transmitted, 3);
  assert.is(station.receive.resumes, 1);
});

test('echo drops what waits for buffers of a queue that is disabled or stopped', () => {
  for (const stopped of [false, true]) {
    const station = new Station((memory) => new EchoPort(memory));
    for (let i = 0; i < 2000; i++) station.send(frame(60, i));
    station.serve(station.transmit);
    assert.ok(station.transmit.completed.length < 2000);
    const resumes = station.transmit.resumes;
    station.receive.enabled = false;
    if (stopped) station.device.stopQueue(station.receive);
    else station.device.disableQueue(station.receive);
    assert.ok(station.transmit.resumes > resumes, 'the sender is told');
    station.serve(station.transmit);
    assert.is(station.transmit.completed.length, 2000);
  }
});

test('echo gives back what waits for buffers when its ring has to be quiet', () => {
  const station = new Station((memory) => new EchoPort(memory));
  for (let i = 0; i < 10; i++) station.send(frame(60, i));
  station.serve(station.transmit);
  assert.is(station.transmit.completed.length, 0);
  station.device.yieldQueue(station.transmit);
  assert.is(station.transmit.completed.length, 10);
  assert.is(station.device.counters.transmitLinkDown, 10);
});

test('echo goes on with a pair that waits for the buffers of another', () => {
  const platform = createFakePlatform();
  const device = new NetDevice(new EchoPort(new PlatformPacketMemory(platform)), { queuePairs: 2 });
  const [receive, transmit] = [0, 3].map((index) => {
    const queue = new FakeDeviceQueue(platform, { index });
    queue.features = VirtioFeature.version1;
    device.startQueue(queue);
    return queue;
  });
  for (let i = 0; i < 2000; i++) transmit!.offer([new Uint8Array(12), frame(60, i)], []);
  device.serveQueue(transmit!);
  assert.ok(transmit!.completed.length < 2000);
  for (let round = 0; round < 30; round++) {
    for (let i = 0; i < 100; i++) receive!.offer([], [1526]);
    const { resumes } = transmit!;
    device.serveQueue(receive!);
    if (transmit!.resumes > resumes) device.serveQueue(transmit!);
  }
  assert.is(receive!.completed.length, 2000);
});

test('a card drops what its port has not taken when the transmit queue is disabled', () => {
  const station = new Station((memory) => new EchoPort(memory));
  for (let i = 0; i < 2000; i++) station.send(frame(60, i));
  station.serve(station.transmit);
  assert.ok(station.transmit.inFlight > 0);
  station.transmit.enabled = false;
  station.device.disableQueue(station.transmit);
  assert.is(station.transmit.inFlight, 0);
  assert.ok(station.transmit.completed.every((chain) => chain.published));
  assert.equal(
    [0, 1].map((index) => station.device.discardsDisabled(index)),
    [false, true],
    'what is sent is discarded, buffers are kept',
  );
});

test('source gives no packet that there is no buffer for, and goes on when buffers come', () => {
  let port: SourcePort | undefined;
  const station = new Station((memory) => (port = new SourcePort(memory)));
  for (const buffers of [0, 5, 100, 1]) {
    const { given } = port!;
    for (let i = 0; i < buffers; i++) station.receive.offer([], [1526]);
    station.serve(station.receive);
    assert.is(port!.given - given, buffers);
    assert.is(station.device.waiting(0), 0);
  }
  port!.close();
});

test('source gives packets as long as there are buffers, up to its limit', async () => {
  let port: SourcePort | undefined;
  const station = new Station((memory) => (port = new SourcePort(memory, { length: 100, limit: 1000 })));
  let buffers = 0;
  while (port!.given < 1000 || station.device.waiting(0) > 0) {
    for (let i = 0; i < 150; i++, buffers++) station.receive.offer([], [1526]);
    station.serve(station.receive);
    for (let i = 0; i < 20; i++) await new Promise(setImmediate);
    assert.ok(station.device.counters.receiveOverrun === 0);
    assert.ok(station.receive.completed.length >= Math.min(buffers, 1000));
  }
  assert.equal(
    station.received.map((bytes) => bytes[14]! | (bytes[15]! << 8)),
    Array.from({ length: 1000 }, (_, i) => i),
  );
  assert.ok(station.received.every((bytes) => bytes.byteLength === 100));
  station.send(frame(60));
  station.serve(station.transmit);
  assert.is(station.transmit.completed.length, 1);
  port!.close();
});

test('source rests while nobody receives', async () => {
  let port: SourcePort | undefined;
  const station = new Station((memory) => (port = new SourcePort(memory)));
  station.device.stopQueue(station.receive);
  for (let i = 0; i < 20; i++) await new Promise(setImmediate);
  const { given } = port!;
  for (let i = 0; i < 20; i++) await new Promise(setImmediate);
  assert.is(port!.given, given);
  assert.is(station.device.counters.receiveUnwanted, 0);
  port!.close();
});

test('pcap records packets as on a wire', () => {
  const folder = mkdtempSync(join(tmpdir(), 'pcap-'));
  try {
    const path = join(folder, 'packets.pcap');
    let port: PcapPort | undefined;
    const station = new Station((memory) => (port = new PcapPort(memory, path, () => 1_700_000_000_123.456)));
    const sent = Array.from({ length: 300 }, (_, i) => frame(60 + i * 4, i));
    for (const bytes of sent) station.send(bytes);
    station.serve(station.transmit);
    assert.is(port!.offloads, 0n);
    port!.close();

    const file = readFileSync(path);
    assert.equal(
      [file.readUInt32LE(0), file.readUInt16LE(4), file.readUInt16LE(6), file.readUInt32LE(20)],
      [0xa1b2c3d4, 2, 4, 1],
    );
    let at = 24;
    for (const bytes of sent) {
      assert.equal([file.readUInt32LE(at), file.readUInt32LE(at + 4)], [1_700_000_000, 123_456]);
      assert.equal(
        [file.readUInt32LE(at + 8), file.readUInt32LE(at + 12)],
        [bytes.byteLength, bytes.byteLength],
      );
      assert.equal(Uint8Array.from(file.subarray(at + 16, at + 16 + bytes.byteLength)), bytes);
      at += 16 + bytes.byteLength;
    }
    assert.is(at, file.byteLength);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('pcap goes on without a recording that it cannot write to any more, and has it logged once', () => {
  const folder = mkdtempSync(join(tmpdir(), 'pcap-'));
  try {
    const path = join(folder, 'pipe');
    execFileSync('mkfifo', [path]);
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const station = new Station((memory) => new PcapPort(memory, path));
    const logged: unknown[] = [];
    station.device.attach({
      frontend: NO_FRONTEND_SERVICES,
      configurationChanged: () => {},
      log: (level, message, fields) => logged.push([level, message, (fields!.error as Error).message]),
    });
    closeSync(reader);
    for (let i = 0; i < 3; i++) {
      station.send(frame(60, i));
      station.serve(station.transmit);
    }
    assert.is(station.transmit.completed.length, 3);
    assert.equal(logged, [['error', 'the port failed', 'EPIPE: broken pipe, write']]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('pcap says at once when it cannot write', () => {
  const memory = new PlatformPacketMemory(createFakePlatform());
  assert.throws(() => new PcapPort(memory, '/dev/full'), /ENOSPC/);
  assert.throws(() => new PcapPort(memory, '/nowhere/packets.pcap'), /ENOENT/);
});

test.run();
