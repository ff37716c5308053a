import { BlockClient } from '../../runtime/drivers/blk/block-client.js';
import { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import type { FrontendIommu } from '../../runtime/vhost-user/frontend/iommu.js';
import type { Platform } from '../../runtime/platform/platform.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { encodeToBytes } from '../../runtime/wire/index.js';
import { BlkFeature } from '../../generated/virtio/devices/blk/features.js';
import { BlkRequestHeader, BlkRequestType, BlkStatus } from '../../generated/virtio/devices/blk/layouts.js';
import { Random } from '../support/random.js';
import type { Combination } from './combinations.js';

/** Two queues and this size is what the disk under test has. */
export const DISK_BYTES = 1 << 20;
export const DISK_QUEUES = 2;
const SECTOR = 512;
const STRIPES = 16;
const STRIPE = DISK_BYTES / STRIPES;
const MEMORY_BYTES = 8 << 20;

export interface VerifyOptions {
  readonly platform: Platform;
  readonly path: string;
  readonly combination: Combination;
  readonly seed: number;
  /** Requests of the random part. */
  readonly requests: number;
  /** Put the disk behind this. */
  readonly iommu?: FrontendIommu;
  readonly signal?: AbortSignal;
}

/**
 * One seeded run over a disk that other runs may have used: whole disk written and read in batches, then single requests of
 * random kind, place, length and shape from several workers at once, with memory plugged and rings stopped and resumed in
 * between, and everything read back and compared with a model in the end. Throws at the first difference.
 */
export async function verifyRun(options: VerifyOptions): Promise<void> {
  const { platform, path, combination, seed, requests, signal } = options;
  const random = new Random(seed);
  const { format, eventIdx, indirect, inOrder, regions, notified } = combination;
  // A table holds eight regions at most, and one is plugged on the way.
  const memoryTable = regions === 1 && random.chance(2);
  using driver = await VirtioDriver.start({
    platform,
    path,
    format,
    eventIdx,
    indirect,
    inOrder,
    inbandNotifications: notified === 'in-band',
    gpaAddresses: random.chance(2),
    withoutKick: notified === 'polled',
    withoutCall: notified === 'polled',
    queues: DISK_QUEUES,
    queueSize: random.pick(format === 'split' ? [16, 64, 256] : [16, 37, 256]),
    memory: { size: MEMORY_BYTES, regions, filePerRegion: random.chance(2) },
    order: random.pick(['qemu', 'virtio-user'] as const),
    memoryTable,
    ...(options.iommu === undefined ? {} : { iommu: options.iommu }),
    ...(signal === undefined ? {} : { signal }),
  });
  checkNegotiated(driver, combination);
  const model = new Uint8Array(DISK_BYTES);
  await fillAll(driver, model, random, indirect);
  const run = new RandomRun(driver, model, random, indirect);
  for (let part = 0; part < 3; part++) {
    await run.requests(Math.ceil(requests / 3));
    if (part === 0) await driver.addMemory(1 << 20, signal);
    else if (part === 1) {
      await driver.stopRings(signal);
      await driver.resumeRings(signal);
    }
  }
  await compareAll(driver, model, random, indirect);
}

function checkNegotiated(driver: VirtioDriver, combination: Combination): void {
  const { ringPacked, eventIdx, indirectDesc, inOrder } = VirtioFeature;
  const expected =
    (combination.format === 'packed' ? ringPacked : 0n) |
    (combination.eventIdx ? eventIdx : 0n) |
    (combination.indirect ? indirectDesc : 0n) |
    (combination.inOrder ? inOrder : 0n);
  const got = driver.features & (ringPacked | eventIdx | indirectDesc | inOrder);
  const { inbandNotifications } = ProtocolFeature;
  const inband = (driver.frontend.negotiated.protocol & inbandNotifications) !== 0n;
  if (inband !== (combination.notified === 'in-band')) throw new Error(`in-band notifications: ${inband}`);
  if (got !== expected) throw new Error(`negotiated 0x${got.toString(16)}, not 0x${expected.toString(16)}`);
}

/** Writes the whole disk through one queue. */
async function fillAll(
  driver: VirtioDriver,
  model: Uint8Array,
  random: Random,
  indirect: boolean,
): Promise<void> {
  const blockLength = random.pick([4096, 8192]);
  const salt = random.below(0x7fff_ffff);
  const word = (position: number, i: number) => (Math.imul(position + i, 0x9e3779b1) ^ salt) >>> 0;
  const expected = new Uint32Array(model.buffer);
  await new BlockClient(random.pick(driver.queues)).run({
    operation: 'write',
    positions: Float64Array.from({ length: DISK_BYTES / blockLength }, (_, i) => i * blockLength),
    blockLength,
    depth: 1 + random.below(64),
    indirect,
    fill: (words, first, position) => {
      for (let i = 0; i < blockLength / 4; i++) {
        words[first + i] = expected[position / 4 + i] = word(position, i);
      }
    },
  });
}

/** Reads the whole disk through the other one, or the same. */
async function compareAll(
  driver: VirtioDriver,
  model: Uint8Array,
  random: Random,
  indirect: boolean,
): Promise<void> {
  const expected = new Uint32Array(model.buffer);
  await new BlockClient(random.pick(driver.queues)).run({
    operation: 'read',
    positions: Float64Array.from({ length: DISK_BYTES / 4096 }, (_, i) => i * 4096),
    blockLength: 4096,
    depth: 1 + random.below(64),
    indirect,
    check: (words, first, position) => {
      for (let i = 0; i < 1024; i++) {
        if (words[first + i] === expected[position / 4 + i]) continue;
        throw new Error(`byte ${position + i * 4} is ${words[first + i]}, not ${expected[position / 4 + i]}`);
      }
    },
  });
}

/** Workers at once, each with a stripe of the disk of its own at a time, so that the model needs no order between them. */
class RandomRun {
  readonly #driver: VirtioDriver;
  readonly #model: Uint8Array;
  readonly #random: Random;
  readonly #indirect: boolean;
  readonly #stripes = Array.from({ length: STRIPES }, (_, i) => i);

  constructor(driver: VirtioDriver, model: Uint8Array, random: Random, indirect: boolean) {
    this.#driver = driver;
    this.#model = model;
    this.#random = random;
    this.#indirect = indirect;
  }

  async requests(count: number): Promise<void> {
    let left = count;
    const worker = async (): Promise<void> => {
      while (left-- > 0) {
        const stripe = this.#stripes.splice(this.#random.below(this.#stripes.length), 1)[0]!;
        await this.#request(stripe * STRIPE);
        this.#stripes.push(stripe);
      }
    };
    await Promise.all(Array.from({ length: 1 + this.#random.below(8) }, worker));
  }

  async #request(stripe: number): Promise<void> {
    const random = this.#random;
    const sectors = 1 + random.below(24);
    const position = stripe + random.below(STRIPE / SECTOR - sectors) * SECTOR;
    const length = sectors * SECTOR;
    const disk = new BlockClient(random.pick(this.#driver.queues));
    const here = this.#model.subarray(position, position + length);
    switch (random.below(8)) {
      case 0:
        return disk.flush();
      case 1:
        here.fill(0);
        return disk.writeZeroes(position, length, { unmap: random.chance(2) });
      case 2:
        // What a discard leaves is the device's business; what is written over it is not.
        if ((this.#driver.features & BlkFeature.discard) !== 0n) await disk.discard(position, length);
        here.fill(0);
        return disk.writeZeroes(position, length);
      case 3:
      case 4:
        return this.#compare(position, here, await disk.read(position, length));
      case 5:
        return this.#compare(position, here, await this.#shaped(position, length, null));
      default: {
        const data = random.bytes(length);
        here.set(data);
        await this.#shaped(position, length, data);
      }
    }
  }

  /** A read or write whose header, data and status lie in buffers cut anywhere. */
  async #shaped(position: number, length: number, data: Uint8Array | null): Promise<Uint8Array> {
    const random = this.#random;
    const type = data === null ? BlkRequestType.in : BlkRequestType.out;
    const header = encodeToBytes(BlkRequestHeader, { type, sector: BigInt(position / SECTOR) });
    const readable = this.#cut(data === null ? header : Buffer.concat([header, data]));
    const writable = this.#cut(new Uint8Array(data === null ? length + 1 : 1)).map(
      (piece) => piece.byteLength,
    );
    const indirect = this.#indirect && !random.chance(3);
    const { buffers, written } = await random
      .pick(this.#driver.queues)
      .transfer(readable, writable, { indirect });
    const whole = Buffer.concat(buffers);
    if (whole.at(-1) !== BlkStatus.ok) throw new Error(`status ${whole.at(-1)} at byte ${position}`);
    if (written !== whole.byteLength) throw new Error(`${written} bytes written, not ${whole.byteLength}`);
    return whole.subarray(0, -1);
  }

  /** Into at most six pieces, so that the smallest ring holds several chains. */
  #cut(bytes: Uint8Array): Uint8Array[] {
    const pieces: Uint8Array[] = [];
    let start = 0;
    while (start < bytes.byteLength && pieces.length < 5) {
      const end = start + 1 + this.#random.below(bytes.byteLength - start);
      pieces.push(bytes.subarray(start, end));
      start = end;
    }
    if (start < bytes.byteLength) pieces.push(bytes.subarray(start));
    return pieces;
  }

  #compare(position: number, expected: Uint8Array, got: Uint8Array): void {
    const wrong = expected.findIndex((byte, i) => byte !== got[i]);
    if (wrong < 0 && got.byteLength === expected.byteLength) return;
    throw new Error(
      `read ${got.byteLength} of ${expected.byteLength} bytes; byte ${position + wrong} differs`,
    );
  }
}
