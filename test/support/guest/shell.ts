import { LineSocket } from './line-socket.js';
import { PATIENCE, type RunningProgram, within } from './processes.js';

export interface CommandResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The guest's shell on its second serial port; see the scripts of the initrd for the form of its lines. */
export class GuestShell {
  #socket!: LineSocket;
  readonly #qemu: RunningProgram;
  readonly #describe: () => string;
  #next = 0;
  #boots = 0;
  #bootWaiters: (() => void)[] = [];
  readonly #waiting = new Map<string, (result: CommandResult) => void>();

  private constructor(qemu: RunningProgram, describe: () => string) {
    this.#describe = describe;
    this.#qemu = qemu;
  }

  static async open(path: string, qemu: RunningProgram, describe: () => string): Promise<GuestShell> {
    const shell = new GuestShell(qemu, describe);
    shell.#socket = await LineSocket.open(path, (line) => shell.#receive(line), qemu);
    return shell;
  }

  /** How often the guest came up. */
  get boots(): number {
    return this.#boots;
  }

  /** Waits until the guest came up for the `count`-th time. */
  async booted(count: number, limit = 2 * PATIENCE): Promise<void> {
    const up = new Promise<void>((resolve) => {
      const look = (): void => {
        if (this.#boots >= count) resolve();
        else this.#bootWaiters.push(look);
      };
      look();
    });
    await within(limit, this.#qemu.whileRunning(up), () => `the guest did not come up\n${this.#describe()}`);
  }

  /** Runs a script in the guest. Its status is for the caller to judge. */
  run(script: string, limit = PATIENCE): Promise<CommandResult> {
    const id = String(this.#next++);
    const result = new Promise<CommandResult>((resolve) => this.#waiting.set(id, resolve));
    this.send(script, id);
    return within(
      limit,
      this.#qemu.whileRunning(result),
      () => `the guest did not finish: ${script}\n${this.#describe()}`,
    );
  }

  /** Starts a script that never answers. */
  send(script: string, id = 'none'): void {
    this.#socket.send(`${id} ${Buffer.from(`${script}\n`).toString('base64')}`);
  }

  close(): void {
    this.#socket.close();
  }

  #receive(line: string): void {
    // The firmware prints on every port it finds before the guest's own lines.
    const at = line.lastIndexOf('@');
    const fields = line.slice(at).split(' ');
    if (at < 0 || fields.length !== 4) return;
    const [id, status, stdout, stderr] = fields as [string, string, string, string];
    if (id === '@ready') {
      this.#boots++;
      for (const look of this.#bootWaiters.splice(0)) look();
      return;
    }
    const text = (field: string): string => Buffer.from(field.slice(1), 'base64').toString();
    this.#waiting.get(id.slice(1))?.({ status: Number(status), stdout: text(stdout), stderr: text(stderr) });
    this.#waiting.delete(id.slice(1));
  }
}
