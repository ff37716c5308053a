import type { Guest } from './guest.js';
import { eventually, TemporaryFolder } from './processes.js';

interface MigrationInfo {
  readonly status?: string;
  readonly 'error-desc'?: string;
}

/** A live migration between two QEMU processes of this machine in which the guest may go ahead of its memory. */
export class PostcopyMigration implements Disposable {
  readonly #from: Guest;
  readonly #to: Guest;
  readonly #folder = new TemporaryFolder();

  private constructor(from: Guest, to: Guest) {
    this.#from = from;
    this.#to = to;
  }

  /** `to` was prepared with `incoming`. What follows the guest comes with so many bytes a second. */
  static async begin(from: Guest, to: Guest, bandwidth: number): Promise<PostcopyMigration> {
    const migration = new PostcopyMigration(from, to);
    try {
      await migration.#begin(bandwidth);
      return migration;
    } catch (error) {
      migration[Symbol.dispose]();
      throw error;
    }
  }

  /** Lets the guest move over at once, and waits until it runs there; its memory follows. */
  async moveAhead(): Promise<void> {
    await this.#from.qmp.execute('migrate-start-postcopy');
    await this.#to.qmp.event(({ event }) => event === 'RESUME');
  }

  /** Lets all of the memory follow, as fast as it can, and waits for it. */
  async memoryFollowed(): Promise<void> {
    await this.#from.qmp.execute('migrate-set-parameters', { 'max-postcopy-bandwidth': 1 << 30 });
    await eventually(
      async () => (await this.status()) === 'completed',
      () => 'the rest of the memory does not come',
    );
  }

  /** How far it is, e.g. `active`, `postcopy-active`, `completed`. */
  async status(): Promise<string> {
    const { status = 'none', 'error-desc': why } =
      await this.#from.qmp.execute<MigrationInfo>('query-migrate');
    if (status !== 'failed' && status !== 'cancelled') return status;
    throw new Error(`migration ${status}: ${why ?? ''}\n${this.#from.qemu.output}\n${this.#to.qemu.output}`);
  }

  [Symbol.dispose](): void {
    this.#folder[Symbol.dispose]();
  }

  async #begin(bandwidth: number): Promise<void> {
    const uri = `unix:${this.#folder.file('migration')}`;
    const capabilities = [{ capability: 'postcopy-ram', state: true }];
    await this.#to.qmp.execute('migrate-set-capabilities', { capabilities });
    await this.#from.qmp.execute('migrate-set-capabilities', { capabilities });
    await this.#to.qmp.execute('migrate-incoming', { uri });
    await this.#from.qmp.execute('migrate-set-parameters', {
      'downtime-limit': 1,
      'max-bandwidth': bandwidth,
      'max-postcopy-bandwidth': bandwidth,
    });
    await this.#from.qmp.execute('migrate', { uri });
  }
}
