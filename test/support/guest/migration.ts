import type { Guest } from './guest.js';
import { eventually, TemporaryFolder } from './processes.js';

interface MigrationInfo {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly ram?: { readonly 'dirty-sync-count': number; readonly remaining: number; readonly total: number };
}

/** Bytes a second: while half of the memory is sent, then while most of it is, then until `finish`, then to the end. */
const FIRST = 32 << 20;
const SECOND = 16 << 20;
const HELD = 256;
const END = 1 << 30;

/**
 * A live migration between two QEMU processes of this machine, held in the middle of its first round, or in a later one on a
 * machine that is too busy to notice: most of the memory was sent, what is written from then on must be sent again. It is held
 * by hardly any bandwidth, not by a guest that writes faster than it is sent, and the guest is stopped for the rounds that
 * follow, a moment before QEMU would do so itself: software emulation notes a write before it carries it out, and a page that is
 * collected in between is lost, with any device and with none.
 */
export class LiveMigration implements Disposable {
  readonly #from: Guest;
  readonly #to: Guest;
  readonly #folder = new TemporaryFolder();

  private constructor(from: Guest, to: Guest) {
    this.#from = from;
    this.#to = to;
  }

  /** `to` was prepared with `incoming`. Resolves when the migration is held. */
  static async begin(from: Guest, to: Guest): Promise<LiveMigration> {
    const migration = new LiveMigration(from, to);
    try {
      await migration.#begin();
      return migration;
    } catch (error) {
      migration[Symbol.dispose]();
      throw error;
    }
  }

  /** Waits until three quarters of the memory are sent. */
  async #hold(): Promise<void> {
    for (const [share, bandwidth] of [
      [1 / 2, SECOND],
      [1 / 4, HELD],
    ] as const) {
      await eventually(
        async () => {
          const { ram } = await this.#info();
          return ram !== undefined && (ram['dirty-sync-count'] > 1 || ram.remaining < ram.total * share);
        },
        () => 'the first round of the migration does not go on',
      );
      await this.#from.qmp.execute('migrate-set-parameters', { 'max-bandwidth': bandwidth });
    }
    if ((await this.#info()).status === 'completed') throw new Error('the migration is over already');
  }

  /** Lets the guest move over and waits until it runs there. */
  async finish(): Promise<void> {
    await this.#from.qmp.execute('stop');
    await this.#from.qmp.execute('migrate-set-parameters', { 'max-bandwidth': END });
    await eventually(
      async () => (await this.#info()).status === 'completed',
      () => 'the migration does not end',
    );
    // Before all has arrived QEMU takes it for granted that the guest is to go on as it was, and that is stopped.
    await eventually(
      async () => (await this.#to.qmp.execute<{ status: string }>('query-status')).status === 'paused',
      () => `the guest does not arrive\n${this.#to.qemu.ending}${this.#to.qemu.output}`,
    );
    await this.#to.qmp.execute('cont');
    await this.#to.qmp.event(({ event }) => event === 'RESUME');
  }

  /** Calls the migration off: the guest stays where it is. */
  async cancel(): Promise<void> {
    await this.#from.qmp.execute('migrate_cancel');
    await eventually(
      async () => (await this.#status()) === 'cancelled',
      () => 'the migration is not cancelled',
    );
  }

  [Symbol.dispose](): void {
    this.#folder[Symbol.dispose]();
  }

  async #begin(): Promise<void> {
    const uri = `unix:${this.#folder.file('migration')}`;
    await this.#to.qmp.execute('migrate-incoming', { uri });
    // A guest that does anything is not taken over by itself while so little of it may be left to send, in milliseconds.
    await this.#from.qmp.execute('migrate-set-parameters', { 'downtime-limit': 1, 'max-bandwidth': FIRST });
    await this.#from.qmp.execute('migrate', { uri });
    await this.#hold();
  }

  async #status(): Promise<string | undefined> {
    const info = await this.#from.qmp.execute<MigrationInfo>('query-migrate');
    return info.status;
  }

  async #info(): Promise<MigrationInfo> {
    const info = await this.#from.qmp.execute<MigrationInfo>('query-migrate');
    if (info.status === 'failed' || info.status === 'cancelled') {
      throw new Error(
        `migration ${info.status}: ${info['error-desc'] ?? ''}\n${this.#from.qemu.output}\n${this.#to.qemu.output}`,
      );
    }
    return info;
  }
}
