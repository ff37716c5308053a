/** Postcopy as the back-end sees it, message by message. That faults are served is shown by test/postcopy. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PlatformError } from '../../runtime/errors.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import type { UserfaultServer } from '../../runtime/platform/platform.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import {
  ALL_PROTOCOL,
  Conversation,
  type ConversationOptions,
  memoryTable,
  RecordingDevice,
  RunningRing,
  SharedGuest,
} from '../support/conversation.js';
import { bytes, Protocol, Request, u64Of } from '../support/raw-frontend.js';

const test = suite('postcopy');

const POSTCOPY = (ALL_PROTOCOL & ~Protocol.configureMemSlots) | Protocol.pagefault;
const NOTHING = new Uint8Array(0);
const ZERO = bytes(0n);

async function open(options: ConversationOptions = {}) {
  const platform = createFakePlatform();
  const talk = Conversation.open({ withProtocolFeatures: Protocol.pagefault, ...options, platform });
  const guest = new SharedGuest(platform);
  await talk.negotiate(undefined, POSTCOPY);
  await talk.frontend.ask(Request.getStatus);
  return { platform, talk, guest, fds: platform.openFdCount, mappings: platform.mappingCount };
}

type Opened = Awaited<ReturnType<typeof open>>;

/** POSTCOPY_ADVISE; gives the front-end's end of the userfaultfd. */
async function advise({ talk, platform }: Opened): Promise<UserfaultServer> {
  const reply = await talk.frontend.ask(Request.postcopyAdvise);
  assert.is(reply.payload.byteLength, 0, 'QEMU refuses any payload');
  assert.is(reply.flags, 5);
  assert.is(reply.fds.length, 1);
  return platform.serveUserfault(reply.fds[0]!);
}

async function listen({ talk }: Opened): Promise<void> {
  assert.is(await talk.frontend.acknowledged(Request.postcopyListen), 0n);
}

/** SET_MEM_TABLE; gives the region's address in the back-end. */
async function table({ talk, guest }: Opened): Promise<bigint> {
  const sent = memoryTable(guest);
  const { payload } = await talk.frontend.ask(Request.setMemTable, sent, { fds: [guest.fd] });
  assert.is(payload.byteLength, sent.byteLength);
  const address = Buffer.from(payload).readBigUInt64LE(8 + 16);
  // All but the user address comes back as it went.
  assert.equal([...payload.subarray(0, 24)], [...sent.subarray(0, 24)]);
  assert.equal([...payload.subarray(32)], [...sent.subarray(32)]);
  return address;
}

async function end({ talk }: Opened): Promise<bigint> {
  const reply = await talk.frontend.ask(Request.postcopyEnd);
  assert.is(reply.payload.byteLength, 8);
  return u64Of(reply);
}

function closed({ platform, fds, mappings, guest }: Opened): void {
  assert.is(platform.openFdCount, fds - 2, 'both ends of the connection are closed');
  assert.is(platform.mappingCount, mappings);
  guest.close();
}

test('PAGEFAULT is offered on request, and CONFIGURE_MEM_SLOTS not beside it', async () => {
  for (const postcopy of [false, true]) {
    const talk = Conversation.open({ withProtocolFeatures: postcopy ? Protocol.pagefault : 0n });
    const offered = u64Of(await talk.frontend.ask(Request.getProtocolFeatures));
    assert.is((offered & Protocol.pagefault) !== 0n, postcopy);
    assert.is((offered & Protocol.configureMemSlots) !== 0n, !postcopy);
    await talk.close();
  }
});

test('a back-end that cannot catch faults is not even opened', () => {
  const platform = createFakePlatform();
  platform.failNext('userfaultfd', 'EPERM');
  const fd = platform.createListeningFd('/back-end');
  try {
    serveDevice(new RecordingDevice(), { platform, fd, withProtocolFeatures: Protocol.pagefault });
    assert.unreachable();
  } catch (error) {
    assert.instance(error, PlatformError);
    assert.is((error as PlatformError).errno, 'EPERM');
  }
});

