import { readFileSync } from 'node:fs';
import { findProgram } from './guest/debian.js';
import { eventually, RunningProgram } from './guest/processes.js';

/** DPDK's packet generator, or null when it is not installed (Debian: dpdk-dev). */
export const testpmdPath = findProgram('dpdk-testpmd');

export interface PortCounts {
  readonly received: number;
  readonly sent: number;
}

let instances = 0;

/**
 * EAL's arguments for two threads, one that takes commands and one that moves packets, each on a processor: of those that this
 * process may use, which need not be the first ones, nor two.
 */
export function threadsOn(processors: readonly number[] = allowedProcessors()): string[] {
  const [first = 0, second = first] = processors;
  return [`--lcores=0@${first},1@${second}`];
}

/** From a list like `0-3,8`. */
function allowedProcessors(): number[] {
  const [, list = '0'] =
    /^Cpus_allowed_list:\s+(\S+)/m.exec(readFileSync('/proc/self/status', 'latin1')) ?? [];
  return list.split(',').flatMap((range) => {
    const [from = 0, to = from] = range.split('-').map(Number);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

/** testpmd with one port: a driver in user space that is a front-end of its own, or a back-end. */
export class Testpmd implements AsyncDisposable {
  readonly program: RunningProgram;
  #seen = 0;

  private constructor(program: RunningProgram) {
    this.program = program;
  }

  /** `device`: arguments of net_virtio_user. */
  static start(
    socket: string,
    device: Readonly<Record<string, string | number>>,
    options: readonly string[] = [],
    processors?: readonly number[],
  ): Promise<Testpmd> {
    return Testpmd.#start(`net_virtio_user0,path=${socket}`, device, options, processors);
  }

  /** The other end of the wire. `device`: arguments of net_vhost. Its socket is there when this resolves. */
  static startBackend(
    socket: string,
    device: Readonly<Record<string, string | number>>,
    options: readonly string[] = [],
    processors?: readonly number[],
  ): Promise<Testpmd> {
    // Without a driver there is no link, and it would wait for one; word of events would come in the middle of a prompt.
    const all = ['--disable-link-check', '--mask-event=all', ...options];
    return Testpmd.#start(`net_vhost0,iface=${socket}`, device, all, processors);
  }

  static async #start(
    port: string,
    device: Readonly<Record<string, string | number>>,
    options: readonly string[],
    processors: readonly number[] | undefined,
  ): Promise<Testpmd> {
    const properties = Object.entries(device).map(([name, value]) => `,${name}=${value}`);
    const program = new RunningProgram(
      'dpdk-testpmd',
      // Into a pipe it would print by blocks, long after its prompt.
      'stdbuf',
      [
        ...['-oL', testpmdPath!],
        ...[
          '--no-huge',
          '-m',
          '128',
          '--no-pci',
          '--no-telemetry',
          '--single-file-segments',
          '--log-level=3',
        ],
        `--file-prefix=vhu-${process.pid}-${instances++}`,
        ...threadsOn(processors),
        `--vdev=${port}${properties.join('')}`,
        ...['--', '--no-mlockall', '--total-num-mbufs=8192', '--no-lsc-interrupt', '--forward-mode=io', '-i'],
        ...options,
      ],
      undefined,
      'pipe',
    );
    const testpmd = new Testpmd(program);
    try {
      await testpmd.#prompt();
      const printed = await testpmd.run('show port stats 0');
      if (/Invalid port/.test(printed)) throw new Error(`testpmd has no port\n${program.output}`);
    } catch (error) {
      await testpmd[Symbol.asyncDispose]();
      throw error;
    }
    return testpmd;
  }

  /** Runs commands and gives what they printed. */
  async run(...commands: readonly string[]): Promise<string> {
    let printed = '';
    for (const command of commands) {
      this.program.child.stdin!.write(`${command}\n`);
      printed += await this.#prompt();
    }
    return printed;
  }

  async counts(): Promise<PortCounts> {
    const printed = await this.run('show port stats 0');
    const number = (name: string): number => Number(new RegExp(`${name}-packets: (\\d+)`).exec(printed)?.[1]);
    return { received: number('RX'), sent: number('TX') };
  }

  /** Waits until the counts are as `holds` wants them. */
  async until(what: string, holds: (counts: PortCounts) => boolean): Promise<PortCounts> {
    let last: PortCounts = { received: 0, sent: 0 };
    return await eventually(
      async () => {
        last = await this.counts();
        return holds(last) && last;
      },
      () => `${what}: received ${last.received}, sent ${last.sent}\n${this.program.output}`,
    );
  }

  /** Ends it in good order, so that its driver resets the device. */
  async quit(): Promise<void> {
    this.program.child.stdin!.write('quit\n');
    await this.program.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.program[Symbol.asyncDispose]();
  }

  /** What was printed up to the next prompt. */
  async #prompt(): Promise<string> {
    const end = 'testpmd> ';
    const at = await this.program.whileRunning(
      eventually(
        () => {
          const found = this.program.output.indexOf(end, this.#seen);
          return found >= 0 && { found };
        },
        () => `testpmd does not answer\n${this.program.output}`,
      ),
    );
    const printed = this.program.output.slice(this.#seen, at.found);
    this.#seen = at.found + end.length;
    return printed;
  }
}
