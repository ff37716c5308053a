/** Our front-end on virtiofsd, QEMU's own back-end over libvhost-user: no disk and no network, driven by hand. */
import { accessSync, writeFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtioDriver, type VirtioDriverOptions } from '../../runtime/drivers/virtio-driver.js';
import type { VhostUserError } from '../../runtime/errors.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { FrontendDirtyLog } from '../../runtime/vhost-user/frontend/dirty-log.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { FuseClient } from '../support/fuse.js';
import { PATIENCE, RunningProgram, TemporaryFolder, within } from '../support/guest/processes.js';

const test = suite('front-end on virtiofsd');

const VIRTIOFSD = '/usr/lib/qemu/virtiofsd';
const LIMIT_MS = PATIENCE;
const RETRY = { attempts: Infinity, delayMilliseconds: 10 };
const MIB = 1 << 20;
const PAGE = 4096;
/** The first queue is that of urgent requests. */
const REQUESTS = 1;

const platform = createLinuxPlatform();
const contents = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 7 + (i >> 8)) & 0xff);

/** A shared folder with one file, and where its daemon listens. It serves one front-end, and ends with it. */
class Share extends TemporaryFolder {
  readonly socket = this.file('fs.sock');

  constructor() {
    super();
    writeFileSync(this.file('file'), contents);
    try {
      accessSync(VIRTIOFSD);
    } catch (cause) {
      throw new Error(`${VIRTIOFSD} is part of this Debian package: apt-get install qemu-system-common`, {
        cause,
      });
    }
  }

  /** Started, and not waited for: whoever connects often enough may have done so before anybody saw it listen. */
  start(): RunningProgram {
    // Into the shared folder by chroot: unlike namespaces that is allowed in most containers.
    const options = ['-f', '-o', `source=${this.path}`, '-o', 'sandbox=chroot', '--rlimit-nofile=0'];
    return new RunningProgram('virtiofsd', VIRTIOFSD, [`--socket-path=${this.socket}`, ...options]);
  }

  connect(options: Partial<VirtioDriverOptions> = {}): Promise<VirtioDriver> {
    return VirtioDriver.start({
      platform,
      path: this.socket,
      queues: 2,
      queueSize: 128,
      retry: RETRY,
      signal: AbortSignal.timeout(LIMIT_MS),
      ...options,
    });
  }
}

/** Reads the whole file, directly and through an indirect table, in pieces and all at once. */
async function readEverything(files: FuseClient): Promise<void> {
  const { inode, size } = (await files.lookUp('file'))!;
  assert.is(size, BigInt(contents.length));
  const handle = await files.open(inode);
  const piece = 4096;
  const reads = Array.from({ length: Math.ceil(contents.length / piece) }, (_, i) =>
    files.read(inode, handle, i * piece, piece, { indirect: i % 2 === 1 }),
  );
  const read = Buffer.concat(await Promise.all(reads));
  assert.is(read.byteLength, contents.length);
  assert.ok(read.equals(contents), 'the contents of the file');
}

const variants: Partial<VirtioDriverOptions>[] = [
  { order: 'virtio-user' },
  { order: 'qemu' },
  { memory: { size: 16 * MIB, regions: 8, filePerRegion: true } },
  { memoryTable: true, memory: { size: 16 * MIB, regions: 4 } },
  { eventIdx: false },
];

for (const variant of variants) {
  test(`a file is found, opened and read, ${JSON.stringify(variant)}`, async () => {
    using share = new Share();
    await using daemon = share.start();
    using driver = await share.connect(variant);
    const files = new FuseClient(driver.queues[REQUESTS]!);
    await daemon.whileRunning(
      (async () => {
        const [major] = await files.initialise();
        assert.is(major, 7);
        await readEverything(files);
        assert.is(await files.lookUp('nothing'), null);
        const unknown = await files.request(0xffff, 1n, new Uint8Array(0), 64);
        assert.is(unknown.error, -38, 'ENOSYS');
      })(),
    );
  });
}

test('what libvhost-user offers is negotiated, what it lacks is refused here', async () => {
  using share = new Share();
  await using _daemon = share.start();
  using driver = await share.connect();
  const { protocol, queueCount, memorySlots } = driver.frontend.negotiated;
  const { mq, replyAck, backendReq, backendSendFd, configureMemSlots, logShmfd } = ProtocolFeature;
  const expected = mq | replyAck | backendReq | backendSendFd | configureMemSlots | logShmfd;
  assert.is(protocol & expected, expected);
  assert.is(queueCount, 2);
  assert.ok(memorySlots >= 8, `${memorySlots} slots`);
  const refused = await driver.frontend.resetDevice().catch((error: unknown) => error);
  assert.is((refused as VhostUserError).code, 'ERR_VHOST_GATE');
});

test('rings stop where their used entries end and go on from there; memory comes and goes meanwhile', async () => {
  using share = new Share();
  await using daemon = share.start();
  using driver = await share.connect();
  const files = new FuseClient(driver.queues[REQUESTS]!);
  await daemon.whileRunning(
    (async () => {
      await files.initialise();
      await readEverything(files);
      const used = driver.queues[REQUESTS]!.driver.counters.completed;
      for (let round = 0; round < 3; round++) {
        const states = await driver.stopRings();
        assert.is(states[0]!.nextAvailable, 0);
        assert.is(states[REQUESTS]!.nextAvailable, used + round * 27);
        await driver.resumeRings();
        const added = round === 1 ? await driver.addMemory(4 * MIB) : null;
        await readEverything(files);
        if (added !== null) await driver.removeMemory(added);
      }
    })(),
  );
});

test('pages that it writes are marked in the log while there is one', async () => {
  using share = new Share();
  await using daemon = share.start();
  using driver = await share.connect();
  const files = new FuseClient(driver.queues[REQUESTS]!);
  await daemon.whileRunning(
    (async () => {
      await files.initialise();
      const { inode } = (await files.lookUp('file'))!;
      const handle = await files.open(inode);
      using log = new FrontendDirtyLog(driver.frontend);
      await log.start();
      const read = await files.read(inode, handle, 0, contents.length);
      assert.ok(Buffer.from(read).equals(contents));
      const pages = log.collect();
      const { device } = driver.frontend.vring(REQUESTS)!.setup!.areas;
      const usedRing = Number(driver.memory.guestAddress(device) / BigInt(PAGE)) * PAGE;
      assert.ok(pages.includes(usedRing), 'the used ring');
      assert.ok(pages.length > contents.length / PAGE, `${pages.length} pages`);
      await log.stop();
      log.collect();
      await readEverything(files);
      assert.equal(log.collect(), []);
    })(),
  );
});

test('killed and started again: what waited is served by the next one', async () => {
  using share = new Share();
  const first = share.start();
  let next: RunningProgram | null = null;
  try {
    using driver = await share.connect({ reconnect: true });
    const files = new FuseClient(driver.queues[REQUESTS]!);
    await first.whileRunning(files.initialise());
    const gone = new Promise((resolve) => driver.frontend.once('disconnected', resolve));
    await first.terminate('SIGKILL');
    await within(LIMIT_MS, gone, () => 'the end is not noticed');
    const waiting = files.initialise();
    next = share.start();
    assert.is((await next.whileRunning(waiting))[0], 7);
    // Another process, which knows nothing of files that the one before had looked up.
    await next.whileRunning(readEverything(files));
  } finally {
    await first[Symbol.asyncDispose]();
    await next?.[Symbol.asyncDispose]();
  }
});

test.run();
