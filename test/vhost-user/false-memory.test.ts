/**
 * Memory that is not what its front-end claims, on the real platform: files that are truncated, too short or of the wrong kind,
 * regions that make no sense. Its session ends, or the request is refused, with a reason; the process, and the other session that
 * is served beside it, go on, and nothing is left behind.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { openFileBacking } from '../../runtime/backings/file.js';
import type { VirtioDevice } from '../../runtime/device/index.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { EntropyDevice } from '../../runtime/devices/entropy/index.js';
import { QueueMemory } from '../../runtime/drivers/queue-memory.js';
import { VhostError } from '../../runtime/errors.js';
import type { RegionDescription } from '../../runtime/memory/guest-memory.js';
import {
  createLinuxPlatform,
  GuestRam,
  type GuestRamOptions,
  MockDriver,
  MockFrontend,
  MockQueue,
  NetClient,
} from '../../runtime/testing/index.js';
import { serveDevice, type VhostUserBackend } from '../../runtime/vhost-user/backend/server.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../generated/virtio/features.js';

const test = suite('memory that is not what it claims');
const platform = createLinuxPlatform();
const folder = mkdtempSync(join(tmpdir(), 'vhu-false-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const PAGE = 4096n;
const USER = 0x7e00_0000_0000n;
const QUEUE_SIZE = 16;
const signal = (): AbortSignal => AbortSignal.timeout(120_000);

let sockets = 0;
/** A back-end of this process with a device of its own. */
function serve(device: VirtioDevice = new EntropyDevice()): { backend: VhostUserBackend; path: string } {
  const path = join(folder, `${sockets++}.sock`);
  return { backend: serveDevice(device, { platform, socketPath: path, spinMicroseconds: 0 }), path };
}

// The session beside the others: a driver that asks for random bytes now and then.
const neighbour = serve();
let beside: MockDriver;
test.before(async () => {
  beside = await MockDriver.start({ platform, path: neighbour.path, signal: signal() });
});
test.after(() => {
  beside.close();
  neighbour.backend.close();
});

async function othersLive(): Promise<void> {
  const { bytes } = await beside.queues[0]!.transfer([], [64], { signal: signal() });
  assert.is(bytes.byteLength, 64);
  assert.ok(bytes.some((byte) => byte !== 0xff));
}

/** Open fds and mappings of shared memory. */
function belongings(): { fds: number; mappings: number } {
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return {
    fds: readdirSync('/proc/self/fd').length,
    mappings: maps.filter((line) => /memfd:|vhu-false/.test(line)).length,
  };
}

async function settled(before: ReturnType<typeof belongings>): Promise<void> {
  for (let i = 0; i < 200 && JSON.stringify(belongings()) !== JSON.stringify(before); i++) {
    await new Promise(setImmediate);
  }
  assert.equal(belongings(), before);
}

const PROTOCOL =
  ProtocolFeature.mq |
  ProtocolFeature.replyAck |
  ProtocolFeature.configureMemSlots |
  ProtocolFeature.inflightShmfd |
  ProtocolFeature.logShmfd |
  ProtocolFeature.status;

/** A front-end of which every step is told by the test, with one ring. */
class Peer {
  readonly ram: GuestRam;
  readonly kick = platform.createEventFd();
  readonly call = platform.createEventFd();
  readonly frontend: MockFrontend;
  readonly features = VirtioFeature.version1 | VirtioFeature.vhostLogAll;
  readonly rings: QueueMemory;
  readonly queue: MockQueue;
  #end!: (error: Error) => void;
  readonly #ended = new Promise<Error>((resolve) => (this.#end = resolve));

