/** The state of a device on its way between two back-ends, through our front-end and by hand. */
import { execFileSync } from 'node:child_process';
import { constants, openSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PlatformPacketMemory } from '../../runtime/backings/ports/packet-memory.js';
import { SinkPort } from '../../runtime/backings/ports/sink.js';
import { NetDevice } from '../../runtime/devices/net/index.js';
import { DeviceError } from '../../runtime/errors.js';
import { SharedMemory } from '../../runtime/memory/shared-memory.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import type { Platform, SocketStream } from '../../runtime/platform/platform.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import { packState, unpackState } from '../../runtime/vhost-user/device-state.js';
import { loadDeviceState, saveDeviceState } from '../../runtime/vhost-user/frontend/device-state.js';
import { Frontend } from '../../runtime/vhost-user/frontend/frontend.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { Conversation, RecordingDevice, RunningRing, SharedGuest } from '../support/conversation.js';
import { TemporaryFolder } from '../support/guest/processes.js';
import { Random } from '../support/random.js';
import { bytes, Request, turns, u64Of } from '../support/raw-frontend.js';

const test = suite('device state');

const DEVICE_STATE = 1n << 19n;
const PROTOCOL = (1n << 1n) | (1n << 3n) | (1n << 16n) | DEVICE_STATE;
const SAVE = 0;
const LOAD = 1;
const NO_FD = 0x100n;

/** A device with a state of so many bytes. */
class StatefulDevice extends RecordingDevice {
  state: Uint8Array = new Uint8Array(0);
  readonly loaded: Uint8Array[] = [];
  refusal: Error | null = null;

  saveState(): Uint8Array {
    return this.state;
  }

  loadState(state: Uint8Array): void {
    if (this.refusal !== null) throw this.refusal;
    this.loaded.push(state.slice());
  }
}

async function connect(platform: Platform, device: NetDevice | StatefulDevice) {
  const [near, far] = platform.socketPair();
  const backend = serveDevice(device, { platform, fd: far, spinMicroseconds: 0 });
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const frontend = await Frontend.attach({
    platform,
    memory,
    features: { supported: VirtioFeature.version1 },
    stream: platform.adoptSocket(near) as SocketStream,
  });
  return {
    frontend,
    async [Symbol.asyncDispose]() {
      frontend.close();
      await backend.close();
      memory[Symbol.dispose]();
    },
  };
}

function netDevice(platform: Platform, mtu = 1500, queuePairs = 2): NetDevice {
  return new NetDevice(new SinkPort(new PlatformPacketMemory(platform)), { mtu, queuePairs });
}

for (const [name, create] of [
  ['fake', () => createFakePlatform()],
  ['linux', () => createLinuxPlatform()],
] as const) {
  for (const size of [0, 1, 4096, 1_000_000]) {
    test(`${name}: ${size} bytes go from one back-end to another`, async () => {
      const platform = create();
      const [from, to] = [new StatefulDevice(), new StatefulDevice()];
      from.state = new Random(size).bytes(size);
      await using source = await connect(platform, from);
      await using target = await connect(platform, to);
      const state = await saveDeviceState(source.frontend);
      await loadDeviceState(target.frontend, state);
      assert.is(to.loaded.length, 1);
      assert.ok(Buffer.from(to.loaded[0]!).equals(from.state));
    });
  }

  test(`${name}: a network device takes over MTU, link, flows and counters`, async () => {
    const platform = create();
    const [from, to] = [netDevice(platform), netDevice(platform)];
    from.setMtu(9000);
    Object.assign(from.counters, { transmitted: 7, receivedBytes: 1234 });
    await using source = await connect(platform, from);
    await using target = await connect(platform, to);
    await loadDeviceState(target.frontend, await saveDeviceState(source.frontend));
    assert.is(to.config.mtu, 9000);
    assert.equal(to.counters, from.counters);
    assert.equal(to.saveState(), from.saveState());
  });

  test(`${name}: a state of another device type, of a later version, cut, or none at all is refused and changes nothing`, async () => {
    const platform = create();
    const device = netDevice(platform);
    const good = packState(1, device.saveState());
    const before = device.saveState();
    const later = good.slice();
    later[4] = 2;
    for (const [what, state] of [
      ['nothing', new Uint8Array(0)],
      ['another device type', packState(2, device.saveState())],
      ['a later version', later],
      ['cut', good.subarray(0, good.byteLength - 1)],
      ['too long', Buffer.concat([good, good])],
      ['no JSON', packState(1, Uint8Array.of(0x7b, 0xff))],
      [
        'another number of pairs',
        packState(
          1,
          netDevice(platform, 1500, 3)
            .saveState()
            .map((b) => (b === 0x30 ? 0x32 : b)),
        ),
      ],
      [
        'an MTU that cannot be',
        packState(1, Buffer.from('{"version":1,"mtu":1,"linkUp":true,"flows":null,"counters":{}}')),
      ],
    ] as const) {
      await using target = await connect(platform, device);
      let refused = null;
      await loadDeviceState(target.frontend, state).catch(
        (error: { code: string }) => (refused = error.code),
      );
      assert.is(refused, 'ERR_VHOST_REFUSED', what);
    }
    assert.equal(
      JSON.parse(Buffer.from(device.saveState()).toString()),
      JSON.parse(Buffer.from(before).toString()),
    );
  });
}

