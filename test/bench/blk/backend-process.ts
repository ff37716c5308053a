import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { processCpuSeconds } from '../process-time.js';

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
    return processCpuSeconds(this.#child.pid!);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null) this.#child.kill('SIGTERM');
    await this.#exited;
  }
}
