import { BlkFeature } from '../../../generated/virtio/devices/blk/features.js';
import { BLK_SECTOR_SIZE, BlkConfig } from '../../../generated/virtio/devices/blk/layouts.js';
import type { DeviceConfiguration } from '../../device/index.js';
import { encodeToBytes } from '../../wire/index.js';
import type { BlockBacking } from './backing.js';
import { capacityOf, type CheckedOptions, RANGE_SECTORS_MAX } from './options.js';

/** The space ends with the last field of WRITE_ZEROES; what follows belongs to features that are not offered. */
const CONFIGURATION_SIZE = 60;
/** Offset of `writeback`, the one field that the driver writes. */
const WRITEBACK = 32;

/** The configuration space, and the cache mode that the driver sets in it. */
export class BlockConfiguration implements DeviceConfiguration {
  readonly size = CONFIGURATION_SIZE;
  readonly #backing: BlockBacking;
  readonly #options: CheckedOptions;
  readonly #offered: bigint;
  #capacity: number;
  /** What the driver accepted; null before it did. */
  #negotiated: bigint | null = null;
  /** What the driver wrote; null while the mode follows from the features. */
  #writeback: 0 | 1 | null = null;
  #writeThrough = false;

  constructor(backing: BlockBacking, options: CheckedOptions, offered: bigint) {
    this.#backing = backing;
    this.#options = options;
    this.#offered = offered;
    this.#capacity = capacityOf(backing);
  }

  /** Sectors of 512 bytes. */
  get capacity(): number {
    return this.#capacity;
  }

  /** Whether writes have to be on the medium before they are completed (virtio 1.4, 5.2.6.2). */
  get writeThrough(): boolean {
    return this.#writeThrough;
  }

  /** Takes the backing's size again; true when it changed. */
  measure(): boolean {
    const before = this.#capacity;
    this.#capacity = capacityOf(this.#backing);
    return this.#capacity !== before;
  }

  negotiated(features: bigint): void {
    // The same features again: a front-end that stopped and goes on, not another driver.
    if (this.#negotiated !== null && this.#negotiated !== features) this.#writeback = null;
    this.#negotiated = features;
    this.#decide();
  }

  reset(): void {
    this.#negotiated = null;
    this.#writeback = null;
    this.#decide();
  }

  read(): Uint8Array {
    const blocks = this.#backing.blockSize / BLK_SECTOR_SIZE;
    const discards = (this.#offered & BlkFeature.discard) !== 0n;
    const zeroes = (this.#offered & BlkFeature.writeZeroes) !== 0n;
    const bytes = encodeToBytes(BlkConfig, {
      capacity: BigInt(this.#capacity),
      sizeMax: 0,
      segMax: this.#options.segmentsMax,
      geometry: { cylinders: 0, heads: 0, sectors: 0 },
      blkSize: this.#backing.blockSize,
      topology: { physicalBlockExp: 0, alignmentOffset: 0, minIoSize: 1, optIoSize: 0 },
      writeback: (this.#offered & BlkFeature.configWce) !== 0n ? this.#mode() : 0,
      numQueues: this.#options.queueCount,
      maxDiscardSectors: discards ? RANGE_SECTORS_MAX : 0,
      maxDiscardSeg: discards ? this.#options.rangesMax : 0,
      discardSectorAlignment: discards ? blocks : 0,
      maxWriteZeroesSectors: zeroes ? RANGE_SECTORS_MAX : 0,
      maxWriteZeroesSeg: zeroes ? this.#options.rangesMax : 0,
      writeZeroesMayUnmap: zeroes && discards ? 1 : 0,
      maxSecureEraseSectors: 0,
      maxSecureEraseSeg: 0,
      secureEraseSectorAlignment: 0,
      zoned: {
        zoneSectors: 0,
        maxOpenZones: 0,
        maxActiveZones: 0,
        maxAppendSectors: 0,
        writeGranularity: 0,
        model: 0,
      },
    });
    return bytes.subarray(0, CONFIGURATION_SIZE);
  }

  /** Takes `writeback`. Other bytes may be rewritten with what they hold, or with anything when state is restored. */
  write(offset: number, bytes: Uint8Array, migration: boolean): boolean {
    const present = this.read();
    let mode: number | null = null;
    for (let i = 0; i < bytes.byteLength; i++) {
      if (offset + i === WRITEBACK) mode = bytes[i]!;
      else if (bytes[i] !== present[offset + i] && !migration) return false;
    }
    if (mode === null || mode === present[WRITEBACK]) return true;
    if ((this.#offered & BlkFeature.configWce) === 0n || mode > 1) return false;
    this.#writeback = mode === 0 ? 0 : 1;
    this.#decide();
    return true;
  }

  #mode(): 0 | 1 {
    if (this.#writeback !== null) return this.#writeback;
    return this.#negotiated === null || (this.#negotiated & BlkFeature.flush) !== 0n ? 1 : 0;
  }

  #decide(): void {
    const features = this.#negotiated ?? this.#offered;
    this.#writeThrough =
      (features & BlkFeature.configWce) !== 0n ? this.#mode() === 0 : (features & BlkFeature.flush) === 0n;
  }
}
