import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Clock ticks a second of /proc/PID/stat: 100 on every Linux that Node runs on. */
const TICKS_A_SECOND = 100;
const START_LIMIT_MS = 20_000;

/** A back-end under measurement: a process of its own behind a socket. */
export class BackendProcess implements AsyncDisposable {
  readonly socketPath: string;
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  #output = '';

  private constructor(command: string, args: readonly string[], socketPath: string) {
    this.socketPath = socketPath;
    this.#child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.on('data', (chunk) => (this.#output = (this.#output + String(chunk)).slice(-4096)));
    }
    this.#exited = once(this.#child, 'exit').catch((error: unknown) => {
      this.#output += String(error);
    });
  }

  /** Starts the program and waits for its socket. Rejects with what it printed when it ends before. */
  static async start(command: string, args: readonly string[], socketPath: string): Promise<BackendProcess> {
    const backend = new BackendProcess(command, args, socketPath);
    const limit = performance.now() + START_LIMIT_MS;
    let ended = false;
    void backend.#exited.then(() => (ended = true));
    while (!existsSync(socketPath)) {
      await sleep(10);
      if (!ended && performance.now() < limit) continue;
      await backend[Symbol.asyncDispose]();
      throw new Error(`${command} ${args.join(' ')} did not open its socket:\n${backend.#output}`);
    }
    return backend;
  }

  /** Processor time of all its threads so far, in seconds, user and system together. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.#child.pid}/stat`, 'utf8');
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th fields behind it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS_A_SECOND;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null) this.#child.kill('SIGTERM');
    await this.#exited;
  }
}
