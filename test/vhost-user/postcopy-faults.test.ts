/**
 * Postcopy with real faults: a disk's daemon in a process of its own works on guest memory of which no page has arrived,
 * and this process, the front-end, supplies what is asked for.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  existsSync,
  ftruncateSync,
  mkdtempSync,
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
import { QueueMemory } from '../../runtime/drivers/queue-memory.js';
import {
  BlockClient,
  createLinuxPlatform,
  type FrontendPostcopy,
  GuestRam,
  MockFrontend,
  MockQueue,
} from '../../runtime/testing/index.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../generated/virtio/features.js';

const test = suite('postcopy, faults');
const platform = createLinuxPlatform();
const folder = mkdtempSync(join(tmpdir(), 'vhu-postcopy-'));
const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

const PAGE = 4096;
const IMAGE = 4 << 20;
const MEMORY = 8 << 20;
const LENGTH = 3 * PAGE;
const REQUESTS = 24;
const QUEUE_SIZE = 256;
const LIMIT = 120_000;

const pattern = (seed: number, length = LENGTH) =>
  Uint8Array.from({ length }, (_, i) => (seed * 31 + (i >> 9) * 7 + i) & 0xff);

/** `vhost-user-blk --postcopy` on an image of its own. */
class Daemon {
  readonly socket: string;
  readonly image: string;
  readonly process: ChildProcess;
  readonly ended: Promise<number | null>;
  log = '';

