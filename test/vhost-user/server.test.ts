import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { VhostUserError } from '../../runtime/errors.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import type { SocketStream } from '../../runtime/platform/platform.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import { Conversation, RecordingDevice, RunningRing, SharedGuest } from '../support/conversation.js';
import { bytes, RawFrontend, Request, turns, until } from '../support/raw-frontend.js';

const test = suite('the back-end server');
const PATH = '/run/device.sock';

function open(options = {}) {
  const platform = createFakePlatform();
  const device = new RecordingDevice();
  const reasons: (VhostUserError | null)[] = [];
  const backend = serveDevice(device, { platform, socketPath: PATH, ...options });
  backend.on('sessionEnd', (_, reason) => reasons.push(reason));
  const connect = async (): Promise<RawFrontend> => new RawFrontend(platform, await platform.connect(PATH));
  return { platform, device, backend, reasons, connect };
}

test('front-ends are served one after the other, for ever', async () => {
  const { platform, device, backend, reasons, connect } = open();
  const before = platform.openFdCount;
  for (let i = 1; i <= 20; i++) {
    const frontend = await connect();
    await frontend.ask(Request.getFeatures);
    frontend.close();
    await until(() => reasons.length === i, 'the session ends');
  }
  assert.ok(reasons.every((reason) => reason === null));
  assert.is(device.events.filter((event) => event === 'attach').length, 20);
  assert.is(platform.openFdCount, before);
  backend.close();
  assert.is(platform.openFdCount, 0);
});

test('peers 10: who connects while another is served waits, and is served as soon as that one leaves', async () => {
  const { backend, connect } = open();
  const first = await connect();
  await first.ask(Request.getFeatures);
  const second = await connect();
  second.send(Request.getFeatures);
  await turns(20);
  assert.is(second.stream.receive(new Uint8Array(1), []), -1, 'not yet');
  first.close();
  assert.is((await second.receive())!.request, Request.getFeatures);
  second.close();
  backend.close();
});

for (const [what, leave] of [
  // The reply lies unread when the socket is closed: reading from it fails with ECONNRESET.
  ['leaves a reply unread', async (frontend: RawFrontend) => turns(20).then(() => frontend.close())],
  // It is closed before the reply is sent: sending fails with EPIPE.
  ['is gone before its reply', async (frontend: RawFrontend) => frontend.close()],
] as const) {
  test(`a front-end that ${what} is no error of ours`, async () => {
    const levels: string[] = [];
    const { backend, reasons, connect } = open({ log: (level: string) => levels.push(level) });
    const frontend = await connect();
    frontend.send(Request.getFeatures);
    await leave(frontend);
    await until(() => reasons.length === 1, 'the session ends');
    assert.is(reasons[0]?.code, 'ERR_VHOST_DISCONNECTED');
    assert.equal([...new Set(levels)], ['info']);
    backend.close();
  });
}

test('a front-end that breaks the protocol is logged as an error', async () => {
  const levels: string[] = [];
  const { backend, reasons, connect } = open({ log: (level: string) => levels.push(level) });
  const frontend = await connect();
  frontend.stream.send(new Uint8Array(12).fill(0xff), []);
  await until(() => reasons.length === 1, 'the session ends');
  assert.is(levels.at(-1), 'error');
  frontend.close();
  backend.close();
});

test('seventeen connections cannot wait', async () => {
  const { platform, backend, connect } = open();
  const all: RawFrontend[] = [];
  for (let i = 0; i < 18; i++) all.push(await connect());
  assert.ok(await all[17]!.hungUp());
  await all[0]!.ask(Request.getFeatures);
  for (const frontend of all) frontend.close();
  backend.close();
  assert.is(platform.openFdCount, 0);
});

test('abort ends the session, closes everything and removes the socket', async () => {
  const abort = new AbortController();
  const { platform, backend, reasons, connect } = open({ signal: abort.signal });
  const frontend = await connect();
  await frontend.ask(Request.getFeatures);
  const waiting = await connect();
  await turns(3);
  abort.abort();
  await backend.finished;
  assert.equal(reasons, [null]);
  assert.ok(await frontend.hungUp());
  assert.ok(await waiting.hungUp());
  frontend.close();
  waiting.close();
  assert.is(platform.openFdCount, 0);
  let refused: unknown = null;
  await platform.connect(PATH).catch((error: unknown) => (refused = error));
  assert.ok(refused);
});

test('an aborted signal is not even begun with', () => {
  const platform = createFakePlatform();
  const options = { platform, socketPath: PATH, signal: AbortSignal.abort() };
  assert.throws(() => serveDevice(new RecordingDevice(), options), /abort/i);
  assert.is(platform.openFdCount, 0);
});

test('using: the back-end ends with its block', async () => {
  const platform = createFakePlatform();
  {
    using backend = serveDevice(new RecordingDevice(), { platform, socketPath: PATH });
    assert.is(backend.session, null);
  }
  assert.is(platform.openFdCount, 0);
});

