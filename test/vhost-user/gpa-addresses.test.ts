import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { ALL_PROTOCOL, Conversation, RunningRing, SharedGuest, USER } from '../support/conversation.js';
import { bytes, Protocol, PROTOCOL_FEATURES, Request, u64Of, VERSION_1 } from '../support/raw-frontend.js';

const test = suite('guest addresses instead of user addresses');

const BASE = 0x10_0000;
const GPA = ALL_PROTOCOL | Protocol.gpaAddresses;

async function open(protocol = GPA): Promise<{ talk: Conversation; guest: SharedGuest }> {
  const talk = Conversation.open({ withProtocolFeatures: ProtocolFeature.gpaAddresses });
  await talk.negotiate(VERSION_1 | PROTOCOL_FEATURES, protocol);
  return { talk, guest: new SharedGuest(talk.platform, 0x4_0000, BASE) };
}

/** SET_MEM_TABLE's region with whatever as its user address. */
function table(guest: SharedGuest, userAddress: number): Uint8Array {
  return bytes(1, 0, BigInt(guest.address), BigInt(guest.size), BigInt(userAddress), 0n);
}

function addresses(index: number, base: number): Uint8Array {
  const ring = base + 0x1000 + index * 0x2000;
  return bytes(index, 0, BigInt(ring), BigInt(ring + 0x1000), BigInt(ring + 0x800), 0n);
}

test('they are offered only where they are asked for: bit 21 was another’s in the crate vhost 0.16', async () => {
  for (const [options, expected] of [
    [{}, false],
    [{ withProtocolFeatures: ProtocolFeature.gpaAddresses }, true],
  ] as const) {
    const talk = Conversation.open(options);
    await talk.frontend.ask(Request.getFeatures);
    const offered = u64Of(await talk.frontend.ask(Request.getProtocolFeatures));
    assert.is((offered & Protocol.gpaAddresses) !== 0n, expected);
    await talk.close();
  }
});

test('rings are found by their guest addresses, whatever stands as the region’s user address', async () => {
  for (const userAddress of [BASE, 0, USER + BASE]) {
    const { talk, guest } = await open();
    const { frontend } = talk;
    assert.is(await frontend.acknowledged(Request.setMemTable, table(guest, userAddress), [guest.fd]), 0n);
    frontend.send(Request.setVringNum, bytes(0, 16));
    assert.is(await frontend.acknowledged(Request.setVringAddr, addresses(0, BASE)), 0n);
    const kick = frontend.eventFd();
    assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 0n);
    assert.ok(talk.session.vring(0).host !== null, 'the ring is live');
    kick.close();
    await talk.close();
  }
});

test('trap 2: a front-end that means something else by bit 21 gets no ring at its own addresses', async () => {
  const { talk, guest } = await open();
  const { frontend } = talk;
  frontend.send(Request.setMemTable, table(guest, USER + BASE), { fds: [guest.fd] });
  frontend.send(Request.setVringNum, bytes(0, 16));
  frontend.send(Request.setVringAddr, addresses(0, USER + BASE));
  const kick = frontend.eventFd();
  assert.is(await frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 1n);
  assert.is(talk.session.vring(0).host, null);
  kick.close();
  await talk.close();
});

test('regions are added, and removed by whatever user address', async () => {
  const { talk, guest } = await open();
  const { frontend } = talk;
  const region = (user: number) => bytes(0n, BigInt(guest.address), BigInt(guest.size), BigInt(user), 0n);
  assert.is(await frontend.acknowledged(Request.addMemReg, region(0), [guest.fd]), 0n);
  assert.is(await frontend.acknowledged(Request.remMemReg, region(BASE)), 0n);
  assert.is(talk.session.memory.current!.count, 0);
  await talk.close();
});

test('without the feature the front-end’s own addresses count, offered or not', async () => {
  const { talk, guest } = await open(ALL_PROTOCOL);
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  ring.close();
  await talk.close();
});

test('what addresses mean cannot change while there is memory', async () => {
  const { talk, guest } = await open();
  const { frontend } = talk;
  frontend.send(Request.setMemTable, table(guest, BASE), { fds: [guest.fd] });
  assert.is(await frontend.acknowledged(Request.setProtocolFeatures, bytes(ALL_PROTOCOL)), 1n);
  assert.is(await frontend.acknowledged(Request.setProtocolFeatures, bytes(GPA)), 0n);
  await talk.close();
});

test.run();