  constructor(name: string, engine: string, options: readonly string[] = ['--postcopy']) {
    this.socket = join(folder, `${name}.sock`);
    this.image = join(folder, `${name}.img`);
    writeFileSync(this.image, pattern(1, IMAGE));
    const program = fileURLToPath(new URL('../../runtime/bin/vhost-user-blk.js', import.meta.url));
    this.process = spawn(
      process.execPath,
      [program, `--socket-path=${this.socket}`, `--blk-file=${this.image}`, ...options],
      { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, VHOST_USER_BLOCK_ENGINE: engine } },
    );
    running.add(this.process);
    this.process.stderr!.on('data', (chunk: Buffer) => (this.log += chunk.toString()));
    this.ended = new Promise((resolve) =>
      this.process.on('close', (status) => {
        running.delete(this.process);
        resolve(status);
      }),
    );
  }

  async logs(what: RegExp, count = 1): Promise<void> {
    let ended = false;
    void this.ended.then(() => (ended = true));
    const all = new RegExp(what.source, 'g');
    while ((this.log.match(all) ?? []).length < count) {
      if (ended) throw new Error(`ended without ${what}: ${this.log}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Fds and mappings of guest memory that it has open. */
  get belongings(): { fds: number; mappings: number } {
    const maps = readFileSync(`/proc/${this.process.pid}/maps`, 'utf8');
    return {
      fds: readdirSync(`/proc/${this.process.pid}/fd`).length,
      mappings: maps.split('\n').filter((line) => /memfd:(guest-memory|withdrawn)/.test(line)).length,
    };
  }

  /** Waits until it has open what it had then; the end of a session is logged before all of it is put away. */
  async settled(before: Daemon['belongings']): Promise<void> {
    const end = performance.now() + LIMIT;
    while (JSON.stringify(this.belongings) !== JSON.stringify(before) && performance.now() < end)
      await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(this.belongings, before);
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.process.kill(signal);
    assert.is(await this.ended, 0, this.log);
  }
}

/** A guest that has not arrived: rings, requests and buffers are in `pages`, and its memory is empty. */
class ArrivingGuest {
  readonly ram = new GuestRam(platform, { size: MEMORY });
  readonly kick = platform.createEventFd();
  readonly call = platform.createEventFd();
  readonly queue: MockQueue;
  readonly disk: BlockClient;
  readonly format: 'split' | 'packed';
  readonly #rings: QueueMemory;
  #end!: (error: Error) => void;
  readonly #ended = new Promise<Error>((resolve) => (this.#end = resolve));
  /** What the other host has of the memory; null before `leave`. */
  #pages: Buffer | null = null;
  readonly asked: number[] = [];
  /** Pages that stay where they are, whoever asks. */
  withheld: (guestAddress: number) => boolean = () => false;
  frontend!: MockFrontend;
  postcopy!: FrontendPostcopy;

  constructor(format: 'split' | 'packed') {
    this.format = format;
    this.#rings = new QueueMemory(this.ram, 0, QUEUE_SIZE, this.features);
    const link = { kick: () => platform.signalEventFd(this.kick), ended: this.#ended };
    this.queue = new MockQueue(0, this.ram, this.#rings.start(), link);
    this.disk = new BlockClient(this.queue);
  }

  get features(): bigint {
    return (
      VirtioFeature.version1 |
      VirtioFeature.indirectDesc |
      VirtioFeature.eventIdx |
      (this.format === 'packed' ? VirtioFeature.ringPacked : 0n)
    );
  }

  /** The guest stops here; its memory is on the other host from now on, and nothing of it on this one. */
  leave(): void {
    const { fd, region } = this.ram.regions[0]!;
    const u8 = platform.windows.u8[region.mapping.firstWindow]!;
    this.#pages = Buffer.from(u8.subarray(0, MEMORY));
    ftruncateSync(fd, 0);
    ftruncateSync(fd, MEMORY);
  }

  /** Postcopy up to the running ring. Pages are supplied as they are asked for. */
  async arrive(daemon: Daemon): Promise<void> {
    await daemon.logs(/serving/);
    const signal = AbortSignal.timeout(LIMIT);
    this.frontend = await MockFrontend.connect(platform, daemon.socket, { signal });
    const protocol = ProtocolFeature.mq | ProtocolFeature.replyAck | ProtocolFeature.pagefault;
    const { features } = await this.frontend.negotiate({ features: this.features, protocol, signal });
    assert.is(features & this.features, this.features);
    this.postcopy = await this.frontend.postcopy(signal);
    await this.postcopy.listen(signal);
    await this.postcopy.share(this.ram, signal);
    this.postcopy.onFault((guestAddress) => {
      const page = Number(guestAddress);
      this.asked.push(page);
      if (!this.withheld(page)) this.supply(page);
    });
    const { areas } = this.#rings;
    await this.frontend.startVring(
      this.ram,
      {
        index: 0,
        size: QUEUE_SIZE,
        base: this.format === 'packed' ? 0x80008000 : 0,
        areas,
        kickFd: this.kick,
        callFd: this.call,
      },
      signal,
    );
  }

  /** Hands the device's calls on. The guest touches its rings then, so their pages have to be there. */
  run(): { close(): void } {
    return platform.watchEventFd(this.call, () => {
      for (const { guestAddress, length } of Object.values(this.#rings.areas) as {
        guestAddress: number;
        length: number;
      }[]) {
        for (let at = guestAddress - (guestAddress % PAGE); at < guestAddress + length; at += PAGE)
          this.supply(at);
      }
      this.queue.notify();
    });
  }

  supply(guestAddress: number): void {
    if (this.#pages === null) return;
    const from = guestAddress - Number(this.ram.regions[0]!.region.description.guestAddress);
    this.postcopy.supply(BigInt(guestAddress), this.#pages.subarray(from, from + PAGE));
  }

  /** What was not asked for comes too, and postcopy is over. */
  async complete(): Promise<void> {
    const start = Number(this.ram.regions[0]!.region.description.guestAddress);
    for (let at = start; at < start + MEMORY; at += PAGE) this.supply(at);
    this.#pages = null;
    await this.postcopy.end(AbortSignal.timeout(LIMIT));
  }

  close(): void {
    this.postcopy.close();
    this.frontend.close();
    this.#end(new Error('over'));
    platform.closeFd(this.kick);
    platform.closeFd(this.call);
    this.#rings[Symbol.dispose]();
    this.ram[Symbol.dispose]();
  }
}

const permitted = ((): string | null => {
  try {
    const userfault = platform.openUserfault();
    platform.closeFd(userfault.fd);
    userfault.release();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
})();

if (permitted !== null) {
  test(`page faults cannot be caught here (${permitted}): a daemon with --postcopy says so and does not start`, async () => {
    const daemon = new Daemon('refused', 'threads');
    assert.is(await daemon.ended, 1);
    assert.match(daemon.log, /userfaultfd/);
  });
} else {
  for (const format of ['split', 'packed'] as const) {
    for (const engine of ['io-uring', 'threads']) {
      test(`${format}, ${engine}: requests are carried out on memory that arrives while they run`, async () => {
        const daemon = new Daemon(`${format}-${engine}`, engine);
        await daemon.logs(/serving/);
        const before = daemon.belongings;
        const guest = new ArrivingGuest(format);
        const image = pattern(1, IMAGE);
        const results: Promise<unknown>[] = [];
        for (let i = 0; i < REQUESTS; i++) {
          results.push(guest.disk.write(i * LENGTH, pattern(i + 2)));
          const from = IMAGE / 2 + i * LENGTH;
          results.push(
            guest.disk
              .read(from, LENGTH)
              .then((read) => assert.equal(read, image.subarray(from, from + LENGTH))),
          );
        }
        guest.leave();
        await guest.arrive(daemon);
        const watch = guest.run();
        await Promise.all(results);
        assert.ok(guest.asked.length > REQUESTS * 3, `${guest.asked.length} pages were asked for`);
        const written = readFileSync(daemon.image);
        for (let i = 0; i < REQUESTS; i++) {
          assert.ok(written.subarray(i * LENGTH, (i + 1) * LENGTH).equals(pattern(i + 2)), `request ${i}`);
        }
        await guest.complete();
        // From here on it is memory as any other.
        await guest.disk.write(0, pattern(99));
        assert.equal(await guest.disk.read(0, LENGTH), pattern(99));
        assert.is((await guest.frontend.stopVring(0, AbortSignal.timeout(LIMIT))) >= 0, true);
        watch.close();
        guest.close();
        await daemon.logs(/session ended/);
        await daemon.settled(before);
        await daemon.stop();
      });

      test(`${format}, ${engine}: a write whose data never comes ends with its front-end, and the image keeps what it had`, async () => {
        const daemon = new Daemon(`lost-${format}-${engine}`, engine);
        await daemon.logs(/serving/);
        const before = daemon.belongings;
        const guest = new ArrivingGuest(format);
        const data = guest.ram.allocate(16 * PAGE, PAGE);
        data.bytes.set(pattern(5, 16 * PAGE));
        const start = data.guestAddress;
        guest.withheld = (page) => page >= start && page < start + data.length;
        // The header comes, the data does not.
        const header = guest.ram.allocate(16, 16);
        header.bytes.set([1]);
        const status = guest.ram.allocate(1, 1);
        const rows = Int32Array.of(
          header.window,
          header.offset,
          16,
          0,
          data.window,
          data.offset,
          data.length,
          0,
          status.window,
          status.offset,
          1,
          0,
        );
        assert.ok(guest.queue.driver.add(rows, 0, 2, 1) !== -1);
        guest.queue.commit();
        guest.leave();
        await guest.arrive(daemon);
        while (!guest.asked.some(guest.withheld)) await new Promise(setImmediate);
        guest.close();
        await daemon.logs(/session ended/);
        await daemon.settled(before);
        assert.ok(readFileSync(daemon.image).equals(pattern(1, IMAGE)), 'no zeros were written');
        await daemon.stop();
      });
    }

    test(`${format}: a loop that waits for a ring that never comes is free again when its front-end is gone`, async () => {
      const daemon = new Daemon(`stuck-${format}`, 'threads');
      await daemon.logs(/serving/);
      const before = daemon.belongings;
      const guest = new ArrivingGuest(format);
      guest.disk.write(0, pattern(3)).catch(() => undefined);
      guest.leave();
      guest.withheld = () => true;
      // It breaks off when the guest is closed below; before that it must not.
      let broken: unknown = null;
      const arriving = guest.arrive(daemon).catch((error: unknown) => (broken = error));
      while (guest.asked.length === 0 && broken === null) await new Promise(setImmediate);
      assert.is(broken, null, String(broken));
      guest.close();
      await arriving;
      await daemon.logs(/session ended/);
      await daemon.settled(before);
      assert.ok(readFileSync(daemon.image).equals(pattern(1, IMAGE)));
      // The next front-end is served as if nothing had been.
      const next = new ArrivingGuest(format);
      const write = next.disk.write(0, pattern(4));
      next.leave();
      await next.arrive(daemon);
      const watch = next.run();
      await write;
      await next.complete();
      watch.close();
      next.close();
      await daemon.logs(/session ended/, 2);
      await daemon.settled(before);
      await daemon.stop();
    });
  }

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    test(`a loop that waits for a ring that never comes is ended by ${signal}, although its front-end stays`, async () => {
      const daemon = new Daemon(`stuck-${signal}`, 'threads');
      const guest = new ArrivingGuest('split');
      guest.disk.write(0, pattern(3)).catch(() => undefined);
      guest.leave();
      guest.withheld = () => true;
      let broken: unknown = null;
      const arriving = guest.arrive(daemon).catch((error: unknown) => (broken = error));
      while (guest.asked.length === 0 && broken === null) await new Promise(setImmediate);
      assert.is(broken, null, String(broken));
      await daemon.stop(signal);
      assert.match(daemon.log, /message=stopping/);
      assert.not(existsSync(daemon.socket));
      await arriving;
      guest.close();
      assert.ok(readFileSync(daemon.image).equals(pattern(1, IMAGE)));
    });
  }
}

test.run();
