import { VhostError } from '../../errors.js';
import { type ShmemConfig, type ShmemMap, ShmemMapFlag } from '../../../generated/vhost-user/payloads.js';
import type { OwnedFd } from '../fd-bundle.js';
import { checkPages } from './pages.js';

/** A range of a file that the back-end shows in one of the device's shared memory regions. */
export interface ShmemMapping {
  /** Id of the region. */
  readonly id: number;
  /** Where it lies in the region, and how many bytes it has; whole pages. */
  readonly offset: bigint;
  readonly length: bigint;
  /** Open until it is unmapped; the table's. */
  readonly fd: number;
  readonly fdOffset: bigint;
  readonly writable: boolean;
}

/** Who really maps. Nothing is mapped by the front-end itself. */
export interface ShmemHandler {
  /** A range that is free is to show a file. The back-end is refused when this throws. */
  mapped?(mapping: ShmemMapping): void;
  /** It is to show nothing again: the back-end said so, the device was reset, or the back-end is gone. */
  unmapped?(mapping: ShmemMapping): void;
}

/** Mappings at a time; each holds an fd. */
export const MAX_SHMEM_MAPPINGS = 512;

interface Entry {
  readonly mapping: ShmemMapping;
  readonly fd: OwnedFd;
}

/**
 * What a back-end has mapped into the device's shared memory regions (BACKEND_SHMEM_MAP and _UNMAP). Whatever does not fit is
 * refused, and everything is as it was before.
 */
export class ShmemTable {
  readonly #handler: ShmemHandler;
  /** Sizes in bytes by id. */
  #sizes: ReadonlyMap<number, bigint> = new Map();
  #entries: Entry[] = [];

  constructor(handler: ShmemHandler) {
    this.#handler = handler;
  }

  /** Sizes of the regions by their ids, as the back-end has declared them. */
  get regions(): ReadonlyMap<number, bigint> {
    return this.#sizes;
  }

  get mappings(): readonly ShmemMapping[] {
    return this.#entries.map((entry) => entry.mapping);
  }

  /** The reply to GET_SHMEM_CONFIG. Throws ERR_VHOST_REPLY when it contradicts itself. */
  configure({ count, sizes }: ShmemConfig): void {
    const regions = new Map<number, bigint>();
    for (const [id, size] of sizes.entries()) {
      if (size === 0n) continue;
      try {
        checkPages(`shared memory region ${id}`, 0n, size);
      } catch (cause) {
        throw wrongConfig((cause as Error).message, cause);
      }
      regions.set(id, size);
    }
    if (regions.size !== count) throw wrongConfig(`it counts ${count} regions and shows ${regions.size}`);
    this.#sizes = regions;
  }

  /** Takes the fd over, refused or not. */
  map({ shmid: id, shmOffset: offset, fdOffset, length, flags }: ShmemMap, fd: OwnedFd): void {
    try {
      this.#checkRange(id, offset, length);
      checkPages('the range of the file', fdOffset, length);
      const readWrite = BigInt(ShmemMapFlag.readWrite);
      if ((flags & ~readWrite) !== 0n) throw wrong(`unknown flags 0x${flags.toString(16)}`);
      const other = this.#entries.find(
        ({ mapping }) =>
          mapping.id === id && offset < mapping.offset + mapping.length && mapping.offset < offset + length,
      );
      if (other !== undefined) {
        const { mapping } = other;
        throw wrong(`region ${id} shows something at 0x${mapping.offset.toString(16)} already`);
      }
      if (this.#entries.length >= MAX_SHMEM_MAPPINGS) {
        throw new VhostError('ERR_VHOST_STATE', `there are ${this.#entries.length} mappings, no more may be`);
      }
      const mapping = { id, offset, length, fd: fd.fd, fdOffset, writable: flags === readWrite };
      this.#handler.mapped?.(mapping);
      this.#entries.push({ mapping, fd });
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** Unmaps one whole mapping. Offset and flags of the file do not matter. */
  unmap({ shmid: id, shmOffset: offset, length }: ShmemMap): void {
    const at = this.#entries.findIndex(
      ({ mapping }) => mapping.id === id && mapping.offset === offset && mapping.length === length,
    );
    if (at < 0) {
      throw wrong(`no mapping is ${length} bytes at 0x${offset.toString(16)} of region ${id}`);
    }
    this.#drop(this.#entries.splice(at, 1));
  }

  /** The device was reset, or the back-end is gone. */
  clear(): void {
    this.#drop(this.#entries.splice(0));
  }

  #checkRange(id: number, offset: bigint, length: bigint): void {
    const size = this.#sizes.get(id);
    if (size === undefined) throw wrong(`there is no shared memory region ${id}`);
    checkPages('the range of the region', offset, length);
    if (offset + length <= size) return;
    throw wrong(`${length} bytes at 0x${offset.toString(16)} do not lie in region ${id} of ${size} bytes`);
  }

  #drop(entries: readonly Entry[]): void {
    for (const { mapping, fd } of entries) {
      try {
        this.#handler.unmapped?.(mapping);
      } finally {
        fd.close();
      }
    }
  }
}

function wrong(message: string): VhostError {
  return new VhostError('ERR_VHOST_PAYLOAD', message);
}

function wrongConfig(message: string, cause?: unknown): VhostError {
  return new VhostError('ERR_VHOST_REPLY', message, { request: 'VHOST_USER_GET_SHMEM_CONFIG', cause });
}