async function open({ device = new StatefulDevice(), limits = {} } = {}) {
  const talk = Conversation.open({ device, limits });
  await talk.negotiate(undefined, PROTOCOL);
  return talk;
}

async function setFd(talk: Conversation, direction: number, fd: number): Promise<bigint> {
  const reply = await talk.frontend.ask(SET, bytes(direction, 0), { fds: [fd] });
  assert.equal(reply.fds, [], 'the front-end keeps its own channel');
  return u64Of(reply);
}

const SET = 42;
const CHECK = 43;

async function check(talk: Conversation): Promise<bigint> {
  return u64Of(await talk.frontend.ask(CHECK));
}

test('offered only for a device that saves and loads', async () => {
  for (const [device, offered] of [
    [new RecordingDevice(), 0n],
    [new StatefulDevice(), DEVICE_STATE],
  ] as const) {
    const talk = Conversation.open({ device });
    const features = u64Of(await talk.frontend.ask(Request.getProtocolFeatures));
    assert.is(features & DEVICE_STATE, offered);
    await talk.close();
  }
});

test('while a ring runs the state does not move; once all are stopped it does', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  const ring = RunningRing.start(talk, guest);
  const [mine, theirs] = talk.platform.socketPair();
  assert.is(await setFd(talk, SAVE, theirs), NO_FD | 1n);
  assert.match(talk.logs.at(-1)!.message, /while every ring is stopped/);
  await talk.frontend.ask(Request.getVringBase, bytes(0, 0));
  assert.is(await setFd(talk, SAVE, theirs), NO_FD);
  talk.platform.closeFd(theirs);
  const state = await talk.platform.readChannel(mine, 1000);
  assert.equal(unpackState(4, state), new Uint8Array(0));
  assert.is(await check(talk), 0n);
  ring.close();
  guest.close();
  await talk.close();
  assert.equal(talk.platform.openFds, []);
});

test('a ring that is started before the state has come: the state is refused', async () => {
  const device = new StatefulDevice();
  const talk = await open({ device });
  const [mine, theirs] = talk.platform.socketPair();
  assert.is(await setFd(talk, LOAD, theirs), NO_FD);
  const guest = new SharedGuest(talk.platform);
  const ring = RunningRing.start(talk, guest);
  await turns(10);
  await talk.platform.writeChannel(mine, packState(4, new Uint8Array(5)));
  assert.is(await check(talk), 1n);
  assert.equal(device.loaded, []);
  ring.close();
  guest.close();
  talk.platform.closeFd(theirs);
  await talk.close();
});

test('CHECK_DEVICE_STATE waits for the end of the channel, and says when the device refuses', async () => {
  const device = new StatefulDevice();
  const talk = await open({ device });
  for (const refusal of [null, new DeviceError('ERR_DEVICE_REQUEST', 'not mine')]) {
    device.refusal = refusal;
    const [mine, theirs] = talk.platform.socketPair();
    assert.is(await setFd(talk, LOAD, theirs), NO_FD);
    talk.platform.closeFd(theirs);
    talk.frontend.send(CHECK);
    await turns(20);
    assert.is(talk.frontend.stream.receive(new Uint8Array(1), []), -1, 'no answer yet');
    await talk.platform.writeChannel(mine, packState(4, Uint8Array.of(1, 2, 3)));
    assert.is(u64Of((await talk.frontend.receive())!), refusal === null ? 0n : 1n);
  }
  assert.equal(device.loaded, [Uint8Array.of(1, 2, 3)]);
  await talk.close();
});

