/** What is decided against stays refused, whatever it carries. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FrontendRequestId } from '../../generated/vhost-user/frontend-requests.js';
import { ALL_PROTOCOL, Conversation, SharedGuest, USER } from '../support/conversation.js';
import { bytes, Request, turns } from '../support/raw-frontend.js';

const test = suite('requests that are not served');

async function open(): Promise<Conversation> {
  const talk = Conversation.open();
  await talk.negotiate();
  return talk;
}

for (const order of [0, 1, 2, 0xffff_ffff]) {
  test(`SET_VRING_ENDIAN ${order}: rings are little-endian, and nobody may say more`, async () => {
    const talk = await open();
    assert.is(await talk.frontend.acknowledged(FrontendRequestId.setVringEndian, bytes(0, order)), 1n);
    talk.frontend.send(FrontendRequestId.setVringEndian, bytes(0, order));
    assert.is((await talk.ended())?.code, 'ERR_VHOST_GATE', 'nobody would learn of the refusal');
  });
}

for (const [name, bit] of [
  ['CROSS_ENDIAN', 6n],
  ['CRYPTO_SESSION', 7n],
  ['XEN_MMAP', 17n],
] as const) {
  test(`${name} is not offered, and cannot be accepted`, async () => {
    const talk = await open();
    const word = bytes(ALL_PROTOCOL | (1n << bit));
    assert.is(await talk.frontend.acknowledged(Request.setProtocolFeatures, word), 1n);
    assert.is(talk.session.features.acceptedProtocol, ALL_PROTOCOL, 'what was accepted stays');
    await talk.close();
  });
}

test('memory regions of Xen end the session: nobody knows where the next one begins', async () => {
  for (const [request, payload] of [
    [Request.setMemTable, (region: Uint8Array) => bytes(1, 0, region, 2, 1)],
    [Request.addMemReg, (region: Uint8Array) => bytes(0n, region, 2, 1)],
  ] as const) {
    const talk = await open();
    const guest = new SharedGuest(talk.platform);
    const before = talk.platform.openFdCount;
    assert.is(await talk.frontend.acknowledged(request, payload(guest.region), [guest.fd]), 1n);
    assert.is((await talk.ended())?.code, 'ERR_VHOST_PAYLOAD');
    assert.is(talk.platform.openFdCount, before - 1, 'the connection');
    assert.is(talk.platform.mappingCount, 1, 'the guest’s own');
  }
});

test('the socket of a GPU is closed', async () => {
  const talk = await open();
  const [one, other] = talk.platform.socketPair();
  assert.is(await talk.frontend.acknowledged(FrontendRequestId.gpuSetSocket, bytes(), [one]), 1n);
  talk.platform.closeFd(one);
  const stream = talk.platform.adoptSocket(other);
  await turns(2);
  assert.is(stream.kind === 'stream' && stream.receive(new Uint8Array(1), []), 0, 'its other end sees that');
  stream.close();
  await talk.close();
  assert.equal(talk.platform.openFds, []);
});

test('crypto sessions are neither made nor closed', async () => {
  const talk = await open();
  const { createCryptoSession, closeCryptoSession } = FrontendRequestId;
  assert.is(await talk.frontend.acknowledged(createCryptoSession, new Uint8Array(1024)), 1n);
  assert.is(await talk.frontend.acknowledged(closeCryptoSession, bytes(1n)), 1n);
  await talk.close();
});

test('a second SET_OWNER, and one after RESET_OWNER, change nothing', async () => {
  const talk = await open();
  for (const request of [Request.setOwner, Request.resetOwner, Request.setOwner]) {
    assert.is(await talk.frontend.acknowledged(request), 0n);
  }
  await talk.close();
});

test('a driver that suspends without the feature, or sets the device’s own bit, does not see it set', async () => {
  const talk = await open();
  const status = async (value: bigint): Promise<number> => {
    assert.is(await talk.frontend.acknowledged(Request.setStatus, bytes(value)), 0n);
    return (await talk.frontend.ask(Request.getStatus)).payload[0]!;
  };
  assert.is(await status(0xfn), 0xf);
  assert.is(await status(0x1fn), 0xf, 'SUSPEND');
  assert.is(await status(0x4fn), 0xf, 'NEEDS_RESET');
  assert.is(await status(0x8fn), 0x8f, 'FAILED');
  assert.is(await status(0x8fn), 0x8f);
  assert.is(talk.logs.filter(({ message }) => message.includes('given up')).length, 1, 'said once');
  assert.is(await status(0n), 0);
  await talk.close();
});

test('the user address of a region counts, as long as guest addresses were not agreed on', async () => {
  const talk = await open();
  const guest = new SharedGuest(talk.platform);
  talk.frontend.send(Request.setMemTable, bytes(1, 0, guest.region), { fds: [guest.fd] });
  talk.frontend.send(Request.setVringNum, bytes(0, 16));
  const address = (base: number) =>
    bytes(0, 0, BigInt(base + 0x1000), BigInt(base + 0x3000), BigInt(base + 0x2000), 0n);
  const kick = talk.frontend.eventFd();
  talk.frontend.send(Request.setVringAddr, address(0));
  assert.is(await talk.frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 1n);
  talk.frontend.send(Request.setVringAddr, address(USER));
  assert.is(await talk.frontend.acknowledged(Request.setVringKick, bytes(0n), [kick.fd]), 0n);
  kick.close();
  await talk.close();
});

test.run();
