import { VhostError } from '../../errors.js';
import type { SharedMemory } from '../../memory/shared-memory.js';
import type { Platform, UserfaultServer } from '../../platform/platform.js';
import { bounded } from './announce.js';
import type { RequestChannel } from './request-channel.js';

/** A region of the table, where the back-end has it. */
interface Place {
  readonly guestAddress: bigint;
  readonly size: bigint;
  readonly address: bigint;
}

/**
 * The front-end's part of postcopy: `advise`, `listen`, `share` instead of a plain SET_MEM_TABLE, pages as the back-end asks
 * for them, `end` when all of them are there. The pages go from here into the back-end's mapping, and by that into the file;
 * one that this process touches first exists from then on, with zeros in it, and can be supplied no more.
 *
 * The back-end's loop may stand still in a page that it misses. So it has to be another process (or another thread), and
 * whoever waits for its answer has to supply pages meanwhile.
 */
export class FrontendPostcopy implements Disposable {
  readonly #channel: RequestChannel;
  readonly #server: UserfaultServer;
  #places: readonly Place[] = [];

  private constructor(channel: RequestChannel, server: UserfaultServer) {
    this.#channel = channel;
    this.#server = server;
  }

  /** POSTCOPY_ADVISE. Rejects as `RequestChannel.request` does. */
  static async advise(
    platform: Platform,
    channel: RequestChannel,
    signal?: AbortSignal,
  ): Promise<FrontendPostcopy> {
    const replyFds: number[] = [];
    await channel.request('postcopyAdvise', undefined, { ...bounded(signal), replyFds });
    const [fd] = replyFds;
    if (fd === undefined) {
      throw wrong(channel, 'VHOST_USER_POSTCOPY_ADVISE', 'the reply came without a userfaultfd');
    }
    try {
      return new FrontendPostcopy(channel, platform.serveUserfault(fd));
    } catch (error) {
      platform.closeFd(fd);
      const text = 'the reply came with an fd that is no userfaultfd';
      throw wrong(channel, 'VHOST_USER_POSTCOPY_ADVISE', text, error);
    }
  }

  /** POSTCOPY_LISTEN: no memory is shared yet. */
  async listen(signal?: AbortSignal): Promise<void> {
    await this.#channel.request('postcopyListen', undefined, { ...bounded(signal), needReply: true });
    this.#channel.features.states.add('postcopy-listening');
  }

  /** SET_MEM_TABLE, what it is answered with, and the confirmation. Faults may come as soon as this resolves. */
  async share(memory: SharedMemory, signal?: AbortSignal): Promise<void> {
    const regions = memory.regions.map(({ region }) => region.description);
    const fds = memory.regions.map(({ fd }) => fd);
    const table = await this.#channel.request('setMemTable', { regions }, { ...bounded(signal), fds });
    const told = table?.regions ?? [];
    const same = regions.every(({ guestAddress, size }, i) => {
      return told[i]?.guestAddress === guestAddress && told[i]?.size === size;
    });
    if (!same || told.length !== regions.length) {
      const text = `expected the ${regions.length} regions that were sent, got others`;
      throw wrong(this.#channel, 'VHOST_USER_SET_MEM_TABLE', text);
    }
    this.#places = told.map(({ guestAddress, size, userAddress }) => ({
      guestAddress,
      size,
      address: userAddress,
    }));
    await this.#channel.request('setMemTable', { regions: [] }, { confirms: true, needReply: false });
  }

  /** Called with the guest address of each page that the back-end misses; null stops listening. */
  onFault(callback: ((guestAddress: bigint) => void) | null): void {
    if (callback === null) return this.#server.onFault(null);
    const found = (fault: bigint): void => {
      const place = this.#places.find(({ address, size }) => fault >= address && fault < address + size);
      if (place !== undefined) return callback(place.guestAddress + fault - place.address);
      const at = `0x${fault.toString(16)}`;
      this.#lost('VHOST_USER_SET_MEM_TABLE', `a fault at ${at} lies in no region`);
    };
    this.#server.onFault(found, (cause) =>
      this.#lost('VHOST_USER_POSTCOPY_ADVISE', 'its userfaultfd is of no use', cause),
    );
  }

  /** Puts whole pages there and wakes whoever waits for them. False when one is there already. */
  supply(guestAddress: bigint, bytes: Uint8Array): boolean {
    const place = this.#places.find((each) => {
      return guestAddress >= each.guestAddress && guestAddress < each.guestAddress + each.size;
    });
    if (place === undefined) {
      throw new VhostError('ERR_VHOST_STATE', `guest address 0x${guestAddress.toString(16)} is not shared`);
    }
    return this.#server.copy(place.address + guestAddress - place.guestAddress, bytes);
  }

  /** POSTCOPY_END, when everything was supplied. */
  async end(signal?: AbortSignal): Promise<void> {
    const answer = await this.#channel.request('postcopyEnd', undefined, bounded(signal));
    this.#channel.features.states.delete('postcopy-listening');
    this.close();
    if (answer === 0n) return;
    throw new VhostError('ERR_VHOST_REFUSED', `the back-end answered ${answer}`, {
      request: 'VHOST_USER_POSTCOPY_END',
    });
  }

  /** Supplies nothing more. */
  close(): void {
    this.#server.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** The back-end is not to be trusted any more: it gets nothing. */
  #lost(request: string, text: string, cause?: unknown): void {
    wrong(this.#channel, request, text, cause);
    this.close();
  }
}

/** Closes the connection: the two sides have lost each other. */
function wrong(channel: RequestChannel, request: string, text: string, cause?: unknown): VhostError {
  const error = new VhostError('ERR_VHOST_REPLY', text, { request, cause });
  channel.close(error);
  return error;
}
