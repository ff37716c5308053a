/** Postcopy from the front-end, against a back-end that answers by hand, rightly and wrongly. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VhostError } from '../../../runtime/errors.js';
import type { Mapping, SocketStream, Userfault } from '../../../runtime/platform/platform.js';
import {
  createFakePlatform,
  FrontendConnection,
  type FrontendPostcopy,
  GuestRam,
  MockFrontend,
  type RawMessage,
} from '../../../runtime/testing/index.js';
import { encodeToBytes, u64 } from '../../../runtime/wire/index.js';
import { MemoryTable } from '../../../generated/vhost-user/payloads.js';
import { FrontendRequestId } from '../../../generated/vhost-user/frontend-requests.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { bytes } from '../../support/raw-frontend.js';

const test = suite('postcopy, front-end');

const REPLY = 5;
const NEED_REPLY = 9;
const PAGE = 4096;
const NOTHING = new Uint8Array(0);

/** A front-end that has negotiated PAGEFAULT, and the back-end's end of its socket. */
async function open() {
  const platform = createFakePlatform();
  const [near, far] = platform.socketPair().map((fd) => platform.adoptSocket(fd) as SocketStream);
  const frontend = new MockFrontend(platform, near!);
  const peer = new FrontendConnection(platform, far!);
  const ram = new GuestRam(platform, { size: 4 * PAGE, regions: 2, filePerRegion: true });
  const protocol = ProtocolFeature.replyAck | ProtocolFeature.pagefault;
  const offered = VirtioFeature.version1 | VirtioFeature.vhostUserProtocolFeatures;
  const negotiation = frontend.negotiate({ features: VirtioFeature.version1, protocol });
  for (let i = 0; i < 5; i++) {
    const { request, flags } = await peer.receive();
    const answer =
      request === FrontendRequestId.getFeatures
        ? offered
        : request === FrontendRequestId.getProtocolFeatures
          ? protocol
          : flags === NEED_REPLY
            ? 0n
            : null;
    if (answer !== null) await peer.send(request, REPLY, encodeToBytes(u64, answer));
  }
  await negotiation;
  return { platform, frontend, peer, ram };
}

type Opened = Awaited<ReturnType<typeof open>>;

async function advised({
  platform,
  frontend,
  peer,
}: Opened): Promise<{ postcopy: FrontendPostcopy; userfault: Userfault }> {
  const userfault = platform.openUserfault();
  const asked = frontend.postcopy();
  const { request, payload } = await peer.receive();
  assert.equal([request, payload.byteLength], [FrontendRequestId.postcopyAdvise, 0]);
  await peer.send(request, REPLY, NOTHING, [userfault.fd]);
  platform.closeFd(userfault.fd);
  return { postcopy: await asked, userfault };
}

async function listening(opened: Opened): Promise<{ postcopy: FrontendPostcopy; userfault: Userfault }> {
  const { peer } = opened;
  const all = await advised(opened);
  const asked = all.postcopy.listen();
  const { request, flags } = await peer.receive();
  assert.equal([request, flags], [FrontendRequestId.postcopyListen, NEED_REPLY], 'as QEMU asks');
  await peer.send(request, REPLY, encodeToBytes(u64, 0n));
  await asked;
  return all;
}

/** Receives the table and maps what it says. */
async function table({
  platform,
  peer,
}: Opened): Promise<{ message: RawMessage; mappings: Mapping[]; answer: MemoryTable }> {
  const message = await peer.receive();
  assert.is(message.request, FrontendRequestId.setMemTable);
  const { regions } = decode(message.payload);
  const mappings = regions.map(({ mmapOffset, size }, i) => platform.map(message.fds[i]!, mmapOffset, size));
  for (const fd of message.fds) platform.closeFd(fd);
  const answer = { regions: regions.map((each, i) => ({ ...each, userAddress: mappings[i]!.address })) };
  return { message, mappings, answer };
}

function decode(payload: Uint8Array): MemoryTable {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const regions = Array.from({ length: view.getUint32(0, true) }, (_, i) => {
    const at = (field: number): bigint => view.getBigUint64(8 + 32 * i + 8 * field, true);
    return { guestAddress: at(0), size: at(1), userAddress: at(2), mmapOffset: at(3) };
  });
  return { regions };
}

function finish({ platform, frontend, peer, ram }: Opened, mappings: readonly Mapping[] = []): void {
  frontend.close();
  peer.close();
  for (const mapping of mappings) mapping.unmap();
  ram[Symbol.dispose]();
  assert.equal([platform.openFds, platform.mappingCount], [[], 0]);
}

const turns = async (): Promise<void> => {
  for (let i = 0; i < 10; i++) await new Promise(setImmediate);
};