test('with CONFIGURE_MEM_SLOTS accepted postcopy is refused, with a failure reply', async () => {
  const talk = Conversation.open();
  await talk.negotiate(undefined, ALL_PROTOCOL);
  for (const request of [Request.postcopyAdvise, Request.postcopyListen, Request.postcopyEnd]) {
    assert.is(await talk.frontend.acknowledged(request), 1n);
  }
  assert.match(talk.logs.at(-1)!.message, /VHOST_USER_POSTCOPY_END: needs .*PAGEFAULT/);
  await talk.close();
});

for (const [what, confirmation] of [
  ['a u64 of 0', ZERO],
  ['nothing', NOTHING],
] as const) {
  test(`advise, listen, table, confirmation (${what}), end: a ring works on what is supplied`, async () => {
    const all = await open();
    const { talk, guest, platform } = all;
    const server = await advise(all);
    await listen(all);
    const address = await table(all);
    assert.is(talk.session.memory.current, null, 'in use only once the front-end can serve it');
    assert.throws(() => server.copy(address, new Uint8Array(4096)), /ENOENT/, 'nothing is registered yet');
    talk.frontend.send(Request.setMemTable, confirmation);
    await talk.frontend.ask(Request.getStatus);
    const { mapping } = talk.session.memory.current!.regions[0]!;
    assert.is(mapping.address, address);
    const asked: bigint[] = [];
    server.onFault((fault) => {
      asked.push(fault);
      server.copy(fault, new Uint8Array(4096).fill(7));
    });
    assert.not(platform.touch(mapping, 0x3123), 'its page is missing');
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    assert.equal(asked, [address + 0x3000n]);
    assert.ok(platform.touch(mapping, 0x3fff));
    assert.is(guest.view(0x3000, 1).getUint8(0), 7);

    const ring = RunningRing.start(talk, guest, { table: false });
    ring.offer();
    await ring.used(1);
    assert.is(await end(all), 0n);
    assert.not(mapping.damaged);
    ring.offer();
    await ring.used(2);
    // From here on a table is a table again.
    assert.is(await talk.frontend.acknowledged(Request.setMemTable, memoryTable(guest), [guest.fd]), 0n);
    ring.offer();
    await ring.used(3);
    ring.close();
    server.close();
    await talk.close();
    closed(all);
  });
}

test('a second table while postcopy listens keeps the regions that stay, registered and at their address', async () => {
  const all = await open();
  const { talk, platform } = all;
  const server = await advise(all);
  await listen(all);
  const address = await table(all);
  talk.frontend.send(Request.setMemTable, ZERO);
  const ring = RunningRing.start(talk, all.guest, { table: false });
  ring.offer();
  await ring.used(1);
  assert.is(await table(all), address);
  ring.offer();
  await ring.used(2);
  talk.frontend.send(Request.setMemTable, ZERO);
  ring.offer();
  await ring.used(3);
  assert.is(platform.mappingCount, all.mappings + 1);
  assert.is(await end(all), 0n);
  ring.close();
  server.close();
  await talk.close();
  closed(all);
});

test('LISTEN without NEED_REPLY has no reply, as the text says', async () => {
  const all = await open();
  const server = await advise(all);
  all.talk.frontend.send(Request.postcopyListen);
  // The next message that comes is the answer to this one.
  await all.talk.frontend.ask(Request.getStatus);
  await table(all);
  server.close();
  await all.talk.close();
  closed(all);
});

const WRONG_ORDER: [string, (all: Opened) => Promise<unknown>, number, RegExp][] = [
  [
    'LISTEN without ADVISE',
    async () => undefined,
    Request.postcopyListen,
    /POSTCOPY_ADVISE has to come first/,
  ],
  ['END without ADVISE', async () => undefined, Request.postcopyEnd, /there was no POSTCOPY_ADVISE/],
  [
    'LISTEN with regions mapped',
    async (all) => {
      (await advise(all)).close();
      const { talk, guest } = all;
      assert.is(await talk.frontend.acknowledged(Request.setMemTable, memoryTable(guest), [guest.fd]), 0n);
    },
    Request.postcopyListen,
    /1 memory regions are mapped already/,
  ],
  [
    'LISTEN twice',
    async (all) => {
      (await advise(all)).close();
      await listen(all);
    },
    Request.postcopyListen,
    /under way already/,
  ],
  [
    'ADVISE while it listens',
    async (all) => {
      (await advise(all)).close();
      await listen(all);
    },
    Request.postcopyAdvise,
    /under way already/,
  ],
  [
    'END with a table that was not confirmed',
    async (all) => {
      (await advise(all)).close();
      await listen(all);
      await table(all);
    },
    Request.postcopyEnd,
    /was not confirmed/,
  ],
];
for (const [what, before, request, message] of WRONG_ORDER) {
  test(`${what} is refused, and the session goes on`, async () => {
    const all = await open();
    await before(all);
    assert.is(await all.talk.frontend.acknowledged(request), 1n);
    assert.match(all.talk.logs.at(-1)!.message, message);
    await all.talk.frontend.ask(Request.getStatus);
    await all.talk.close();
    closed(all);
  });
}

