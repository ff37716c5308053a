import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { daemonPath } from '../support/guest/daemon.js';
import { RunningProgram } from '../support/guest/processes.js';
import type { Assignment } from './backend-program.js';

const PROGRAM = fileURLToPath(new URL('backend-program.js', import.meta.url));

/** Back-end processes, some of which wait loaded for their turn. */
export class Backends implements AsyncDisposable {
  readonly #spares: RunningProgram[] = [];
  readonly #width: number;

  constructor(width: number) {
    this.#width = width;
    this.#fill();
  }

  /** A loaded one starts to serve; it may listen a moment later. */
  async start(assignment: Assignment): Promise<RunningProgram> {
    const program = this.#spares.shift()!;
    this.#fill();
    const { stdout } = program.child;
    while (!program.output.includes('warm')) await program.whileRunning(once(stdout!, 'data'));
    program.child.stdin!.write(`${JSON.stringify(assignment)}\n`);
    return program;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#spares.splice(0).map((each) => each[Symbol.asyncDispose]()));
  }

  #fill(): void {
    while (this.#spares.length < this.#width) {
      const program = new RunningProgram('back-end', process.execPath, [PROGRAM], undefined, 'pipe');
      // It may be killed before it reads.
      program.child.stdin!.on('error', () => undefined);
      program.exited.catch(() => undefined);
      this.#spares.push(program);
    }
  }
}

/** `vhost-user-blk` itself, as a service manager would start it anew. */
export function startProgram({ socketPath, file, queues }: Assignment): RunningProgram {
  return new RunningProgram('vhost-user-blk', process.execPath, [
    daemonPath('vhost-user-blk'),
    ...[`--socket-path=${socketPath}`, `--blk-file=${file}`, `--num-queues=${queues}`, '--log-level=warn'],
  ]);
}
