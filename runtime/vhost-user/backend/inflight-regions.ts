import { VhostError } from '../../errors.js';
import type { Mapping, Platform } from '../../platform/platform.js';
import type { VirtqueueInflight } from '../../virtqueue/device-virtqueue.js';
import { inflightError, inflightStride } from '../../virtqueue/inflight/region.js';
import { VIRTQUEUE_SIZE_MAX } from '../../virtqueue/start.js';
import { WINDOW_STRIDE } from '../../platform/platform.js';
import type { InflightDescription } from '../../../generated/vhost-user/payloads.js';
import { INFLIGHT_REGION_ALIGN } from '../../../generated/vhost-user/inflight.js';
import { OwnedFd } from '../fd-bundle.js';

/** What the rings are, as far as the region's layout depends on it. */
export interface InflightShape {
  readonly format: 'split' | 'packed';
  /** Queues that the device has. */
  readonly queues: number;
}

interface Region {
  readonly mapping: Mapping;
  readonly description: InflightDescription;
  readonly format: 'split' | 'packed';
}

/**
 * The session's in-flight memory (INFLIGHT_SHMFD): one mapping, cut into a sub-region for each queue. It comes with
 * SET_INFLIGHT_FD; one that GET_INFLIGHT_FD has made is used at once too, since not every front-end hands it back before
 * the first rings start. It stays when rings stop and goes with the session.
 */
export class InflightRegions implements Disposable {
  readonly #platform: Platform;
  readonly #limit: number;
  #region: Region | null = null;

  /** `limit`: bytes of the largest region. */
  constructor(platform: Platform, limit: number) {
    this.#platform = platform;
    this.#limit = limit;
  }

  /** GET_INFLIGHT_FD. Gives the fd that goes with the reply. Throws VhostError or PlatformError. */
  create(
    { numQueues, queueSize }: InflightDescription,
    shape: InflightShape,
  ): { readonly fd: OwnedFd; readonly description: InflightDescription } {
    checkCounts(numQueues, queueSize, shape.queues);
    const mmapSize = this.#sizeOf(numQueues, queueSize, shape.format);
    const fd = new OwnedFd(this.#platform, this.#platform.createSharedMemory('inflight', mmapSize));
    try {
      const description = { mmapSize, mmapOffset: 0n, numQueues, queueSize };
      this.#install(description, fd, shape.format);
      return { fd, description };
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** SET_INFLIGHT_FD. Throws VhostError or PlatformError, and keeps what was there then. */
  set(description: InflightDescription, fd: OwnedFd, shape: InflightShape): void {
    const { mmapSize, mmapOffset, numQueues, queueSize } = description;
    checkCounts(numQueues, queueSize, shape.queues);
    const needed = this.#sizeOf(numQueues, queueSize, shape.format);
    if (mmapSize < needed) {
      throw payload(`at least ${needed} bytes for ${numQueues} queues of ${queueSize}`, `${mmapSize}`);
    }
    if (mmapOffset % BigInt(INFLIGHT_REGION_ALIGN) !== 0n) {
      throw payload(`an offset that is a multiple of ${INFLIGHT_REGION_ALIGN}`, `${mmapOffset}`);
    }
    const kind = this.#platform.fdKind(fd.fd);
    if (kind !== 'memory' && kind !== 'file') {
      throw new VhostError('ERR_VHOST_FDS', `expected shared memory, got a ${kind}`);
    }
    const size = this.#platform.fileSize(fd.fd);
    if (mmapOffset + mmapSize > size) {
      throw payload(
        `${mmapSize} bytes at offset ${mmapOffset} inside of the file`,
        `a file of ${size} bytes`,
      );
    }
    this.#install(description, fd, shape.format);
  }

  /** Where a queue's chains are tracked; null when they are not. Throws ERR_VIRTQ_INFLIGHT for rings of the other format. */
  of(queue: number, format: 'split' | 'packed'): VirtqueueInflight | null {
    if (this.#region === null || queue >= this.#region.description.numQueues) return null;
    const { mapping, description } = this.#region;
    if (this.#region.format !== format) {
      throw inflightError(queue, `it was made for ${this.#region.format} rings, this one is ${format}`);
    }
    const at = queue * inflightStride(format, description.queueSize);
    return {
      window: mapping.firstWindow + Math.floor(at / WINDOW_STRIDE),
      offset: at % WINDOW_STRIDE,
      capacity: description.queueSize,
      mapping,
    };
  }

  /** True once its file was truncated. */
  get damaged(): boolean {
    return this.#region?.mapping.damaged === true;
  }

  [Symbol.dispose](): void {
    this.#region?.mapping.unmap();
    this.#region = null;
  }

  #sizeOf(numQueues: number, queueSize: number, format: 'split' | 'packed'): bigint {
    const size = sizeOf(numQueues, queueSize, format);
    if (size > BigInt(this.#limit)) {
      throw payload(
        `at most ${this.#limit} bytes of in-flight memory`,
        `${numQueues} queues of ${queueSize}, ${size} bytes`,
      );
    }
    return size;
  }

  /** Only as much is mapped as the queues take: the rest of the file is not ours. */
  #install(description: InflightDescription, fd: OwnedFd, format: 'split' | 'packed'): void {
    const { numQueues, queueSize, mmapOffset } = description;
    const mapping = this.#platform.map(fd.fd, mmapOffset, sizeOf(numQueues, queueSize, format));
    this.#region?.mapping.unmap();
    this.#region = { mapping, description, format };
  }
}

function sizeOf(numQueues: number, queueSize: number, format: 'split' | 'packed'): bigint {
  return BigInt(numQueues) * BigInt(inflightStride(format, queueSize));
}

function checkCounts(numQueues: number, queueSize: number, queues: number): void {
  if (numQueues < 1 || numQueues > queues) throw payload(`1 to ${queues} queues`, `${numQueues}`);
  if (queueSize < 1 || queueSize > VIRTQUEUE_SIZE_MAX) {
    throw payload(`a queue size of 1 to ${VIRTQUEUE_SIZE_MAX}`, `${queueSize}`);
  }
}

function payload(expected: string, got: string): VhostError {
  return new VhostError('ERR_VHOST_PAYLOAD', `expected ${expected}, got ${got}`);
}
