import { BlockClient } from '../../runtime/drivers/blk/block-client.js';
import type { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import { Random } from '../support/random.js';
import { type Expectation, SECTOR, SectorModel, stamp } from './sector-model.js';

/** Queues of the disk: two for single requests, one for batches. */
export const LOAD_QUEUES = 3;
/** Small, so that writes meet each other all the time. */
export const DISK_SECTORS = 1024;

/** Single requests under way on each of their queues. */
const WORKERS = 12;
const LONGEST_REQUEST = 16;
const BATCH_SECTORS = 8;
const BATCH_REQUESTS = 64;
const BATCH_DEPTH = 16;

/** A load that writes, reads, zeroes and flushes at random and checks everything against the model, until it is stopped. */
export class Load {
  readonly model: SectorModel;
  /** Requests that were issued, and that came back; nothing is issued while `settle` waits. */
  issued = 0;
  completed = 0;
  readonly #random: Random;
  readonly #indirect: boolean;
  readonly #running: Promise<void>[];
  /** Loops that have not ended their turn. A batch is one: between two of its requests nothing may be under way. */
  #busy = 0;
  #stopped = false;
  #settling = false;
  #resume: (() => void)[] = [];
  #idle: (() => void)[] = [];
  #fail!: (error: unknown) => void;
  /** Rejects at the first thing that is wrong, and never resolves. */
  readonly failed = new Promise<never>((_, reject) => (this.#fail = reject));

  /** `model`: of a disk that other drivers have used. */
  constructor(
    driver: Pick<VirtioDriver, 'queues'>,
    seed: number,
    indirect: boolean,
    model: SectorModel = new SectorModel(DISK_SECTORS),
  ) {
    this.model = model;
    this.#random = new Random(seed);
    this.#indirect = indirect;
    this.failed.catch(() => undefined);
    const loops: (() => Promise<void>)[] = [];
    for (const index of [0, 1]) {
      const disk = new BlockClient(driver.queues[index]!);
      for (let i = 0; i < WORKERS; i++) loops.push(() => this.#single(disk));
    }
    loops.push(() => this.#batch(new BlockClient(driver.queues[2]!)));
    this.#running = loops.map((loop) => this.#repeat(loop));
  }

  /** Requests under way. */
  get underWay(): number {
    return this.issued - this.completed;
  }

  /** Resolves when nothing is under way; nothing is issued until `resume`. */
  async settle(): Promise<void> {
    this.#settling = true;
    if (this.#busy > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  resume(): void {
    this.#settling = false;
    for (const resume of this.#resume.splice(0)) resume();
  }

  /** Ends it when nothing is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.resume();
    await Promise.all(this.#running);
  }

  async #repeat(loop: () => Promise<void>): Promise<void> {
    try {
      while (!this.#stopped) {
        if (this.#settling) await new Promise<void>((resolve) => this.#resume.push(resolve));
        else await this.#turn(loop);
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  async #turn(loop: () => Promise<void>): Promise<void> {
    this.#busy++;
    await loop();
    if (--this.#busy === 0) for (const idle of this.#idle.splice(0)) idle();
  }

  #begun(): void {
    this.issued++;
  }

  #ended(): void {
    this.completed++;
  }

  async #single(disk: BlockClient): Promise<void> {
    const random = this.#random;
    const options = { indirect: this.#indirect };
    const count = 1 + random.below(LONGEST_REQUEST);
    const sector = random.below(DISK_SECTORS - count);
    this.#begun();
    const kind = random.below(16);
    if (kind === 0) await disk.flush(options);
    else if (kind === 1) {
      const generation = this.model.issue(sector, count, true);
      await disk.writeZeroes(sector * SECTOR, count * SECTOR, { ...options, unmap: random.chance(2) });
      this.model.acknowledge(sector, count, generation);
    } else if (kind < 6) {
      const expectation = this.model.expect(sector, count);
      const bytes = await disk.read(sector * SECTOR, count * SECTOR, options);
      this.#check(expectation, new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4), 0);
    } else {
      const words = new Uint32Array((count * SECTOR) / 4);
      const generation = this.model.issue(sector, count);
      stamp(words, 0, sector, count, generation);
      await disk.write(sector * SECTOR, new Uint8Array(words.buffer), options);
      this.model.acknowledge(sector, count, generation);
    }
    this.#ended();
  }

  async #batch(disk: BlockClient): Promise<void> {
    const random = this.#random;
    const positions = Float64Array.from(
      { length: BATCH_REQUESTS },
      () => random.below(DISK_SECTORS - BATCH_SECTORS) * SECTOR,
    );
    const common = {
      positions,
      blockLength: BATCH_SECTORS * SECTOR,
      depth: BATCH_DEPTH,
      indirect: this.#indirect,
    };
    if (random.chance(2)) {
      // By where the block lies in guest memory: there is one request to a place.
      const expectations = new Map<number, Expectation>();
      await disk.run({
        ...common,
        operation: 'read',
        fill: (words, first, position) => {
          this.#begun();
          expectations.set(first, this.model.expect(position / SECTOR, BATCH_SECTORS));
          words.fill(0xffffffff, first, first + (BATCH_SECTORS * SECTOR) / 4);
        },
        check: (words, first) => {
          this.#check(expectations.get(first)!, words, first);
          this.#ended();
        },
      });
    } else {
      await disk.run({
        ...common,
        operation: 'write',
        fill: (words, first, position) => {
          this.#begun();
          const sector = position / SECTOR;
          stamp(words, first, sector, BATCH_SECTORS, this.model.issue(sector, BATCH_SECTORS));
        },
        check: (words, first, position) => {
          this.model.acknowledge(position / SECTOR, BATCH_SECTORS, words[first]!);
          this.#ended();
        },
      });
    }
  }

  #check(expectation: Expectation, words: Uint32Array, first: number): void {
    const wrong = this.model.misread(expectation, words, first);
    if (wrong !== null) throw new Error(wrong);
  }
}