test('a direction or a phase of later versions is refused by the answer, and the session goes on', async () => {
  const talk = await open();
  for (const [direction, phase] of [
    [SAVE, 1],
    [LOAD, 0xffff_ffff],
    [2, 0],
  ] as const) {
    const [mine, theirs] = talk.platform.socketPair();
    const before = talk.platform.openFdCount;
    const reply = await talk.frontend.ask(SET, bytes(direction, phase), { fds: [theirs] });
    assert.is(u64Of(reply), NO_FD | 1n, `direction ${direction}, phase ${phase}`);
    assert.equal(reply.fds, []);
    assert.is(talk.platform.openFdCount, before, 'the back-end keeps no channel');
    for (const fd of [mine, theirs]) talk.platform.closeFd(fd);
  }
  await talk.close();
});

test('CHECK_DEVICE_STATE without a transfer fails', async () => {
  const talk = await open();
  assert.is(await check(talk), 1n);
  await talk.close();
});

test('a front-end that never reads holds up nothing: the session answers, and its end closes the channel', async () => {
  const device = new StatefulDevice();
  device.state = new Uint8Array(8 << 20);
  const talk = await open({ device });
  const [mine, theirs] = talk.platform.socketPair();
  assert.is(await setFd(talk, SAVE, theirs), NO_FD);
  assert.is(await setFd(talk, SAVE, theirs), NO_FD | 1n, 'one at a time');
  await talk.frontend.ask(Request.getFeatures);
  talk.platform.closeFd(theirs);
  await talk.close();
  await turns(5);
  talk.platform.closeFd(mine);
  assert.equal(talk.platform.openFds, []);
});

test('more bytes than the limit are refused', async () => {
  const device = new StatefulDevice();
  const talk = await open({ device, limits: { stateSize: 1000 } });
  const [mine, theirs] = talk.platform.socketPair();
  assert.is(await setFd(talk, LOAD, theirs), NO_FD);
  talk.platform.closeFd(theirs);
  await talk.platform.writeChannel(mine, packState(4, new Uint8Array(1000))).catch(() => undefined);
  assert.is(await check(talk), 1n);
  assert.equal(device.loaded, []);
  await talk.close();
});

test('an fd of the wrong kind is refused and closed', async () => {
  const talk = await open();
  const fds = talk.platform.openFdCount;
  for (const kind of ['eventfd', 'memory', 'file', 'other'] as const) {
    const fd = talk.platform.createFd(kind);
    assert.is(await setFd(talk, SAVE, fd), NO_FD | 1n, kind);
    talk.platform.closeFd(fd);
  }
  assert.is(talk.platform.openFdCount, fds);
  await talk.close();
});

test('RESET_DEVICE breaks a transfer off', async () => {
  const talk = await open();
  const [mine, theirs] = talk.platform.socketPair();
  assert.is(await setFd(talk, LOAD, theirs), NO_FD);
  talk.platform.closeFd(theirs);
  talk.frontend.send(Request.setStatus, bytes(0n));
  assert.is(await check(talk), 1n);
  talk.platform.closeFd(mine);
  await talk.close();
});

test('linux: real pipes, in both directions, and the wrong end of one', async () => {
  const platform = createLinuxPlatform();
  using folder = new TemporaryFolder();
  const path = folder.file('pipe');
  execFileSync('mkfifo', [path]);
  const ends = (): [number, number] => {
    const read = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    return [read, openSync(path, constants.O_WRONLY)];
  };
  const state = new Random(5).bytes(300_000);
  const [read, write] = ends();
  assert.is(platform.fdKind(read), 'pipe');
  const [received] = await Promise.all([
    platform.readChannel(read, 1 << 20),
    platform.writeChannel(write, state),
  ]);
  assert.ok(Buffer.from(received).equals(state));
  for (const wrong of ['read', 'write'] as const) {
    const [readable, writable] = ends();
    const failed = await (
      wrong === 'read' ? platform.readChannel(writable, 10) : platform.writeChannel(readable, state)
    ).then(
      () => null,
      (error: { code: string }) => error.code,
    );
    assert.is(failed, 'ERR_PLATFORM_SYSTEM_CALL', wrong);
    platform.closeFd(wrong === 'read' ? readable : writable);
  }
});

test('linux: a pipe that nobody reads is left when its signal says so', async () => {
  const platform = createLinuxPlatform();
  const [mine, theirs] = platform.socketPair();
  const abort = new AbortController();
  const writing = platform.writeChannel(mine, new Uint8Array(16 << 20), abort.signal).then(
    () => 'written',
    () => 'aborted',
  );
  await turns(10);
  abort.abort(new Error('enough'));
  assert.is(await writing, 'aborted');
  platform.closeFd(theirs);
});

test.run();
