import { execFile, execFileSync } from 'node:child_process';
import { promisify } from 'node:util';
import { findProgram } from './debian.js';
import type { Machine } from './network.js';
import { PATIENCE } from './processes.js';

const run = promisify(execFile);
let made = 0;

/** A network namespace of this host: a network of its own, which no other test sees. Making one needs root. */
export class NetworkNamespace implements Machine, Disposable {
  // Not by the pid alone: a namespace outlives a test that was killed, and the pid may come again.
  readonly name = `vhu-${process.pid}-${Date.now().toString(36)}-${made++}`;
  readonly #ip: string;

  constructor() {
    const ip = findProgram('ip');
    if (ip === null)
      throw new Error('a network namespace needs this Debian package: apt-get install iproute2');
    this.#ip = ip;
    execFileSync(ip, ['netns', 'add', this.name], { stdio: ['ignore', 'ignore', 'pipe'] });
    execFileSync(ip, ['-n', this.name, 'link', 'set', 'lo', 'up']);
  }

  /** File and arguments that run a program inside. */
  command(file: string, args: readonly string[]): [string, string[]] {
    return [this.#ip, ['netns', 'exec', this.name, file, ...args]];
  }

  async read(script: string, limit = PATIENCE): Promise<string> {
    const [file, args] = this.command('sh', ['-ec', script]);
    const { stdout } = await run(file, args, { timeout: limit, killSignal: 'SIGKILL' });
    return stdout.replace(/\n$/, '');
  }

  /** What still runs inside keeps its network until it ends. */
  [Symbol.dispose](): void {
    execFileSync(this.#ip, ['netns', 'delete', this.name]);
  }
}
