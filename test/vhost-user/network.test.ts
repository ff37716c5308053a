import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Conversation, RecordingDevice } from '../support/conversation.js';
import { bytes, Protocol, Request, u64Of } from '../support/raw-frontend.js';

const test = suite('what front-ends ask of network devices');

/** A device with an MTU of at most 9000 that announces addresses. */
class NetworkDevice extends RecordingDevice {
  announce(mac: Uint8Array): void {
    this.events.push(`announce ${Buffer.from(mac).toString('hex')}`);
  }
  setMtu(mtu: number): boolean {
    this.events.push(`mtu ${mtu}`);
    return mtu <= 9000;
  }
}

async function open(device: RecordingDevice): Promise<Conversation> {
  const talk = Conversation.open({ device });
  await talk.negotiate(undefined, Protocol.replyAck | Protocol.rarp | Protocol.mtu);
  return talk;
}

async function offered(device: RecordingDevice): Promise<bigint> {
  const talk = Conversation.open({ device });
  const features = u64Of(await talk.frontend.ask(Request.getProtocolFeatures));
  await talk.close();
  return features & (Protocol.rarp | Protocol.mtu);
}

test('RARP and MTU are offered for devices that take them, and for no other', async () => {
  assert.is(await offered(new RecordingDevice()), 0n);
  assert.is(await offered(new NetworkDevice()), Protocol.rarp | Protocol.mtu);
});

test('SEND_RARP gives the device the first six bytes as they lie, as often as it comes', async () => {
  const talk = await open(new NetworkDevice());
  const payload = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56, 0xff, 0xff);
  for (let i = 0; i < 3; i++) assert.is(await talk.frontend.acknowledged(Request.sendRarp, payload), 0n);
  const announced = talk.device.events.filter((event) => event.startsWith('announce'));
  assert.equal(announced, Array(3).fill('announce 525400123456'));
  await talk.close();
});

test('SEND_RARP of what is no address of one card is refused, and the session goes on', async () => {
  const talk = await open(new NetworkDevice());
  for (const payload of [new Uint8Array(8), new Uint8Array(8).fill(0xff)]) {
    assert.is(await talk.frontend.acknowledged(Request.sendRarp, payload), 1n);
  }
  assert.not(talk.device.events.some((event) => event.startsWith('announce')));
  assert.is(await talk.frontend.acknowledged(Request.sendRarp, Uint8Array.of(2, 0, 0, 0, 0, 1, 0, 0)), 0n);
  await talk.close();
});

test('NET_SET_MTU gives the device the MTU; one that it cannot have is refused', async () => {
  const talk = await open(new NetworkDevice());
  const setMtu = (mtu: bigint): Promise<bigint> => talk.frontend.acknowledged(Request.netSetMtu, bytes(mtu));
  assert.is(await setMtu(1300n), 0n);
  assert.is(await setMtu(9001n), 1n);
  assert.is(await setMtu(0x1_0000_05dcn), 1n, 'not cut to what fits');
  assert.is(await setMtu(9000n), 0n);
  assert.equal(
    talk.device.events.filter((event) => event.startsWith('mtu')),
    ['mtu 1300', 'mtu 9001', 'mtu 9000'],
  );
  await talk.close();
});

test.run();
