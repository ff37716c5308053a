import { VhostError } from '../../errors.js';
import { DIRTY_PAGE } from '../../memory/dirty-log.js';
import type { SharedMemory } from '../../memory/shared-memory.js';
import type { Mapping } from '../../platform/platform.js';
import { VringAddressFlag } from '../../../generated/vhost-user/payloads.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { bounded, vringAddress } from './announce.js';
import type { Frontend } from './frontend.js';

/** Pages of the log's own memory. */
const LOG_ALIGNMENT = 4096;

/**
 * A front-end's dirty log: the back-end marks every page of guest memory that it writes, from `start` to `stop`. It covers the
 * memory as it is when the log is made; make and `share` another after memory was added. A back-end that is replaced has to be
 * told again.
 */
export class FrontendDirtyLog implements Disposable {
  readonly #frontend: Frontend;
  readonly #size: number;
  readonly #fd: number;
  readonly #mapping: Mapping;

  constructor(frontend: Frontend) {
    const { platform, memory } = frontend;
    this.#frontend = frontend;
    this.#size = Math.ceil(highestAddress(memory) / DIRTY_PAGE / 8 / LOG_ALIGNMENT) * LOG_ALIGNMENT;
    this.#fd = platform.createSharedMemory('dirty-log', BigInt(this.#size));
    try {
      this.#mapping = platform.map(this.#fd, 0n, BigInt(this.#size));
    } catch (error) {
      platform.closeFd(this.#fd);
      throw error;
    }
  }

  /**
   * SET_LOG_BASE, rings running or not; instead of a log that was shared before. Back-ends answer with nothing or with a u64:
   * 0, or the size that they were sent (libvhost-user leaves the request in its reply). Rejects with VhostError,
   * ERR_VHOST_REFUSED when the u64 is another one.
   */
  async share(signal?: AbortSignal): Promise<void> {
    const size = BigInt(this.#size);
    const answer = await this.#frontend.request(
      'setLogBase',
      { size, offset: 0n },
      { ...bounded(signal), fds: [this.#fd] },
    );
    if (answer === undefined || answer === 0n || answer === size) return;
    throw new VhostError('ERR_VHOST_REFUSED', `the back-end answered ${answer}`, {
      request: 'VHOST_USER_SET_LOG_BASE',
    });
  }

  /** Shares the log and turns logging on, for the rings as well. */
  async start(signal?: AbortSignal): Promise<void> {
    await this.share(signal);
    await this.#setFeatures(this.#frontend.negotiated.features | VirtioFeature.vhostLogAll, signal);
    await this.#setAddresses(true, signal);
  }

  async stop(signal?: AbortSignal): Promise<void> {
    await this.#setFeatures(this.#frontend.negotiated.features, signal);
    await this.#setAddresses(false, signal);
  }

  /** Guest addresses of the pages that were marked since the last time, which begin anew. */
  collect(): number[] {
    const log = this.#frontend.platform.windows.u8[this.#mapping.firstWindow]!;
    const pages: number[] = [];
    for (let at = 0; at < this.#size; at++) {
      if (log[at] === 0) continue;
      const bits = Atomics.exchange(log, at, 0);
      for (let bit = 0; bit < 8; bit++)
        if ((bits & (1 << bit)) !== 0) pages.push((at * 8 + bit) * DIRTY_PAGE);
    }
    return pages;
  }

  [Symbol.dispose](): void {
    this.#mapping.unmap();
    this.#frontend.platform.closeFd(this.#fd);
  }

  async #setFeatures(features: bigint, signal: AbortSignal | undefined): Promise<void> {
    const { offered } = this.#frontend.negotiated;
    if ((offered & VirtioFeature.vhostLogAll) === 0n) {
      throw new VhostError('ERR_VHOST_GATE', 'the back-end does not offer LOG_ALL');
    }
    await this.#frontend.request('setFeatures', features, bounded(signal));
  }

  async #setAddresses(logged: boolean, signal: AbortSignal | undefined): Promise<void> {
    const { memory, iommu, negotiated } = this.#frontend;
    for (const vring of this.#frontend.startedVrings) {
      const address = vringAddress(memory, iommu, vring, negotiated);
      const flags = logged ? VringAddressFlag.log : 0;
      // The used ring's, or that of the device's event suppression, as QEMU has it.
      const log = logged ? memory.guestAddress(vring.setup!.areas.device) : 0n;
      await this.#frontend.request('setVringAddr', { ...address, flags, log }, bounded(signal));
    }
  }
}

function highestAddress(memory: SharedMemory): number {
  const ends = memory.regions.map(
    ({ region: { description } }) => description.guestAddress + description.size,
  );
  return Number(ends.reduce((most, end) => (end > most ? end : most), 0n));
}
