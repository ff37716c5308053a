/** What one front-end may take up: every limit has a default, can be set, and is enforced. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { OptionError, type VhostUserError } from '../../runtime/errors.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import type { SocketStream } from '../../runtime/platform/platform.js';
import {
  checkedLimits,
  DEFAULT_LIMITS,
  type SessionLimits,
} from '../../runtime/vhost-user/backend/session-limits.js';
import { BackendChannel } from '../../runtime/vhost-user/backend/backend-channel.js';
import { NegotiatedFeatures } from '../../runtime/vhost-user/negotiated-features.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import {
  ALL_PROTOCOL,
  Conversation,
  memoryTable,
  RecordingDevice,
  RunningRing,
  SharedGuest,
  singleRegion,
} from '../support/conversation.js';
import {
  bytes,
  Protocol,
  PROTOCOL_FEATURES,
  RawFrontend,
  Request,
  turns,
  u64Of,
  until,
  VERSION_1,
} from '../support/raw-frontend.js';
import { repositoryRoot } from '../support/repository.js';

const limits = suite('limits of a session');

/** Opens a conversation with these limits, talks, and sees to it that nothing is left. */
async function withLimits(
  set: SessionLimits,
  talk: (conversation: Conversation) => Promise<void>,
  device = new RecordingDevice(),
): Promise<void> {
  const conversation = Conversation.open({ limits: set, device });
  await talk(conversation);
  await conversation.close();
  assert.equal(conversation.platform.openFds, []);
  assert.is(conversation.platform.mappingCount, 0);
}

async function reasonOf(conversation: Conversation): Promise<VhostUserError> {
  const reason = await conversation.ended();
  if (reason === null) throw new Error('the session ended in good order');
  return reason;
}

limits('ARCHITECTURE.md has the defaults', () => {
  const text = readFileSync(join(repositoryRoot(), 'ARCHITECTURE.md'), 'utf8');
  const section = /### Limits\n([^]*?)\n## /.exec(text)![1]!;
  const rows = [...section.matchAll(/^\| `(\w+)` +\| (\d+) /gm)];
  const table = Object.fromEntries(rows.map(([, name, value]) => [name, Number(value)]));
  assert.equal(table, DEFAULT_LIMITS);
});

limits('every limit has a test', () => {
  const folder = join(repositoryRoot(), 'test/vhost-user');
  const texts = readdirSync(folder)
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => readFileSync(join(folder, name), 'utf8'));
  for (const name of Object.keys(DEFAULT_LIMITS)) {
    const set = new RegExp(
      `(withLimits\\(\\s*\\{|limits: \\{|maxUnanswered).*\\b${name}\\b|limits\\('${name}: `,
    );
    assert.ok(
      texts.some((text) => set.test(text)),
      `no test sets ${name}`,
    );
  }
});

limits('a limit that cannot be is refused before anything is served', () => {
  for (const name of Object.keys(DEFAULT_LIMITS) as (keyof SessionLimits)[]) {
    for (const value of [-1, 0.5, Number.NaN, 2 ** 60]) {
      try {
        checkedLimits({ [name]: value });
        assert.unreachable(`${name} ${value}`);
      } catch (error) {
        assert.instance(error, OptionError);
        assert.match((error as Error).message, `limit ${name}: expected`);
      }
    }
  }
  assert.equal(checkedLimits(), DEFAULT_LIMITS);
  assert.is(checkedLimits({ queues: 2, silence: Infinity }).queues, 2);
  const platform = createFakePlatform();
  assert.throws(
    () => serveDevice(new RecordingDevice(), { platform, socketPath: '/s', limits: { queues: 0 } }),
    /limit queues/,
  );
  assert.is(platform.openFdCount, 0);
});

limits('maxPayload: a header that announces more ends the session', async () => {
  await withLimits({ maxPayload: 64 }, async (talk) => {
    talk.frontend.sendBytes(bytes(Request.setConfig, 1, 65));
    const reason = await reasonOf(talk);
    assert.is(reason.code, 'ERR_VHOST_HEADER');
    assert.match(reason.message, 'at most 64 payload bytes, got 65');
  });
});