test('advise, listen, share, pages, end', async () => {
  const opened = await open();
  const { platform, peer, ram } = opened;
  const { postcopy, userfault } = await listening(opened);
  const shared = postcopy.share(ram);
  const { message, mappings, answer } = await table(opened);
  assert.is(message.flags, 1, 'the reply is its own acknowledgement');
  await peer.send(message.request, REPLY, encodeToBytes(MemoryTable, answer));
  await shared;
  const confirmation = await peer.receive();
  assert.equal([confirmation.request, confirmation.flags], [message.request, 1]);
  assert.equal([...confirmation.payload], [...bytes(0n)]);
  for (const mapping of mappings) userfault.register(mapping);

  const asked: bigint[] = [];
  postcopy.onFault((guestAddress) => {
    asked.push(guestAddress);
    postcopy.supply(guestAddress, new Uint8Array(PAGE).fill(asked.length));
  });
  assert.not(platform.touch(mappings[1]!, PAGE + 5));
  await turns();
  const { guestAddress } = ram.regions[1]!.region.description;
  assert.equal(asked, [guestAddress + BigInt(PAGE)]);
  assert.is(platform.windows.u8[mappings[1]!.firstWindow]![PAGE], 1);
  assert.not(postcopy.supply(asked[0]!, new Uint8Array(PAGE)), 'it is there');
  assert.throws(() => postcopy.supply(guestAddress + 0x1000_0000n, new Uint8Array(PAGE)), /is not shared/);

  const ended = postcopy.end();
  const { request } = await peer.receive();
  assert.is(request, FrontendRequestId.postcopyEnd);
  userfault.release();
  await peer.send(request, REPLY, encodeToBytes(u64, 0n));
  await ended;
  finish(opened, mappings);
});

test('a back-end that ends postcopy with an error is said to have refused', async () => {
  const opened = await open();
  const { peer } = opened;
  const { postcopy, userfault } = await advised(opened);
  const ended = failure(postcopy.end());
  const { request } = await peer.receive();
  await peer.send(request, REPLY, encodeToBytes(u64, 3n));
  assert.is((await ended).code, 'ERR_VHOST_REFUSED');
  userfault.release();
  finish(opened);
});

for (const [what, fdOf] of [
  ['no fd', () => []],
  ['an eventfd', ({ platform }: Opened) => [platform.createEventFd()]],
] as [string, (opened: Opened) => number[]][]) {
  test(`ADVISE answered with ${what} ends the connection`, async () => {
    const opened = await open();
    const { platform, frontend, peer } = opened;
    const asked = failure(frontend.postcopy());
    const { request } = await peer.receive();
    const fds = fdOf(opened);
    await peer.send(request, REPLY, NOTHING, fds);
    for (const fd of fds) platform.closeFd(fd);
    assert.is((await asked).code, 'ERR_VHOST_REPLY');
    await frontend.ended;
    finish(opened);
  });
}

for (const [what, change] of [
  ['fewer regions', ({ regions }: MemoryTable) => ({ regions: regions.slice(1) })],
  ['regions in another order', ({ regions }: MemoryTable) => ({ regions: regions.toReversed() })],
  [
    'another size',
    ({ regions }: MemoryTable) => ({ regions: regions.map((each) => ({ ...each, size: 1n })) }),
  ],
] as [string, (answer: MemoryTable) => MemoryTable][]) {
  test(`a table answered with ${what} ends the connection, unconfirmed`, async () => {
    const opened = await open();
    const { frontend, peer, ram } = opened;
    const { postcopy, userfault } = await listening(opened);
    const shared = failure(postcopy.share(ram));
    const { message, mappings, answer } = await table(opened);
    await peer.send(message.request, REPLY, encodeToBytes(MemoryTable, change(answer)));
    assert.is((await shared).code, 'ERR_VHOST_REPLY');
    await frontend.ended;
    await failure(peer.receive());
    postcopy.close();
    userfault.release();
    finish(opened, mappings);
  });
}

test('a fault outside of what was shared ends the connection', async () => {
  const opened = await open();
  const { platform, frontend, peer, ram } = opened;
  const { postcopy, userfault } = await listening(opened);
  const shared = postcopy.share(ram);
  const { message, mappings, answer } = await table(opened);
  const elsewhere = answer.regions.map((each) => ({
    ...each,
    userAddress: each.userAddress + 0x1_0000_0000n,
  }));
  await peer.send(message.request, REPLY, encodeToBytes(MemoryTable, { regions: elsewhere }));
  await shared;
  await peer.receive();
  for (const mapping of mappings) userfault.register(mapping);
  const asked: bigint[] = [];
  postcopy.onFault((guestAddress) => asked.push(guestAddress));
  platform.touch(mappings[0]!, 0);
  assert.match((await frontend.ended).message, /lies in no region/);
  assert.equal(asked, []);
  userfault.release();
  finish(opened, mappings);
});

async function failure(promise: Promise<unknown>): Promise<VhostError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, VhostError);
    return error as VhostError;
  }
  throw new Error('it did not fail');
}

test.run();
