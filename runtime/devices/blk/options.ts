import { BlkFeature } from '../../../generated/virtio/devices/blk/features.js';
import { BLK_ID_SIZE, BLK_SECTOR_SIZE } from '../../../generated/virtio/devices/blk/layouts.js';
import { DeviceError } from '../../errors.js';
import type { BlockBacking } from './backing.js';

export interface BlockDeviceOptions {
  /** Request queues offered, 1 to 256; 1 when absent. */
  readonly queueCount?: number;
  /** Largest queue accepted, 4 to 32768; 1024 when absent. */
  readonly queueSize?: number;
  /**
   * Data segments that the driver may put into a request. 126 when absent, or what a queue of `queueSize` takes: with header
   * and status a request must not be longer than its queue, and 128 is the usual size of one.
   */
  readonly segmentsMax?: number;
  /** Ranges of one discard or write-zeroes request, 1 to 256; 16 when absent. */
  readonly rangesMax?: number;
  /** What GET_ID answers: up to 20 bytes of UTF-8. */
  readonly serial?: string;
  /** Milliseconds that requests of a killed process wait for its last writes, see `BlockDevice.settled`; 2000 when absent. */
  readonly settleLimit?: number;
}

export interface CheckedOptions {
  readonly queueCount: number;
  readonly queueSize: number;
  readonly segmentsMax: number;
  readonly rangesMax: number;
  /** 20 bytes, zero padded. */
  readonly id: Uint8Array;
  readonly settleLimit: number;
}

/** The largest logical block, in bytes. */
const BLOCK_SIZE_MAX = 1 << 20;

/**
 * Sectors of one discard or write-zeroes range: just under 2 GiB, so that no single operation keeps the medium for long.
 * Whole blocks of any size, since Linux cuts longer ranges at this limit and takes no heed of where the cut lies.
 */
export const RANGE_SECTORS_MAX = (2 ** 31 - BLOCK_SIZE_MAX) / BLK_SECTOR_SIZE;

/** Fills in defaults. Throws DeviceError (ERR_DEVICE_CONFIGURATION) on anything that cannot be. */
export function checkOptions(backing: BlockBacking, options: BlockDeviceOptions): CheckedOptions {
  const queueCount = integer('queueCount', options.queueCount ?? 1, 1, 256);
  const queueSize = integer('queueSize', options.queueSize ?? 1024, 4, 32768);
  const segmentsMax = integer(
    'segmentsMax',
    options.segmentsMax ?? Math.min(126, queueSize - 2),
    1,
    queueSize - 2,
  );
  const rangesMax = integer('rangesMax', options.rangesMax ?? 16, 1, 256);
  const settleLimit = integer('settleLimit', options.settleLimit ?? 2000, 0, 2 ** 31 - 1);
  const serial = new TextEncoder().encode(options.serial ?? 'vhost-user-blk');
  if (serial.byteLength > BLK_ID_SIZE) {
    throw configurationError(
      `serial: "${options.serial}" takes ${serial.byteLength} bytes, ${BLK_ID_SIZE} are allowed`,
    );
  }
  const { blockSize } = backing;
  if (blockSize < BLK_SECTOR_SIZE || blockSize > BLOCK_SIZE_MAX || (blockSize & (blockSize - 1)) !== 0) {
    throw configurationError(`block size: ${blockSize} bytes is not a power of two from 512 to 1 MiB`);
  }
  const id = new Uint8Array(BLK_ID_SIZE);
  id.set(serial);
  return { queueCount, queueSize, segmentsMax, rangesMax, id, settleLimit };
}

/** What the device offers: what it serves in full, and nothing else. */
export function offeredFeatures(backing: BlockBacking, { queueCount }: CheckedOptions): bigint {
  let features = BlkFeature.segMax | BlkFeature.blkSize | BlkFeature.topology | BlkFeature.flush;
  if (queueCount > 1) features |= BlkFeature.mq;
  if (backing.readOnly) return features | BlkFeature.ro;
  features |= BlkFeature.configWce;
  if (backing.canDiscard) features |= BlkFeature.discard;
  if (backing.canWriteZeroes) features |= BlkFeature.writeZeroes;
  return features;
}

/** Sectors of the backing; a tail of less than a sector is left out. */
export function capacityOf(backing: BlockBacking): number {
  const { size } = backing;
  // Positions are numbers: exact up to 2^53 bytes, 8 PiB.
  if (size < 512n || size > 1n << 53n) {
    throw configurationError(`size: ${size} bytes, a disk has from one sector (512 bytes) to 2^53 bytes`);
  }
  return Number(size / BigInt(BLK_SECTOR_SIZE));
}

function integer(name: string, value: number, low: number, high: number): number {
  if (Number.isInteger(value) && value >= low && value <= high) return value;
  throw configurationError(`${name}: ${value} is not a whole number from ${low} to ${high}`);
}

function configurationError(message: string): DeviceError {
  return new DeviceError('ERR_DEVICE_CONFIGURATION', `block device: ${message}`);
}