limits('messageFds: a message with more of them ends the session, and all are closed', async () => {
  await withLimits({ messageFds: 3 }, async (talk) => {
    const event = talk.frontend.eventFd();
    talk.frontend.send(Request.getFeatures, bytes(), { fds: [event.fd, event.fd, event.fd, event.fd] });
    event.close();
    const reason = await reasonOf(talk);
    assert.is(reason.code, 'ERR_VHOST_FDS');
    assert.match(reason.message, 'more than 3');
  });
});

limits('waitingMessages: behind one that takes its time, so many are read and no more', async () => {
  const device = new RecordingDevice();
  device.hold = true;
  const most = 2;
  await withLimits(
    { waitingMessages: most },
    async (talk) => {
      const guest = new SharedGuest(talk.platform);
      await talk.negotiate();
      const ring = RunningRing.start(talk, guest);
      ring.offer();
      await until(() => device.held.length === 1, 'the device has the chain');
      // Waits for the chain.
      talk.frontend.send(Request.getVringBase, bytes(0, 0));
      await turns(5);
      // The fds say how many messages were fetched from the socket.
      const before = talk.platform.openFdCount;
      const event = talk.platform.createEventFd();
      for (let i = 0; i < 10; i++) {
        talk.frontend.send(Request.setVringErr, bytes(0n), { fds: [event] });
      }
      talk.platform.closeFd(event);
      await turns(20);
      assert.is(talk.platform.openFdCount - before, most);
      device.finish();
      ring.close();
      guest.close();
    },
    device,
  );
});

limits('memorySlots: one region more is refused, in slots and in a table', async () => {
  await withLimits({ memorySlots: 1 }, async (talk) => {
    await talk.negotiate();
    assert.is(u64Of(await talk.frontend.ask(Request.getMaxMemSlots)), 1n);
    const [one, two] = [new SharedGuest(talk.platform), new SharedGuest(talk.platform, 0x1000, 0x100_0000)];
    assert.is(await talk.frontend.acknowledged(Request.addMemReg, singleRegion(one), [one.fd]), 0n);
    assert.is(await talk.frontend.acknowledged(Request.addMemReg, singleRegion(two), [two.fd]), 1n);
    const table = memoryTable(one, two);
    assert.is(await talk.frontend.acknowledged(Request.setMemTable, table, [one.fd, two.fd]), 1n);
    assert.is(talk.session.memory.current!.count, 1);
    assert.match(talk.logs.at(-1)!.message, '2 memory regions, 1 are allowed');
    one.close();
    two.close();
  });
});

limits('queues: rings above are not there, and GET_QUEUE_NUM says so', async () => {
  await withLimits({ queues: 2 }, async (talk) => {
    await talk.negotiate();
    assert.is(u64Of(await talk.frontend.ask(Request.getQueueNum)), 2n);
    assert.is(await talk.frontend.acknowledged(Request.setVringNum, bytes(1, 8)), 0n);
    assert.is(await talk.frontend.acknowledged(Request.setVringNum, bytes(2, 8)), 1n);
    assert.match(talk.logs.at(-1)!.message, 'ring 2: the device has 2');
  });
});

limits('queueSize: larger rings are refused', async () => {
  await withLimits({ queueSize: 16 }, async (talk) => {
    await talk.negotiate();
    assert.is(await talk.frontend.acknowledged(Request.setVringNum, bytes(0, 16)), 0n);
    assert.is(await talk.frontend.acknowledged(Request.setVringNum, bytes(0, 32)), 1n);
    assert.match(talk.logs.at(-1)!.message, 'a size from 1 to 16, got 32');
  });
});

limits('logSize: a longer dirty log is refused', async () => {
  const protocol = ALL_PROTOCOL | (1n << 1n);
  await withLimits({ logSize: 0x1000 }, async (talk) => {
    await talk.negotiate(undefined, protocol);
    const log = talk.platform.createSharedMemory('log', 0x4000n);
    for (const [size, answer] of [
      [0x1000n, 0n],
      [0x1001n, 1n],
    ] as const) {
      talk.frontend.send(Request.setLogBase, bytes(size, 0n), { fds: [log], needReply: true });
      assert.is(u64Of((await talk.frontend.receive())!), answer);
    }
    talk.platform.closeFd(log);
    assert.match(talk.logs.at(-1)!.message, '4096 bytes are allowed');
  });
});

