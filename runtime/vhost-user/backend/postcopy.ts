import { VhostError } from '../../errors.js';
import type { Platform, SocketStream, Userfault } from '../../platform/platform.js';
import type { MemoryTable } from '../../../generated/vhost-user/payloads.js';
import { OwnedFd } from '../fd-bundle.js';
import type { MemorySlots, PreparedMemory, RegionTable } from '../memory-slots.js';
import type { NegotiatedFeatures } from '../negotiated-features.js';

export interface PostcopyContext {
  readonly platform: Platform;
  /** The front-end's socket: when it hangs up, nobody supplies pages any more. */
  readonly stream: SocketStream;
  readonly features: NegotiatedFeatures;
  readonly memory: MemorySlots;
}

/** The name that the reply rule of SET_MEM_TABLE goes by. */
const LISTENING = 'postcopy-listening';

/**
 * The guest runs here already while its pages are still on their way; the front-end supplies those that are missed.
 *
 *             ADVISE           LISTEN             SET_MEM_TABLE             confirmation
 *   (nothing) ──────▶ advised ──────▶ listening ───────────────▶ prepared ─────────────▶ listening
 *       ▲                │                │       maps, answers            registers and
 *       └────────────────┴────────────────┘       with addresses           installs the table
 *                       END
 *
 * Between answer and confirmation the new memory is nobody's: no ring is bound to it and no window of it is shown, so that
 * no access can come before the front-end is able to serve it.
 *
 * That nothing deadlocks: once installed, memory is touched by the loop (rings, request headers, the copy table) and by the
 * threads that do file I/O, and each may stand still in such an access. None holds anything then that the front-end needs
 * to supply the page, for it needs nothing of this process: it writes into its own mapping of the file and wakes us through
 * its duplicate of the userfaultfd, from a thread that never waits for an answer over the socket (QEMU's fault and listen
 * threads take no lock that is held while it does). So requests simply wait as long as the loop does. A front-end that is
 * gone is noticed outside of the loop (see Platform.openUserfault). One that stays and does not serve stops this process's
 * loop, with all that it serves: postcopy is therefore offered to front-ends only on request.
 */
export class Postcopy implements Disposable {
  readonly #context: PostcopyContext;
  #userfault: Userfault | null = null;
  #prepared: PreparedMemory | null = null;

  constructor(context: PostcopyContext) {
    this.#context = context;
  }

  get listening(): boolean {
    return this.#context.features.states.has(LISTENING);
  }

  /** POSTCOPY_ADVISE. Gives the front-end's userfaultfd. */
  advise(): OwnedFd {
    if (this.listening) throw state('postcopy is under way already');
    this.#close();
    this.#userfault = this.#context.platform.openUserfault(this.#context.stream);
    return new OwnedFd(this.#context.platform, this.#userfault.fd);
  }

  /** POSTCOPY_LISTEN. */
  listen(): void {
    if (this.#userfault === null) throw state('POSTCOPY_ADVISE has to come first');
    if (this.listening) throw state('postcopy is under way already');
    const regions = this.#context.memory.current?.count ?? 0;
    // What is mapped has been touched, maybe: its pages would be taken for the guest's.
    if (regions > 0) throw state(`${regions} memory regions are mapped already`);
    this.#context.features.states.add(LISTENING);
  }

  /**
   * SET_MEM_TABLE while listening. Gives the table with this process's addresses, or undefined for the confirmation of the one
   * before, which is installed then.
   */
  setTable(table: RegionTable): MemoryTable | undefined {
    const prepared = this.#prepared;
    if (prepared === null) {
      this.#prepared = this.#context.memory.prepare(table);
      const regions = this.#prepared.regions.map(({ description, mapping }) => ({
        ...description,
        userAddress: mapping.address,
      }));
      return { regions };
    }
    if (table.length > 0) throw state('the table before was not confirmed');
    this.#prepared = null;
    try {
      for (const { mapping } of prepared.regions) this.#userfault!.register(mapping);
    } catch (error) {
      prepared.cancel();
      throw error;
    }
    prepared.install();
    return undefined;
  }

  /** POSTCOPY_END: every page is there. */
  end(): void {
    if (this.#userfault === null) throw state('there was no POSTCOPY_ADVISE');
    if (this.#prepared !== null) throw state('the memory table was not confirmed');
    this.#userfault.release();
    this.#close();
  }

  /** The session ends. Without POSTCOPY_END memory is taken away, and whoever waits in it with an error goes on. */
  [Symbol.dispose](): void {
    this.#prepared?.cancel();
    this.#prepared = null;
    this.#close();
  }

  #close(): void {
    this.#context.features.states.delete(LISTENING);
    this.#userfault?.withdraw();
    this.#userfault = null;
  }
}

function state(why: string): VhostError {
  return new VhostError('ERR_VHOST_STATE', why);
}