test('peers 3: an inherited fd may listen or be connected', async () => {
  const platform = createFakePlatform();
  const listening = serveDevice(new RecordingDevice(), { platform, fd: platform.createListeningFd(PATH) });
  const first = new RawFrontend(platform, await platform.connect(PATH));
  await first.ask(Request.getFeatures);
  first.close();
  await turns(5);
  const second = new RawFrontend(platform, await platform.connect(PATH));
  await second.ask(Request.getFeatures);
  second.close();
  listening.close();

  const [mine, theirs] = platform.socketPair();
  const connected = serveDevice(new RecordingDevice(), { platform, fd: theirs });
  const frontend = new RawFrontend(platform, platform.adoptSocket(mine) as SocketStream);
  await frontend.ask(Request.getFeatures);
  frontend.close();
  await connected.finished;
  assert.is(platform.openFdCount, 0, 'with its one connection the back-end ends');
});

test('as a client it connects as soon as the front-end listens, and again after every session', async () => {
  const platform = createFakePlatform();
  const backend = serveDevice(new RecordingDevice(), { platform, socketPath: PATH, connect: true });
  await turns(3);
  const listener = platform.listen(PATH);
  const streams: SocketStream[] = [];
  listener.onConnection((stream) => streams.push(stream));
  for (let i = 0; i < 3; i++) {
    while (streams.length <= i) await new Promise((resolve) => setTimeout(resolve, 5));
    const frontend = new RawFrontend(platform, streams[i]!);
    await frontend.ask(Request.getFeatures);
    frontend.close();
  }
  backend.close();
  await backend.finished;
  listener.close();
  await turns(5);
  for (const stream of streams) stream.close();
  assert.is(platform.openFdCount, 0);
});

test('a client rests longer and longer between connections that end as soon as they are made', async () => {
  const platform = createFakePlatform();
  const listener = platform.listen(PATH);
  let connections = 0;
  listener.onConnection((stream) => {
    stream.close();
    if (++connections === 100) listener.close();
  });
  const backend = serveDevice(new RecordingDevice(), { platform, socketPath: PATH, connect: true });
  await turns(2000);
  assert.ok(connections >= 1 && connections < 20, `${connections} connections in 2000 turns of the loop`);
  backend.close();
  await backend.finished;
  listener.close();
  await turns(5);
  assert.is(platform.openFdCount, 0);
});

test('a client that can never connect says so', async () => {
  const platform = createFakePlatform();
  platform.failNext('connect', 'EACCES');
  const backend = serveDevice(new RecordingDevice(), { platform, socketPath: PATH, connect: true });
  const error = await backend.finished.then(
    () => null,
    (reason: unknown) => reason,
  );
  assert.is((error as { errno: string }).errno, 'EACCES');
  assert.is(platform.openFdCount, 0);
});

test('sessions can be iterated', async () => {
  const { backend, connect } = open();
  const seen: number[] = [];
  const loop = (async () => {
    for await (const session of backend.sessions()) {
      seen.push(seen.length);
      await session.closed;
      if (seen.length === 2) break;
    }
  })();
  for (let i = 0; i < 2; i++) {
    const frontend = await connect();
    await frontend.ask(Request.getFeatures);
    frontend.close();
    await turns(10);
  }
  await loop;
  assert.equal(seen, [0, 1]);
  backend.close();
});

test('C14: the back-end may be closed from inside its own device', async () => {
  const talk = Conversation.open();
  const guest = new SharedGuest(talk.platform);
  await talk.negotiate();
  const ring = RunningRing.start(talk, guest);
  const serveQueue = talk.device.serveQueue.bind(talk.device);
  talk.device.serveQueue = (queue) => {
    talk.device.hold = true;
    serveQueue(queue);
    if (talk.device.held.length === 0) return;
    talk.backend.close();
    talk.device.finish();
  };
  ring.offer();
  assert.is(await talk.ended(), null);
  ring.close();
  guest.close();
  talk.frontend.close();
  assert.is(talk.platform.mappingCount, 0);
  assert.is(talk.platform.openFdCount, 0);
});

test('options that contradict each other are refused', () => {
  const platform = createFakePlatform();
  const serve = (options: object) => () => serveDevice(new RecordingDevice(), { platform, ...options });
  assert.throws(serve({}), (error: VhostUserError) => error.code === 'ERR_OPTION_MISSING');
  assert.throws(
    serve({ socketPath: PATH, fd: 3 }),
    (error: VhostUserError) => error.code === 'ERR_OPTION_CONFLICT',
  );
  assert.throws(
    serve({ fd: 3, connect: true }),
    (error: VhostUserError) => error.code === 'ERR_OPTION_CONFLICT',
  );
});

test('a device that fails to take a connection ends that session only', async () => {
  const { device, reasons, connect, backend } = open();
  const { attach } = device;
  device.attach = () => {
    throw new Error('busy');
  };
  const first = await connect();
  assert.ok(await first.hungUp());
  assert.is(reasons[0]?.code, 'ERR_DEVICE_FAILED');
  device.attach = attach;
  const second = await connect();
  await second.ask(Request.getFeatures, bytes());
  second.close();
  first.close();
  backend.close();
});

test.run();
