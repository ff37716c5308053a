import { VhostError } from '../../errors.js';
import type { Platform } from '../../platform/platform.js';
import type { InflightDescription } from '../../../generated/vhost-user/payloads.js';
import { OwnedFd } from '../fd-bundle.js';
import { bounded } from './announce.js';
import type { RequestChannel } from './request-channel.js';

/**
 * The memory in which back-ends keep record of chains in flight (INFLIGHT_SHMFD). The first back-end makes it, the
 * front-end holds on to it and hands it to every later one. What stands in it is between the back-ends.
 */
export class InflightMemory implements Disposable {
  readonly #platform: Platform;
  #held: { readonly fd: OwnedFd; readonly description: InflightDescription } | null = null;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** Whether a back-end has kept record in it. */
  get held(): boolean {
    return this.#held !== null;
  }

  /** Whether it has room for so many rings of such a size. */
  covers(numQueues: number, queueSize: number): boolean {
    const description = this.#held?.description;
    return (
      description !== undefined && description.numQueues >= numQueues && description.queueSize >= queueSize
    );
  }

  /** Has the back-end make it, in place of what was there. Rejects as requests do, and when what came is of no use. */
  async obtain(
    channel: RequestChannel,
    numQueues: number,
    queueSize: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const fds: number[] = [];
    const wanted = { mmapSize: 0n, mmapOffset: 0n, numQueues, queueSize };
    const description = await channel.request('getInflightFd', wanted, {
      ...bounded(signal),
      replyFds: fds,
    });
    const [fd] = fds;
    if (channel.endReason !== null) {
      // It was over before this came to its turn: nobody would close the fd any more.
      if (fd !== undefined) this.#platform.closeFd(fd);
      throw channel.endReason;
    }
    this[Symbol.dispose]();
    if (fd === undefined || description.numQueues < numQueues || description.queueSize < queueSize) {
      if (fd !== undefined) this.#platform.closeFd(fd);
      const got = `${fd === undefined ? 'no memory' : 'memory'} for ${description.numQueues} of ${description.queueSize}`;
      const error = new VhostError(
        'ERR_VHOST_REPLY',
        `asked for memory for ${numQueues} queues of ${queueSize}, got ${got}`,
        { request: 'VHOST_USER_GET_INFLIGHT_FD' },
      );
      channel.close(error);
      throw error;
    }
    this.#held = { fd: new OwnedFd(this.#platform, fd), description };
    await this.give(channel, signal);
  }

  /** Hands it to a back-end, before its rings start. */
  async give(channel: RequestChannel, signal: AbortSignal | undefined): Promise<void> {
    const { fd, description } = this.#held!;
    await channel.request('setInflightFd', description, { ...bounded(signal), fds: [fd.fd] });
  }

  /** Lets go of it: nobody keeps record any more, or it is over. */
  [Symbol.dispose](): void {
    this.#held?.fd.close();
    this.#held = null;
  }
}