test('ADVISE twice: the second userfaultfd counts', async () => {
  const all = await open();
  const first = await advise(all);
  const second = await advise(all);
  await listen(all);
  const address = await table(all);
  all.talk.frontend.send(Request.setMemTable, ZERO);
  await all.talk.frontend.ask(Request.getStatus);
  assert.throws(() => first.copy(address, new Uint8Array(4096)), /ENOENT/);
  assert.ok(second.copy(address, new Uint8Array(4096)));
  first.close();
  second.close();
  await all.talk.close();
  closed(all);
});

test('a second table in place of the confirmation is refused', async () => {
  const all = await open();
  (await advise(all)).close();
  await listen(all);
  await table(all);
  all.talk.frontend.send(Request.setMemTable, memoryTable(all.guest), { fds: [all.guest.fd] });
  const reason = await all.talk.ended();
  assert.match(reason!.message, /the table before was not confirmed/);
  closed({ ...all, fds: all.fds + 1 });
});

test('a confirmation that says no ends the session', async () => {
  const all = await open();
  (await advise(all)).close();
  await listen(all);
  await table(all);
  all.talk.frontend.send(Request.setMemTable, bytes(1n));
  const reason = await all.talk.ended();
  assert.is(reason!.code, 'ERR_VHOST_PAYLOAD');
  closed({ ...all, fds: all.fds + 1 });
});

test('a bad table while postcopy listens ends the session and leaks nothing', async () => {
  const all = await open();
  (await advise(all)).close();
  await listen(all);
  const wrong = memoryTable(all.guest, all.guest);
  all.talk.frontend.send(Request.setMemTable, wrong, { fds: [all.guest.fd, all.guest.fd] });
  assert.match((await all.talk.ended())!.message, /regions overlap/);
  closed({ ...all, fds: all.fds + 1 });
});

const STEPS: [string, (all: Opened) => Promise<unknown>][] = [
  ['ADVISE', advise],
  ['LISTEN', async (all) => [await advise(all), await listen(all)][0]],
  [
    'a table',
    async (all) => {
      const server = await advise(all);
      await listen(all);
      await table(all);
      return server;
    },
  ],
  [
    'its confirmation',
    async (all) => {
      const server = await advise(all);
      await listen(all);
      await table(all);
      all.talk.frontend.send(Request.setMemTable, ZERO);
      await all.talk.frontend.ask(Request.getStatus);
      return server;
    },
  ],
];
for (const [what, steps] of STEPS) {
  test(`a front-end that hangs up after ${what} leaves nothing behind`, async () => {
    const all = await open();
    const server = (await steps(all)) as UserfaultServer;
    server.close();
    await all.talk.close();
    closed(all);
  });
}

test('memory of a session that ended in postcopy is taken away from chains in flight', async () => {
  const device = new RecordingDevice();
  device.hold = true;
  const all = await open({ device });
  const { talk, platform } = all;
  (await advise(all)).close();
  await listen(all);
  await table(all);
  talk.frontend.send(Request.setMemTable, ZERO);
  const ring = RunningRing.start(talk, all.guest, { table: false });
  ring.offer();
  await talk.frontend.ask(Request.getStatus);
  for (let i = 0; i < 20 && device.held.length === 0; i++) await new Promise(setImmediate);
  assert.is(device.held.length, 1);
  const { mapping } = talk.session.memory.current!.regions[0]!;
  ring.close();
  await talk.close();
  assert.ok(mapping.damaged, 'withdrawn');
  assert.is(platform.mappingCount, all.mappings + 1, 'its place is held until the chain is completed');
  device.finish();
  closed(all);
});

test.run();
