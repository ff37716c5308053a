import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import {
  Conversation,
  type ConversationOptions,
  memoryTable,
  RunningRing,
  SharedGuest,
  USER,
} from '../support/conversation.js';
import { WRITE } from '../support/raw-rings.js';
import {
  bytes,
  LOG_ALL,
  PROTOCOL_FEATURES,
  Request,
  turns,
  u64Of,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';

const test = suite('dirty log of a session');

const FEATURES = VERSION_1 | PROTOCOL_FEATURES;
const EVENT_IDX = 1n << 29n;
const LOG_FLAG = 1;

/** The front-end's side of a log. */
class Log {
  readonly fd: number;
  readonly size: number;
  readonly #mapping;
  readonly #talk: Conversation;

  constructor(talk: Conversation, size = 4096) {
    this.#talk = talk;
    this.size = size;
    this.fd = talk.platform.createSharedMemory('log', BigInt(size));
    this.#mapping = talk.platform.map(this.fd, 0n, BigInt(size));
  }

  /** SET_LOG_BASE as QEMU sends it: no NEED_REPLY, and yet there is a reply. */
  async share(size = BigInt(this.size), offset = 0n): Promise<bigint> {
    return u64Of(await this.#talk.frontend.ask(Request.setLogBase, bytes(size, offset), { fds: [this.fd] }));
  }

  /** Addresses of the marked pages; they are cleared. */
  take(): number[] {
    const all = this.#talk.platform.windows.u8[this.#mapping.firstWindow]!;
    const found: number[] = [];
    all.forEach((byte, at) => {
      for (let bit = 0; bit < 8; bit++) if ((byte & (1 << bit)) !== 0) found.push((at * 8 + bit) * 4096);
    });
    all.fill(0);
    return found;
  }

  close(): void {
    this.#mapping.unmap();
    this.#talk.platform.closeFd(this.fd);
  }
}

interface Opened {
  readonly talk: Conversation;
  readonly guest: SharedGuest;
  readonly ring: RunningRing;
  readonly log: Log;
}

/** One split ring at 0x1000 (its used ring too), buffers at 0x10000. */
async function open(options: ConversationOptions & { features?: bigint } = {}): Promise<Opened> {
  const talk = Conversation.open(options);
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate(options.features ?? FEATURES);
  const ring = RunningRing.start(talk, guest);
  ring.offer();
  await ring.used(1);
  return { talk, guest, ring, log: new Log(talk) };
}

async function close({ talk, guest, ring, log }: Opened): Promise<void> {
  await talk.close();
  log.close();
  ring.close();
  guest.close();
  assert.equal(talk.platform.openFds, [], 'every fd is closed');
  assert.is(talk.platform.mappingCount, 0, 'everything is unmapped');
}

function setFeatures({ talk }: Opened, features: bigint): Promise<bigint> {
  return talk.frontend.acknowledged(Request.setFeatures, bytes(features));
}

function setAddress({ talk, ring }: Opened, flags: number, log: bigint): Promise<bigint> {
  const { descriptorAddress, driverAddress, deviceAddress } = ring.ring;
  const [descriptor, used, available] = [descriptorAddress, deviceAddress, driverAddress].map((address) =>
    BigInt(USER + address),
  );
  return talk.frontend.acknowledged(
    Request.setVringAddr,
    bytes(ring.index, flags, descriptor!, used!, available!, log),
  );
}

/** Offers one more chain and waits until it is used. */
async function transfer({ ring }: Opened): Promise<void> {
  ring.offer();
  await ring.used(ring.ring.availableIndex);
}

test('trap 4: SET_LOG_BASE with LOG_SHMFD is answered with a u64 of 0, asked for or not', async () => {
  const opened = await open();
  assert.is(await opened.log.share(), 0n);
  const payload = bytes(BigInt(opened.log.size), 0n);
  assert.is(await opened.talk.frontend.acknowledged(Request.setLogBase, payload, [opened.log.fd]), 0n);
  await close(opened);
});

test('nothing is marked before LOG_ALL is accepted, nor after it is taken back', async () => {
  const opened = await open();
  await opened.log.share();
  await transfer(opened);
  assert.equal(opened.log.take(), []);
  assert.is(await setFeatures(opened, FEATURES | LOG_ALL), 0n);
  await transfer(opened);
  assert.equal(opened.log.take(), [0x10000]);
  assert.is(await setFeatures(opened, FEATURES), 0n);
  await transfer(opened);
  assert.equal(opened.log.take(), []);
  await close(opened);
});

test('the used ring is marked at its log address, only with the LOG flag, which may come while the ring runs', async () => {
  const opened = await open();
  await opened.log.share();
  await setFeatures(opened, FEATURES | LOG_ALL);
  assert.is(await setAddress(opened, LOG_FLAG, 0x1180n), 0n);
  await transfer(opened);
  assert.equal(opened.log.take(), [0x1000, 0x10000]);
  assert.is(await setAddress(opened, 0, 0x1180n), 0n);
  await transfer(opened);
  assert.equal(opened.log.take(), [0x10000]);
  await close(opened);
});

test('a log address outside of every region is marked as long as it lies in the log', async () => {
  const opened = await open({ features: FEATURES | EVENT_IDX });
  await opened.log.share();
  await setFeatures(opened, FEATURES | EVENT_IDX | LOG_ALL);
  // The used ring of 16 entries has 134 bytes: its available event lies on the next page.
  assert.is(await setAddress(opened, LOG_FLAG, 0x700_0f7cn), 0n);
  await transfer(opened);
  await turns(5);
  assert.equal(opened.log.take(), [0x10000, 0x700_0000, 0x700_1000]);
  await close(opened);
});

for (const address of [0xffff_ffff_ffff_fff0n, 0xffff_ffff_ffffn, 0x800_0000n]) {
  test(`C3: a log address of 0x${address.toString(16)}, outside of the log, breaks the ring and nothing else`, async () => {
    const opened = await open();
    await opened.log.share();
    await setFeatures(opened, FEATURES | LOG_ALL);
    assert.is(await setAddress(opened, LOG_FLAG, address), 0n);
    opened.ring.offer();
    await until(() => opened.ring.err.take() > 0n, 'the err fd is signalled');
    assert.match(opened.talk.logs.at(-1)!.message, /dirty log does not reach/);
    assert.is(await setFeatures(opened, FEATURES | LOG_ALL), 0n, 'the session goes on');
    await close(opened);
  });
}

test('memory that the log does not reach breaks the ring that writes it: the driver is not told of the chain', async () => {
  const opened = await open();
  await opened.log.share(1n);
  await setFeatures(opened, FEATURES | LOG_ALL);
  opened.ring.offer();
  await until(() => opened.ring.err.take() > 0n, 'the err fd is signalled');
  assert.is(opened.ring.ring.usedIndex, 1);
  assert.equal(opened.log.take(), []);
  await close(opened);
});

test('LOG_ALL while chains are in flight is acknowledged when the last of them is completed, and the ring serves on', async () => {
  const opened = await open();
  const { talk, ring, log } = opened;
  await log.share();
  talk.device.hold = true;
  ring.offer();
  await until(() => talk.device.held.length === 1, 'one chain is in flight');
  talk.frontend.send(Request.setFeatures, bytes(FEATURES | LOG_ALL), { needReply: true });
  talk.frontend.send(Request.getStatus);
  ring.offer();
  await until(() => talk.device.held.length === 2, 'the ring goes on meanwhile');
  await turns(20);
  assert.is(talk.frontend.stream.receive(new Uint8Array(1), []), -1, 'no acknowledgement yet');
  const [before, after] = talk.device.held.splice(0);
  after!.queue.complete(after!.handle, 0);
  await turns(20);
  assert.is(talk.frontend.stream.receive(new Uint8Array(1), []), -1, 'one chain is still missing');
  assert.equal(log.take(), [0x10000], 'what was taken since is logged already');
  before!.queue.complete(before!.handle, 0);
  before!.queue.commit();
  assert.is(u64Of((await talk.frontend.receive())!), 0n);
  assert.is((await talk.frontend.receive())!.request, Request.getStatus, 'messages behind it have waited');
  await close(opened);
});

test('LOG_ALL does not wait for chains that only read', async () => {
  const opened = await open();
  const { talk, ring, log, guest } = opened;
  await log.share();
  talk.device.hold = true;
  const head = ring.ring.availableIndex % ring.ring.size;
  ring.ring.chain([head], [{ address: guest.address + 0x1_0000, length: 64 }]);
  ring.ring.offer(head);
  ring.kick.signal();
  await until(() => talk.device.held.length === 1, 'one chain is in flight');
  assert.is(await setFeatures(opened, FEATURES | LOG_ALL), 0n);
  talk.device.finish();
  await close(opened);
});

test('LOG_ALL does not wait for a ring that breaks meanwhile', async () => {
  const opened = await open();
  const { talk, ring, log } = opened;
  await log.share();
  talk.device.hold = true;
  ring.offer();
  await until(() => talk.device.held.length === 1, 'one chain is in flight');
  talk.frontend.send(Request.setFeatures, bytes(FEATURES | LOG_ALL), { needReply: true });
  await turns(5);
  talk.device.queues.get(0)!.fail(new Error('the disk is gone'));
  assert.is(u64Of((await talk.frontend.receive())!), 0n);
  talk.device.finish();
  await close(opened);
});

test('toggling LOG_ALL leaves every ring as it is', async () => {
  const opened = await open();
  const { talk, ring } = opened;
  await opened.log.share();
  talk.frontend.send(Request.setVringEnable, bytes(0, 0));
  const events = [...talk.device.events];
  for (const features of [FEATURES | LOG_ALL, FEATURES, FEATURES | LOG_ALL]) {
    assert.is(await setFeatures(opened, features), 0n);
    assert.not(talk.session.vring(0).enabled, 'a disabled ring stays so');
    assert.ok(talk.session.vring(0).started);
  }
  assert.equal(talk.device.events, events, 'the device hears nothing of it');
  talk.frontend.send(Request.setVringEnable, bytes(0, 1));
  await transfer(opened);
  assert.equal(opened.log.take(), [0x10000]);
  assert.is(ring.err.take(), 0n);
  await close(opened);
});

test('LOG_ALL without bit 30 leaves a disabled ring disabled too: QEMU before 7.2 never accepts that bit', async () => {
  const opened = await open({ features: VERSION_1 });
  opened.talk.frontend.send(Request.setVringEnable, bytes(0, 0));
  assert.is(await setFeatures(opened, VERSION_1 | LOG_ALL), 0n);
  assert.not(opened.talk.session.vring(0).enabled);
  await close(opened);
});

test('other features cannot change together with LOG_ALL while a ring runs', async () => {
  const opened = await open();
  assert.is(await setFeatures(opened, VERSION_1 | EVENT_IDX | PROTOCOL_FEATURES | LOG_ALL), 1n);
  await close(opened);
});

test('a second log takes over at once, rings running; the first is not written any more', async () => {
  const opened = await open();
  const { talk, log } = opened;
  await log.share();
  await setFeatures(opened, FEATURES | LOG_ALL);
  await transfer(opened);
  const longer = new Log(talk, 8192);
  const mappings = talk.platform.mappingCount;
  assert.is(await longer.share(), 0n);
  assert.is(talk.platform.mappingCount, mappings, 'the first is unmapped');
  assert.equal(log.take(), [0x10000], 'what was marked before stays for the front-end to collect');
  await transfer(opened);
  assert.equal(longer.take(), [0x10000]);
  assert.equal(log.take(), []);
  longer.close();
  await close(opened);
});

test('LOG_ALL before the log: what was written meanwhile is marked when it comes', async () => {
  const opened = await open();
  await setFeatures(opened, FEATURES | LOG_ALL);
  await setAddress(opened, LOG_FLAG, 0x1180n);
  await transfer(opened);
  assert.is(await opened.log.share(), 0n);
  assert.equal(opened.log.take(), [0x1000, 0x10000]);
  await close(opened);
});

test('a ring that starts while LOG_ALL is accepted logs from its start', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate(FEATURES | LOG_ALL);
  const log = new Log(talk);
  const ring = RunningRing.start(talk, guest);
  await log.share();
  ring.offer();
  await ring.used(1);
  assert.equal(log.take(), [0x10000]);
  await close({ talk, guest, ring, log });
});

test('chains bound to another memory map are logged at their own addresses', async () => {
  const opened = await open();
  const { talk, guest, ring, log } = opened;
  await log.share();
  await setFeatures(opened, FEATURES | LOG_ALL);
  talk.device.hold = true;
  ring.offer();
  await until(() => talk.device.held.length === 1, 'one chain is in flight');
  // The same ring, but the guest's memory now begins at 16 MiB.
  const moved = bytes(1, 0, bytes(0x100_0000n, BigInt(guest.size), BigInt(USER), 0n));
  assert.is(await talk.frontend.acknowledged(Request.setMemTable, moved, [guest.fd]), 0n);
  talk.device.hold = false;
  talk.device.finish();
  assert.equal(log.take(), [0x10000], 'it lay in the memory from before');
  const head = ring.ring.availableIndex % ring.ring.size;
  ring.ring.chain([head], [{ address: 0x101_0000, length: 64, flags: WRITE }]);
  ring.ring.offer(head);
  ring.kick.signal();
  await ring.used(3);
  assert.equal(log.take(), [0x101_0000]);
  await close(opened);
});

test('a chain is marked whole, whatever the device says that it wrote', async () => {
  const opened = await open();
  const { talk, ring, log } = opened;
  await log.share();
  await setFeatures(opened, FEATURES | LOG_ALL);
  talk.device.hold = true;
  const buffers = [0x1_0ff8, 0x1_3000, 0x2_0000].map((address) => ({ address, length: 16, flags: WRITE }));
  ring.ring.chain([3, 4, 5], buffers);
  ring.ring.offer(3);
  ring.kick.signal();
  await until(() => talk.device.held.length === 1, 'the chain is in flight');
  talk.device.finish();
  assert.equal(log.take(), [0x1_0000, 0x1_1000, 0x1_3000, 0x2_0000]);
  await close(opened);
});

test('C24: crafted descriptors while migrating break their ring and mark nothing', async () => {
  for (const bad of [
    { address: 0xffff_ffff_ffff_fff0n, length: 0xffff_ffff, flags: WRITE },
    { address: 0x3_fff0, length: 0x100, flags: WRITE },
    { address: 0x7fff_ffff_f000n, length: 0x1000, flags: WRITE },
  ]) {
    const opened = await open();
    await opened.log.share();
    await setFeatures(opened, FEATURES | LOG_ALL);
    opened.ring.ring.chain([7], [bad]);
    opened.ring.ring.offer(7);
    opened.ring.kick.signal();
    await until(() => opened.ring.err.take() > 0n, 'the ring breaks');
    assert.equal(opened.log.take(), []);
    await close(opened);
  }
});

test('the log fd is signalled once for what one turn marked', async () => {
  const opened = await open();
  const { talk } = opened;
  const notify = talk.frontend.eventFd();
  await opened.log.share();
  assert.is(await talk.frontend.acknowledged(Request.setLogFd, undefined, [notify.fd]), 0n);
  await transfer(opened);
  assert.is(notify.take(), 0n, 'not without LOG_ALL');
  await setFeatures(opened, FEATURES | LOG_ALL);
  for (let i = 0; i < 5; i++) opened.ring.offer(i === 4);
  await opened.ring.used(7);
  await turns(2);
  assert.is(notify.take(), 1n);
  notify.close();
  await close(opened);
});

test('C3: logs that wrap, are empty, too long, or longer than their file are refused; the one before stays', async () => {
  const opened = await open({ limits: { logSize: 1 << 20 } });
  const { talk, log } = opened;
  await log.share();
  await setFeatures(opened, FEATURES | LOG_ALL);
  const mappings = talk.platform.mappingCount;
  for (const [size, offset] of [
    [0x2000n, 0xffff_ffff_ffff_f000n],
    [0xffff_ffff_ffff_ffffn, 0n],
    [0n, 0n],
    [(1n << 20n) + 1n, 0n],
    [4097n, 0n],
    [4096n, 4096n],
  ] as const) {
    const answer = await talk.frontend.acknowledged(Request.setLogBase, bytes(size, offset), [log.fd]);
    assert.is(answer, 1n, `${size} bytes at ${offset}`);
    assert.match(talk.logs.at(-1)!.message, /VHOST_USER_SET_LOG_BASE/);
  }
  assert.is(talk.platform.mappingCount, mappings);
  await transfer(opened);
  assert.equal(log.take(), [0x10000]);
  await close(opened);
});

test('a refused log that asks for no acknowledgement ends the session: QEMU reads no error out of the reply', async () => {
  const opened = await open();
  opened.talk.frontend.send(Request.setLogBase, bytes(0n, 0n), { fds: [opened.log.fd] });
  assert.is((await opened.talk.ended())?.code, 'ERR_VHOST_PAYLOAD');
  await close(opened);
});

test('a log or a log fd of the wrong kind, and none at all, are refused', async () => {
  const opened = await open();
  const { talk, log } = opened;
  const fds = talk.platform.openFdCount;
  for (const kind of ['eventfd', 'socket', 'pipe', 'other'] as const) {
    const fd = talk.platform.createFd(kind);
    assert.is(await talk.frontend.acknowledged(Request.setLogBase, bytes(4096n, 0n), [fd]), 1n, kind);
    talk.platform.closeFd(fd);
  }
  assert.is(await talk.frontend.acknowledged(Request.setLogBase, bytes(4096n, 0n)), 1n);
  assert.is(await talk.frontend.acknowledged(Request.setLogFd, undefined, [log.fd]), 1n);
  assert.is(talk.platform.openFdCount, fds);
  await close(opened);
});

test('a log whose file is truncated ends the session', async () => {
  const opened = await open();
  await opened.log.share();
  await setFeatures(opened, FEATURES | LOG_ALL);
  opened.talk.platform.truncateSharedMemory(opened.log.fd, 0);
  opened.ring.offer();
  const reason = await opened.talk.ended();
  assert.match(reason!.message, /truncated the dirty log/);
  await close(opened);
});

test('10,000 logs leave no fd and no mapping behind', async () => {
  const opened = await open();
  const { talk, log } = opened;
  await log.share();
  const [fds, mappings] = [talk.platform.openFdCount, talk.platform.mappingCount];
  for (let i = 0; i < 10_000; i++) await log.share();
  assert.is(talk.platform.openFdCount, fds);
  assert.is(talk.platform.mappingCount, mappings);
  await close(opened);
});

test('memory is replaced and LOG_ALL accepted while a chain is in flight: both take effect', async () => {
  const platform = createFakePlatform();
  const opened = await open({ platform });
  const { talk, guest, ring, log } = opened;
  await log.share();
  talk.device.hold = true;
  ring.offer();
  await until(() => talk.device.held.length === 1, 'one chain is in flight');
  talk.frontend.send(Request.setMemTable, memoryTable(guest), { fds: [guest.fd] });
  talk.frontend.send(Request.setFeatures, bytes(FEATURES | LOG_ALL), { needReply: true });
  await turns(10);
  talk.device.hold = false;
  talk.device.finish();
  assert.is(u64Of((await talk.frontend.receive())!), 0n);
  await transfer(opened);
  assert.equal(log.take(), [0x10000]);
  await close(opened);
});

test.run();
