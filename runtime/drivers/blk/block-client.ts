import { DeviceError } from '../../errors.js';
import { decodeExactly, encodeToBytes } from '../../wire/index.js';
import {
  BLK_ID_SIZE,
  BLK_SECTOR_SIZE,
  BlkConfig,
  BlkDiscardWriteZeroes,
  BlkRequestHeader,
  BlkRequestType,
  BlkStatus,
  BlkWriteZeroesFlag,
} from '../../../generated/virtio/devices/blk/layouts.js';
import { type BlockBatch, type BlockBatchResult, BlockPipeline } from './block-pipeline.js';
import { lengthError, statusError } from './block-status.js';
import type { DriverQueue } from '../driver-queue.js';

/** Fields up to and including write zeroes: what every back-end has, older ones nothing more. */
const CONFIG_BYTES = 60;

/** What has a front-end that reads configuration space: a `VirtioDriver`. */
export interface ConfiguredDevice {
  readonly frontend: {
    readConfig(length: number, offset?: number, signal?: AbortSignal): Promise<Uint8Array>;
  };
}

export interface BlockOptions {
  /** Use an indirect table. */
  readonly indirect?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * A block driver on one queue. Positions and lengths are in bytes and multiples of 512. A request that the device answers
 * with another status than OK rejects with DeviceError (ERR_DEVICE_REQUEST), `UNSUPP` and `IOERR` named in the message.
 *
 * @example
 * ```ts
 * const disk = new BlockClient(driver.queues[0]);
 * await disk.write(0, new Uint8Array(4096).fill(7));
 * await disk.flush();
 * const bytes = await disk.read(0, 4096);
 * ```
 */
export class BlockClient {
  readonly queue: DriverQueue;

  constructor(queue: DriverQueue) {
    this.queue = queue;
  }

  /** The device's configuration space; fields of features that are not negotiated are 0. */
  static async configuration(driver: ConfiguredDevice, signal?: AbortSignal): Promise<BlkConfig> {
    const bytes = new Uint8Array(BlkConfig.maxSize);
    bytes.set(await driver.frontend.readConfig(CONFIG_BYTES, 0, signal));
    return decodeExactly(BlkConfig, bytes);
  }

  async read(position: number, length: number, options: BlockOptions = {}): Promise<Uint8Array> {
    const sector = sectorOf(position, length);
    const [data] = await this.#request('read', BlkRequestType.in, sector, [], [length], options);
    return data!;
  }

  async write(position: number, data: Uint8Array, options: BlockOptions = {}): Promise<void> {
    const sector = sectorOf(position, data.byteLength);
    await this.#request('write', BlkRequestType.out, sector, [data], [], options);
  }

  /** Everything written before is on stable storage when this resolves. */
  async flush(options: BlockOptions = {}): Promise<void> {
    await this.#request('flush', BlkRequestType.flush, 0, [], [], options);
  }

  async discard(position: number, length: number, options: BlockOptions = {}): Promise<void> {
    await this.#range('discard', BlkRequestType.discard, position, length, 0, options);
  }

  /** `unmap`: the device may give the range's storage back. */
  async writeZeroes(
    position: number,
    length: number,
    options: BlockOptions & { unmap?: boolean } = {},
  ): Promise<void> {
    const flags = options.unmap === true ? BlkWriteZeroesFlag.unmap : 0;
    await this.#range('write zeroes', BlkRequestType.writeZeroes, position, length, flags, options);
  }

  /** The device's serial number, up to 20 characters. */
  async getId(options: BlockOptions = {}): Promise<string> {
    const [id] = await this.#request('get id', BlkRequestType.getId, 0, [], [BLK_ID_SIZE], options);
    const end = id!.indexOf(0);
    return new TextDecoder('latin1').decode(end < 0 ? id : id!.subarray(0, end));
  }

  /**
   * Reads or writes many blocks with so many under way at a time, without an object a request. No other request of this
   * queue may be under way. Rejects with the first failure, after what was under way came back.
   */
  async run(batch: BlockBatch): Promise<BlockBatchResult> {
    using pipeline = new BlockPipeline(this.queue, batch);
    return await pipeline.run();
  }

  async #range(
    name: string,
    type: BlkRequestType,
    position: number,
    length: number,
    flags: number,
    options: BlockOptions,
  ): Promise<void> {
    const sector = BigInt(sectorOf(position, length));
    const range = encodeToBytes(BlkDiscardWriteZeroes, {
      sector,
      numSectors: length / BLK_SECTOR_SIZE,
      flags,
    });
    await this.#request(name, type, 0, [range], [], options);
  }

  async #request(
    name: string,
    type: BlkRequestType,
    sector: number,
    out: readonly Uint8Array[],
    into: readonly number[],
    options: BlockOptions,
  ): Promise<readonly Uint8Array[]> {
    const header = encodeToBytes(BlkRequestHeader, { type, sector: BigInt(sector) });
    const result = await this.queue.transfer([header, ...out], [...into, 1], options);
    // The status is the last writable byte, wherever the device stopped writing data.
    const status = result.buffers.at(-1)![0]!;
    if (status !== BlkStatus.ok) throw statusError(`${name} at sector ${sector}`, status);
    const expected = into.reduce((sum, length) => sum + length, 1);
    if (result.written !== expected)
      throw lengthError(`${name} at sector ${sector}`, result.written, expected);
    return result.buffers;
  }
}

function sectorOf(position: number, length: number): number {
  if (position % BLK_SECTOR_SIZE !== 0 || length % BLK_SECTOR_SIZE !== 0 || position < 0 || length <= 0) {
    throw new DeviceError(
      'ERR_DEVICE_REQUEST',
      `position ${position} and length ${length} must be multiples of ${BLK_SECTOR_SIZE}, the length not 0`,
    );
  }
  return position / BLK_SECTOR_SIZE;
}
