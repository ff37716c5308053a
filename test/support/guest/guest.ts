import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { acceleratorArguments } from './accelerator.js';
import { findGuestParts } from './debian.js';
import { buildInitrd, INIT_RUNS } from './initrd.js';
import { PATIENCE, RunningProgram, TemporaryFolder, within } from './processes.js';
import { Qmp } from './qmp.js';
import { type CommandResult, GuestShell } from './shell.js';

export interface GuestOptions {
  /** Arguments for QEMU beyond the machine itself: chardevs and devices. */
  readonly devices: readonly string[];
  /** Virtual processors; 1 when absent. A driver uses at most as many queues. */
  readonly cpus?: number;
  /** Room for memory that is plugged in later, MiB. */
  readonly hotplugMemory?: number;
  /** More for the kernel's command line. */
  readonly kernelArguments?: string;
  /** Nothing boots: the machine waits for a guest that is moved into it. */
  readonly incoming?: boolean;
}

const MEMORY = 192;

/** A running QEMU with a Linux guest in it, driven through a shell and QMP. */
export class Guest implements AsyncDisposable {
  readonly qemu: RunningProgram;
  readonly qmp: Qmp;
  readonly #shell: GuestShell;
  readonly #folder: TemporaryFolder;

  private constructor(qemu: RunningProgram, qmp: Qmp, shell: GuestShell, folder: TemporaryFolder) {
    this.qemu = qemu;
    this.qmp = qmp;
    this.#shell = shell;
    this.#folder = folder;
  }

  /** Boots a guest and waits for its shell, or prepares a machine for one that comes. */
  static async boot({
    devices,
    cpus = 1,
    hotplugMemory = 0,
    kernelArguments = '',
    incoming = false,
  }: GuestOptions): Promise<Guest> {
    const parts = findGuestParts();
    const initrd = buildInitrd(parts);
    const folder = new TemporaryFolder();
    const hotplug = hotplugMemory === 0 ? '' : `,slots=4,maxmem=${MEMORY + hotplugMemory}M`;
    const qemu = new RunningProgram('QEMU', parts.qemu, [
      ...acceleratorArguments(),
      ...['-smp', String(cpus), '-m', `${MEMORY}M${hotplug}`],
      ...[
        '-object',
        `memory-backend-memfd,id=mem,size=${MEMORY}M,share=on`,
        '-machine',
        'q35,memory-backend=mem',
      ],
      ...['-kernel', parts.kernel, '-initrd', initrd],
      // Without init_on_alloc a page that a device fills was not written by the kernel before. The kernel's tests of its
      // ciphers take longer than all the rest of its boot, and hang now and then under software emulation.
      ...[
        '-append',
        `console=ttyS0 quiet panic=-1 memhp_default_state=online init_on_alloc=0 cryptomgr.notests ${kernelArguments}`,
      ],
      ...['-nodefaults', '-display', 'none', '-net', 'none'],
      ...[
        '-serial',
        `file:${folder.file('console')}`,
        '-serial',
        `unix:${folder.file('shell')},server=on,wait=off`,
      ],
      ...['-qmp', `unix:${folder.file('qmp')},server=on,wait=off`],
      ...devices,
      ...(incoming ? ['-incoming', 'defer'] : []),
    ]);
    const describe = (): string => {
      return `${qemu.ending}--- QEMU\n${qemu.output}\n--- guest console\n${readConsole(folder).slice(-4000)}`;
    };
    try {
      const shell = await GuestShell.open(folder.file('shell'), qemu, describe);
      const qmp = await Qmp.open(folder.file('qmp'), qemu);
      const guest = new Guest(qemu, qmp, shell, folder);
      if (!incoming) await guest.#cameUp(1);
      return guest;
    } catch (error) {
      await qemu[Symbol.asyncDispose]();
      const cause = new Error(`the guest did not boot\n${describe()}`, { cause: error });
      folder[Symbol.dispose]();
      throw cause;
    }
  }

  /** Runs a script in the guest and gives its status and output. */
  run(script: string, limit?: number): Promise<CommandResult> {
    return this.#shell.run(script, limit);
  }

  /** The same for a script that must succeed; gives its output without the last line break. */
  async read(script: string, limit?: number): Promise<string> {
    const { status, stdout, stderr } = await this.run(script, limit);
    if (status !== 0)
      throw new Error(`in the guest: ${script}\nstatus ${status}\n${stdout}${stderr}\n${this.console}`);
    return stdout.replace(/\n$/, '');
  }

  /** Lets the guest reboot itself and waits until it is up again. */
  async reboot(): Promise<void> {
    const before = this.#shell.boots;
    this.#shell.send('sync; reboot -f');
    await this.#cameUp(before + 1);
  }

  /** Resets the machine from outside, whatever the guest is doing, and waits until it is up again. */
  async reset(): Promise<void> {
    const before = this.#shell.boots;
    await this.qmp.execute('system_reset');
    await this.#cameUp(before + 1);
  }

  /**
   * Waits until the guest came up for the `count`-th time. One that hangs in its kernel's own boot is reset, twice at most:
   * software emulation brings that about once in some hundred boots on a busy machine, with any device and with none.
   */
  async #cameUp(count: number): Promise<void> {
    let up = false;
    const booted = this.#shell.booted(count).finally(() => (up = true));
    let seen = count === 1 ? 0 : readConsole(this.#folder).length;
    for (let resets = 0; !up && resets < 2;) {
      await Promise.race([booted, delay(1000, undefined, { ref: false })]);
      const text = readConsole(this.#folder).slice(seen);
      if (up || !hangsInBoot(text)) continue;
      seen += text.length;
      resets++;
      await this.qmp.execute('system_reset');
    }
    await booted;
  }

  /** Shuts the guest down from inside and waits for QEMU's end. */
  async powerOff(): Promise<void> {
    this.#shell.send('sync; poweroff -f');
    await within(PATIENCE, this.qemu.exited, () => `QEMU did not end\n${this.console}`);
    await this[Symbol.asyncDispose]();
  }

  /** What the guest's kernel printed. */
  get console(): string {
    return readConsole(this.#folder).slice(-4000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.qmp.close();
    this.#shell.close();
    await this.qemu[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
  }
}

/** Whether what a guest has printed since it was started says that a processor stands still and no program has run yet. */
export function hangsInBoot(console: string): boolean {
  return !console.includes(INIT_RUNS) && /soft lockup - CPU#\d+ stuck for ([5-9]\d|\d{3,})s/.test(console);
}

function readConsole(folder: TemporaryFolder): string {
  try {
    return readFileSync(folder.file('console'), 'latin1');
  } catch {
    return '';
  }
}