limits('inflightSize: larger in-flight memory is neither made nor taken', async () => {
  await withLimits({ inflightSize: 0x1000 }, async (talk) => {
    await talk.negotiate(undefined, ALL_PROTOCOL | Protocol.inflightShmfd);
    const { frontend, platform } = talk;
    const wanted = (queues: number, size: number) => bytes(0n, 0n, queues | (size << 16), 0);
    frontend.send(Request.getInflightFd, wanted(4, 256), { needReply: true });
    const refused = (await frontend.receive())!;
    assert.is(refused.fds.length, 0);
    assert.match(talk.logs.at(-1)!.message, 'at most 4096 bytes of in-flight memory');
    const file = platform.createSharedMemory('inflight', 0x1_0000n);
    const payload = bytes(0x1_0000n, 0n, 4 | (256 << 16), 0);
    assert.is(await frontend.acknowledged(32, payload, [file]), 1n);
    platform.closeFd(file);
    assert.match(talk.logs.at(-1)!.message, 'at most 4096 bytes of in-flight memory');
  });
});

limits(
  'unansweredRequests: a front-end that does not answer, or does not read, gets so many and no more',
  async () => {
    for (const answers of [true, false]) {
      const platform = createFakePlatform({ sendCapacity: answers ? 1 << 16 : 0 });
      const features = new NegotiatedFeatures(0n, (1n << 64n) - 1n);
      features.acceptProtocol(Protocol.config | Protocol.backendReq | (answers ? Protocol.replyAck : 0n));
      const [mine, theirs] = platform.socketPair();
      const channel = new BackendChannel({
        platform,
        stream: platform.adoptSocket(mine) as SocketStream,
        maxPayload: 4096,
        maxUnanswered: 3,
        features,
        onEnd: () => assert.unreachable('the channel goes on'),
      });
      const send = () =>
        channel.request('backendConfigChangeMsg', undefined).catch((error: unknown) => error);
      const sent = [send(), send(), send()];
      const error = (await send()) as VhostUserError;
      assert.is(error.code, 'ERR_VHOST_STATE');
      assert.match(error.message, 'left 3 requests unanswered');
      channel.close();
      await Promise.all(sent);
      platform.closeFd(theirs);
      assert.is(platform.openFdCount, 0);
    }
  },
);

limits('waitingConnections: one more is closed at once', async () => {
  const platform = createFakePlatform();
  const backend = serveDevice(new RecordingDevice(), {
    platform,
    socketPath: '/s',
    limits: { waitingConnections: 1, silence: Infinity },
  });
  const streams: SocketStream[] = [];
  for (let i = 0; i < 3; i++) {
    streams.push(await platform.connect('/s'));
    await turns(3);
  }
  assert.is(streams[1]!.receive(new Uint8Array(1), []), -1, 'waits');
  assert.is(streams[2]!.receive(new Uint8Array(1), []), 0, 'closed');
  for (const stream of streams) stream.close();
  backend.close();
  await backend.finished;
  await turns(3);
  assert.is(platform.openFdCount, 0);
});

limits(
  'silence: one that says nothing gives way to one that waits, one that has spoken does not',
  async () => {
    const platform = createFakePlatform();
    const reasons: (VhostUserError | null)[] = [];
    const backend = serveDevice(new RecordingDevice(), {
      platform,
      socketPath: '/s',
      limits: { silence: 1 },
    });
    backend.on('sessionEnd', (_, reason) => reasons.push(reason));
    const silent = await platform.connect('/s');
    await turns(3);
    // A header that nothing follows is no request.
    silent.send(bytes(Request.setFeatures, 1, 8), []);
    await turns(3);
    assert.equal(reasons, [], 'nobody waits for it');
    const spoken = new RawFrontend(platform, await platform.connect('/s'));
    spoken.send(Request.getFeatures);
    await new Promise((resolve) => backend.once('sessionEnd', resolve));
    assert.is(reasons[0]!.code, 'ERR_VHOST_STATE');
    assert.match(reasons[0]!.message, 'said nothing for 1 ms, and another one waits');
    assert.ok((u64Of((await spoken.receive())!) & (VERSION_1 | PROTOCOL_FEATURES)) !== 0n);
    const third = await platform.connect('/s');
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.is(reasons.length, 1, 'whoever has spoken stays');
    for (const stream of [silent, spoken.stream, third]) stream.close();
    backend.close();
    await backend.finished;
    await turns(3);
    assert.is(platform.openFdCount, 0);
  },
);

limits.run();
