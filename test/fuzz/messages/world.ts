import { ftruncateSync, openSync, readdirSync, readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { createFakePlatform } from '../../../runtime/platform/fake.js';
import { createLinuxPlatform } from '../../../runtime/platform/linux.js';
import type { Mapping, Platform, SocketStream } from '../../../runtime/platform/platform.js';
import type { Random } from '../../support/random.js';
import { bytes, encodeMessage } from '../../support/raw-frontend.js';
import type { ViewedMemory } from '../../support/raw-rings.js';

/** User addresses are guest addresses plus this. */
export const USER = 0x7f00_0000_0000;
/** Bytes in front of and behind each region in its file, which nobody may touch. */
const GUARD = 0x1000;
const CANARY = 0x5a;

/** The guest's regions: two that touch, and one far away. */
const REGIONS = [
  { address: 0, size: 0x1_0000 },
  { address: 0x1_0000, size: 0x4000 },
  { address: 0x1_0000_0000, size: 0x4000 },
];

export interface WorldRegion {
  readonly address: number;
  readonly size: number;
  readonly mmapOffset: number;
  readonly fd: number;
}

/** A platform with everything that a front-end sends along, and the count of what is open on it. */
export class World implements ViewedMemory, Disposable {
  readonly platform: Platform;
  readonly regions: readonly WorldRegion[];
  readonly events: readonly number[];
  /** Ends of socket pairs to send; the other ends are answered here. */
  readonly sockets: readonly number[];
  readonly #channels: readonly SocketStream[];
  readonly #answer = new Uint8Array(4096);
  /** Fds of kinds that no message carries. */
  readonly odd: readonly number[];
  /** A file that is too short for every region. */
  readonly short: number;
  /** A file for logs and records, as long as either has to be. */
  readonly scratch: number;
  /** Fds that came with replies. */
  readonly loot: number[] = [];
  readonly #mappings: Mapping[];
  readonly #kind: Backdrop;
  #before: string | null = null;

  constructor(kind: Backdrop, random: Random) {
    this.#kind = kind;
    const platform = kind.platform(random);
    this.platform = platform;
    this.#before = kind.census();
    this.regions = REGIONS.map((region) => ({
      ...region,
      mmapOffset: GUARD,
      fd: platform.createSharedMemory('fuzz', BigInt(region.size + 2 * GUARD)),
    }));
    this.#mappings = this.regions.map(({ fd, size }) => platform.map(fd, 0n, BigInt(size + 2 * GUARD)));
    for (const [i] of this.regions.entries()) for (const guard of this.#guards(i)) guard.fill(CANARY);
    this.events = Array.from({ length: 6 }, () => platform.createEventFd());
    const pairs = Array.from({ length: 2 }, () => platform.socketPair());
    this.sockets = pairs.map(([theirs]) => theirs);
    this.#channels = pairs.map(([, mine]) => platform.adoptSocket(mine) as SocketStream);
    this.odd = kind.odd(platform);
    this.short = platform.createSharedMemory('fuzz', 0x1000n);
    this.scratch = platform.createSharedMemory('fuzz', 0x1_0000n);
  }

  /** Guest memory; the range must lie in one region. */
  view(address: number, length: number): DataView {
    const i = this.regions.findIndex((each) => address >= each.address && address < each.address + each.size);
    const { address: start, mmapOffset } = this.regions[i]!;
    const file = this.#file(i);
    return new DataView(file.buffer, file.byteOffset + mmapOffset + address - start, length);
  }

  /** Shortens a region's file, as a hostile front-end does. */
  truncate(region: number, size: number): void {
    this.#kind.truncate(this.platform, this.regions[region]!.fd, size);
  }

  /** Answers the back-end's own requests, well or not. */
  answerChannels(random: Random): void {
    for (const channel of this.#channels) {
      try {
        const count = channel.receive(this.#answer, this.loot);
        if (count < 12) continue;
        const header = new DataView(this.#answer.buffer, 0, 12);
        const request = random.chance(10) ? random.below(12) : header.getUint32(0, true);
        const result = BigInt(random.chance(4) ? random.below(3) : 0);
        channel.send(encodeMessage(request, bytes(result), random.chance(20) ? random.below(16) : 5), []);
        if (random.chance(30))
          channel.send(random.bytes(1 + random.below(30)), random.chance(4) ? [this.short] : []);
      } catch (error) {
        // The other end is closed with the session, or was never sent and is closed with this world.
        if (!['EPIPE', 'ECONNRESET'].includes((error as { errno?: string }).errno ?? '')) throw error;
      }
    }
  }

  /** Throws when something was written beside a region. */
  checkGuards(): void {
    for (const [i] of this.regions.entries()) {
      for (const guard of this.#guards(i)) {
        assert.ok(
          guard.every((byte) => byte === CANARY),
          `something was written beside region ${i}`,
        );
      }
    }
  }

  /** Closes what is the front-end's. */
  [Symbol.dispose](): void {
    for (const mapping of this.#mappings) mapping.unmap();
    const { platform, regions, events, sockets, odd, short, scratch, loot } = this;
    const fds = [
      ...regions.map(({ fd }) => fd),
      ...events,
      ...sockets,
      ...odd,
      short,
      scratch,
      ...loot.splice(0),
    ];
    for (const fd of fds) platform.closeFd(fd);
    for (const channel of this.#channels) channel.close();
  }

  /** Throws when anything is open or mapped beyond what was there before this world. Called when it is disposed of. */
  checkNothingLeft(): void {
    assert.is(this.#kind.census(), this.#before, 'open fds and mappings');
  }

  #file(region: number): Uint8Array {
    return this.platform.windows.u8[this.#mappings[region]!.firstWindow]!;
  }

  #guards(region: number): Uint8Array[] {
    const file = this.#file(region);
    return [file.subarray(0, GUARD), file.subarray(GUARD + this.regions[region]!.size)];
  }
}

/** What a world stands on. */
export interface Backdrop {
  platform(random: Random): Platform;
  odd(platform: Platform): number[];
  truncate(platform: Platform, fd: number, size: number): void;
  /** What is open and mapped, as text to compare. */
  census(): string;
}

/** A fresh platform in memory each time. */
export class FakeBackdrop implements Backdrop {
  #platform = createFakePlatform();

  platform(random: Random): Platform {
    this.#platform = createFakePlatform({ receiveLimit: random.chance(6) ? 1 + random.below(20) : Infinity });
    return this.#platform;
  }

  odd(): number[] {
    return [this.#platform.createFd('file'), this.#platform.createFd('pipe')];
  }

  truncate(_platform: Platform, fd: number, size: number): void {
    this.#platform.truncateSharedMemory(fd, size);
  }

  census(): string {
    const kinds = this.#platform.openFds.map(({ kind }) => kind);
    return `fds: ${kinds.join(' ')}; mappings: ${this.#platform.mappingCount}`;
  }
}

/** The one real platform of the process. */
export class LinuxBackdrop implements Backdrop {
  readonly #platform = createLinuxPlatform();

  platform(): Platform {
    return this.#platform;
  }

  odd(): number[] {
    return [openSync('/dev/null', 'r'), openSync('/proc/self/maps', 'r')];
  }

  truncate(_platform: Platform, fd: number, size: number): void {
    ftruncateSync(fd, size);
  }

  census(): string {
    return `${readdirSync('/proc/self/fd').length} fds, ${this.mappings} mappings`;
  }

  /** Mappings of shared memory. */
  get mappings(): number {
    const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
    return lines.filter((line) => line.includes('memfd:')).length;
  }
}