  private constructor(frontend: MockFrontend, options: GuestRamOptions) {
    this.frontend = frontend;
    this.ram = new GuestRam(platform, options);
    this.rings = new QueueMemory(this.ram, 0, QUEUE_SIZE, VirtioFeature.version1);
    const link = { kick: () => platform.signalEventFd(this.kick), ended: this.#ended, polled: true };
    this.queue = new MockQueue(0, this.ram, this.rings.start(), link);
  }

  static async connect(path: string, options: GuestRamOptions = { size: 1 << 20 }): Promise<Peer> {
    const peer = new Peer(await MockFrontend.connect(platform, path, { signal: signal() }), options);
    await peer.frontend.negotiate({ features: VirtioFeature.version1, protocol: PROTOCOL, signal: signal() });
    return peer;
  }

  async start(): Promise<void> {
    const { areas } = this.rings;
    await this.frontend.shareMemory(this.ram, { signal: signal() });
    await this.frontend.startVring(
      this.ram,
      { index: 0, size: QUEUE_SIZE, base: 0, areas, kickFd: this.kick, callFd: this.call },
      signal(),
    );
  }

  close(): void {
    this.#end(new Error('over'));
    this.frontend.close();
    platform.closeFd(this.kick);
    platform.closeFd(this.call);
    this.rings[Symbol.dispose]();
    this.ram[Symbol.dispose]();
  }
}

/** The reason for which the session ends that runs now. */
function endOf(backend: VhostUserBackend): Promise<Error | null> {
  return new Promise((resolve) => backend.once('sessionEnd', (_, reason) => resolve(reason)));
}

// --- requests that are refused

/** A memfd that lets nobody write any more. Perl is on every Debian; Node has no fcntl. */
function sealed(seal: number): number {
  const fd = platform.createSharedMemory('sealed', PAGE);
  const F_ADD_SEALS = 1033;
  const { status, stderr } = spawnSync(
    'perl',
    ['-e', `defined fcntl(STDIN, ${F_ADD_SEALS}, ${seal}) or die $!`],
    {
      stdio: [fd, 'ignore', 'pipe'],
    },
  );
  assert.is(status, 0, String(stderr));
  return fd;
}

function readOnlyMemory(): number {
  const fd = platform.createSharedMemory('read-only', PAGE);
  const again = openSync(`/proc/self/fd/${fd}`, 'r');
  platform.closeFd(fd);
  return again;
}

function pipe(): number {
  const path = join(folder, 'pipe');
  execFileSync('mkfifo', [path]);
  const fd = openSync(path, 'r+');
  rmSync(path);
  return fd;
}

function socket(): number {
  const [near, far] = platform.socketPair();
  platform.closeFd(far);
  return near;
}

function readOnlyFile(): number {
  const path = join(folder, 'file');
  writeFileSync(path, Buffer.alloc(Number(PAGE)));
  return openSync(path, 'r');
}

const F_SEAL_WRITE = 8;
const F_SEAL_FUTURE_WRITE = 16;
const WRONG_KINDS: Record<string, () => number> = {
  'a socket': socket,
  'a pipe': pipe,
  'a directory': () => openSync(folder, 'r'),
  '/dev/null': () => openSync('/dev/null', 'r+'),
  'an eventfd': () => platform.createEventFd(),
  'a memfd that is open for reading only': readOnlyMemory,
  'a file that is open for reading only': readOnlyFile,
  'a memfd sealed against writing': () => sealed(F_SEAL_WRITE),
  'a memfd sealed against writing from now on': () => sealed(F_SEAL_FUTURE_WRITE),
};
for (const [what, open] of Object.entries(WRONG_KINDS)) {
  test(`${what} is no memory: the table and the region are refused, the session goes on`, async () => {
    const { backend, path } = serve();
    const peer = await Peer.connect(path);
    const fd = open();
    const before = belongings();
    const region = { guestAddress: 0n, size: PAGE, userAddress: USER, mmapOffset: 0n };
    for (const ask of [
      () => peer.frontend.request('setMemTable', { regions: [region] }, { fds: [fd], signal: signal() }),
      () => peer.frontend.request('addMemReg', { region }, { fds: [fd], signal: signal() }),
    ]) {
      assert.is((await failure(ask())).code, 'ERR_VHOST_REFUSED');
    }
    await settled(before);
    closeSync(fd);
    await peer.start();
    assert.is((await peer.queue.transfer([], [64], { signal: signal() })).written, 64);
    await othersLive();
    peer.close();
    backend.close();
  });
}

const region = (
  guestAddress: bigint,
  size: bigint,
  userAddress = USER + guestAddress,
  mmapOffset = 0n,
): RegionDescription => ({ guestAddress, size, userAddress, mmapOffset });

const FILE = 16n * PAGE;
const WRONG_REGIONS: Record<string, RegionDescription> = {
  'a region of no bytes': region(FILE, 0n),
  'a region longer than its file': region(FILE, FILE + PAGE),
  'a region that ends behind its file': region(FILE, FILE, USER + FILE, PAGE),
  'an offset past the end of the file': region(FILE, PAGE, USER + FILE, FILE),
  'an offset that wraps around': region(FILE, PAGE, USER + FILE, 0xffff_ffff_ffff_f000n),
  'guest addresses that wrap around': region(0xffff_ffff_ffff_f000n, 2n * PAGE, USER + FILE),
  'user addresses that wrap around': region(FILE, 2n * PAGE, 0xffff_ffff_ffff_f000n),
  'a size near 2^64': region(FILE, 0xffff_ffff_ffff_f000n),
  'a region that overlaps in guest addresses': region(FILE / 2n, FILE, USER + 4n * FILE),
  'a region that overlaps in user addresses': region(4n * FILE, FILE, USER + FILE / 2n),
};
for (const [what, wrong] of Object.entries(WRONG_REGIONS)) {
  test(`${what} is refused, in a table and alone; the memory before stays`, async () => {
    const { backend, path } = serve();
    const peer = await Peer.connect(path);
    const fd = platform.createSharedMemory('regions', FILE);
    const good = region(0n, FILE);
    await peer.frontend.request('setMemTable', { regions: [good] }, { fds: [fd], signal: signal() });
    const before = belongings();
    for (const ask of [
      () =>
        peer.frontend.request('setMemTable', { regions: [good, wrong] }, { fds: [fd, fd], signal: signal() }),
      () => peer.frontend.request('addMemReg', { region: wrong }, { fds: [fd], signal: signal() }),
    ]) {
      assert.is((await failure(ask())).code, 'ERR_VHOST_REFUSED');
      await settled(before);
    }
    assert.is(backend.session!.memory.current!.count, 1);
    platform.closeFd(fd);
    await othersLive();
    peer.close();
    backend.close();
  });
}

// --- memory that goes away under a ring

for (const end of [0, 4096]) {
  test(`a memory file truncated to ${end} bytes under a running ring ends the session`, async () => {
    const before = belongings();
    const { backend, path } = serve();
    const peer = await Peer.connect(path);
    await peer.start();
    assert.is((await peer.queue.transfer([], [64], { signal: signal() })).written, 64);
    const ended = endOf(backend);
    const transfer = peer.queue.transfer([], [8192]).catch(() => undefined);
    ftruncateSync(peer.ram.regions[0]!.fd, end);
    platform.signalEventFd(peer.kick);
    assert.match((await ended)!.message, /truncated the memory that it shares; its pages are lost/);
    await othersLive();
    peer.close();
    await transfer;
    backend.close();
    await settled(before);
  });
}

test('a memory file truncated while requests stream through the ring ends the session', async () => {
  const before = belongings();
  const { backend, path } = serve();
  const peer = await Peer.connect(path);
  await peer.start();
  const ended = endOf(backend);
  let over = false;
  void ended.then(() => (over = true));
  let done = 0;
  const work = async (): Promise<void> => {
    while (!over) {
      await peer.queue.transfer([], [512]);
      if (++done === 50) ftruncateSync(peer.ram.regions[0]!.fd, 0);
    }
  };
  const workers = Array.from({ length: 4 }, () => work().catch(() => undefined));
  assert.match((await ended)!.message, /truncated the memory/);
  await othersLive();
  peer.close();
  await Promise.all(workers);
  backend.close();
  await settled(before);
});

test('a file truncated that holds buffers and no ring ends the session when a device writes there', async () => {
  const before = belongings();
  const { backend, path } = serve();
  const layout = [
    { guestAddress: 0n, size: 1n << 20n },
    { guestAddress: 1n << 30n, size: 1n << 20n },
  ];
  const peer = await Peer.connect(path, { layout, filePerRegion: true });
  await peer.start();
  const buffer = peer.ram.allocate(4096, 4096, 1);
  const ended = endOf(backend);
  ftruncateSync(peer.ram.regions[1]!.fd, 0);
  const { window, offset, length } = buffer;
  assert.is.not(peer.queue.driver.add(Int32Array.of(window, offset, length, 0), 0, 0, 1), -1);
  peer.queue.commit();
  assert.match((await ended)!.message, /truncated the memory/);
  await othersLive();
  peer.close();
  backend.close();
  await settled(before);
});

test('a file truncated under the file I/O of a disk fails the request; the image keeps what it had', async () => {
  const before = belongings();
  const image = join(folder, 'image');
  writeFileSync(image, Buffer.alloc(65536, 0x61));
  const backing = openFileBacking(platform, image, { readOnly: false });
  const { backend, path } = serve(new BlockDevice(backing));
  const layout = [
    { guestAddress: 0n, size: 1n << 20n },
    { guestAddress: 1n << 30n, size: 1n << 20n },
  ];
  const peer = await Peer.connect(path, { layout, filePerRegion: true });
  await peer.start();
  const [header, data, status] = [
    peer.ram.allocate(16, 16, 0),
    peer.ram.allocate(32768, 4096, 1),
    peer.ram.allocate(1, 1, 0),
  ];
  header.bytes.fill(0).set([1]); // OUT
  status.bytes[0] = 0xff;
  const rows = Int32Array.from(
    [header, data, status].flatMap(({ window, offset, length }) => [window, offset, length, 0]),
  );
  const ended = endOf(backend);
  ftruncateSync(peer.ram.regions[1]!.fd, 0);
  assert.is.not(peer.queue.driver.add(rows, 0, 2, 1), -1);
  peer.queue.commit();
  while (status.bytes[0] === 0xff) await new Promise(setImmediate);
  assert.is(status.bytes[0], 1, 'IOERR');
  assert.ok(readFileSync(image).every((byte) => byte === 0x61));
  await othersLive();
  peer.close();
  await ended;
  backend.close();
  await backing.close();
  await settled(before);
});

test('a ring whose memory is unmapped rests, and goes on when it is there again', async () => {
  const before = belongings();
  const { backend, path } = serve();
  const peer = await Peer.connect(path);
  await peer.start();
  assert.is((await peer.queue.transfer([], [64], { signal: signal() })).written, 64);
  const { region: shared, fd } = peer.ram.regions[0]!;
  await peer.frontend.request('remMemReg', { region: shared.description }, { signal: signal() });
  const transfer = peer.queue.transfer([], [64], { signal: signal() });
  let done = false;
  void transfer.then(() => (done = true));
  await peer.frontend.request('getStatus', undefined, { signal: signal() });
  await othersLive();
  assert.not(done);
  await peer.frontend.request('addMemReg', { region: shared.description }, { fds: [fd], signal: signal() });
  peer.queue.kick();
  assert.is((await transfer).written, 64);
  peer.close();
  backend.close();
  await settled(before);
});

test('in-flight memory whose file is truncated ends the session', async () => {
  const before = belongings();
  const { backend, path } = serve();
  const peer = await Peer.connect(path);
  const replyFds: number[] = [];
  const description = await peer.frontend.request(
    'getInflightFd',
    { mmapSize: 0n, mmapOffset: 0n, numQueues: 1, queueSize: QUEUE_SIZE },
    { replyFds, signal: signal() },
  );
  await peer.frontend.request('setInflightFd', description, { fds: replyFds, signal: signal() });
  await peer.start();
  assert.is((await peer.queue.transfer([], [64], { signal: signal() })).written, 64);
  const ended = endOf(backend);
  ftruncateSync(replyFds[0]!, 0);
  const transfer = peer.queue.transfer([], [64]).catch(() => undefined);
  assert.match((await ended)!.message, /truncated the in-flight memory/);
  await othersLive();
  peer.close();
  await transfer;
  backend.close();
  platform.closeFd(replyFds[0]!);
  await settled(before);
});

test('a dirty log whose file is truncated ends the session', async () => {
  const before = belongings();
  const { backend, path } = serve();
  const peer = await Peer.connect(path);
  await peer.start();
  const log = platform.createSharedMemory('log', PAGE);
  await peer.frontend.request('setLogBase', { size: PAGE, offset: 0n }, { fds: [log], signal: signal() });
  const { features } = peer.frontend.negotiated;
  await peer.frontend.request('setFeatures', features | VirtioFeature.vhostLogAll, { signal: signal() });
  assert.is((await peer.queue.transfer([], [64], { signal: signal() })).written, 64);
  const ended = endOf(backend);
  ftruncateSync(log, 0);
  const transfer = peer.queue.transfer([], [64]).catch(() => undefined);
  assert.match((await ended)!.message, /truncated the dirty log/);
  await othersLive();
  peer.close();
  await transfer;
  backend.close();
  platform.closeFd(log);
  await settled(before);
});

// --- a daemon with several sockets

test('vhost-user-net with two sockets: one front-end truncates its memory, the card of the other goes on', async () => {
  const paths = [join(folder, 'net0.sock'), join(folder, 'net1.sock')];
  const program = fileURLToPath(new URL('../../runtime/bin/vhost-user-net.js', import.meta.url));
  const options = [...paths.map((path) => `--socket-path=${path}`), '--port=echo'];
  const daemon = spawn(process.execPath, [program, ...options], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  daemon.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
  const ended = new Promise<number | null>((resolve) => daemon.on('close', resolve));
  try {
    const retry = { attempts: Infinity, delayMilliseconds: 10 };
    const good = await NetClient.start({ platform, path: paths[1]!, retry, signal: signal() });
    const frame = new Uint8Array(60).fill(7);
    const echoed = async (): Promise<void> => {
      await good.send([frame], { signal: signal() });
      const [answer] = await good.receive(1, { signal: signal() });
      assert.equal(answer!.bytes.subarray(12), frame.subarray(12));
    };
    await echoed();
    for (let i = 0; i < 3; i++) {
      const driver = await MockDriver.start({
        platform,
        path: paths[0]!,
        queues: 2,
        retry,
        signal: signal(),
      });
      ftruncateSync(driver.ram.regions[0]!.fd, 0);
      for (const queue of driver.queues) queue.kick();
      const told = () => log.split('truncated the memory').length - 1;
      while (told() <= i) {
        if (daemon.exitCode !== null) throw new Error(`the daemon is gone: ${log}`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      driver.close();
      await echoed();
    }
    good.close();
    daemon.kill('SIGTERM');
    assert.is(await ended, 0);
  } finally {
    daemon.kill('SIGKILL');
  }
});

async function failure(promise: Promise<unknown>): Promise<VhostError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof VhostError) return error;
    throw error;
  }
  throw new Error('was not refused');
}

test.run();
