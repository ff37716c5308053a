import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * Milliseconds for what comes at once on a machine that has nothing else to do, and a hundred times later on one that has. Nothing
 * is proven by it: it is there to tell what did not come before the whole file is stopped.
 */
export const PATIENCE = 120_000;

const running = new Set<ChildProcess>();
const folders = new Set<string>();

/** Nothing outlives the test, however it ends. */
function cleanUp(): void {
  for (const child of running) child.kill('SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}
process.on('exit', cleanUp);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    cleanUp();
    process.kill(process.pid, signal);
  });
}

/** A folder of the test's own; its path is short enough for sockets in it. */
export class TemporaryFolder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'vhu-'));

  constructor() {
    folders.add(this.path);
  }

  file(name: string): string {
    return join(this.path, name);
  }

  [Symbol.dispose](): void {
    folders.delete(this.path);
    rmSync(this.path, { recursive: true, force: true });
  }
}

export interface Exit {
  readonly status: number | null;
  readonly signal: string | null;
}

/** A child process with what it printed. */
export class RunningProgram implements AsyncDisposable {
  readonly name: string;
  readonly child: ChildProcess;
  readonly exited: Promise<Exit>;
  exit: Exit | null = null;
  output = '';

  /** `stdin`: `pipe` for a program that takes commands, a number for an fd that it inherits. */
  constructor(
    name: string,
    file: string,
    args: readonly string[],
    cwd?: string,
    stdin: 'ignore' | 'pipe' | number = 'ignore',
  ) {
    this.name = name;
    this.child = spawn(file, args, {
      stdio: [stdin, 'pipe', 'pipe'],
      ...(cwd === undefined ? {} : { cwd }),
    });
    running.add(this.child);
    this.child.stdout!.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    this.child.stderr!.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    this.exited = new Promise((resolve, reject) => {
      this.child.on('error', reject);
      this.child.on('close', (status, signal) => {
        running.delete(this.child);
        this.exit = { status, signal };
        resolve(this.exit);
      });
    });
  }

  /** How it ended, as a line; empty while it runs. */
  get ending(): string {
    return this.exit === null
      ? ''
      : `${this.name} ended with ${this.exit.signal ?? `status ${this.exit.status}`}\n`;
  }

  /** The promise's value, or an error as soon as the program ends without it. */
  whileRunning<Value>(promise: Promise<Value>): Promise<Value> {
    const ended = this.exited.then(() => {
      throw new Error(`${this.ending}${this.output}`);
    });
    return Promise.race([promise, ended]);
  }

  /** Sends a signal and waits for the end; longer than `limit` milliseconds is an error, and the end. */
  async terminate(signal: NodeJS.Signals = 'SIGTERM', limit = PATIENCE): Promise<Exit> {
    this.child.kill(signal);
    return within(limit, this.exited, () => {
      this.child.kill('SIGKILL');
      return `${this.name} did not end after ${signal}\n${this.output}`;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.exit !== null) return;
    this.child.kill('SIGKILL');
    await this.exited;
  }
}

/** The promise's value, or an error once the limit in milliseconds has passed. */
export async function within<Value>(
  limit: number,
  promise: Promise<Value>,
  describe: () => string,
): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${describe()}\n(waited ${limit / 1000} s)`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Asks again and again until the answer is neither null nor false. */
export async function eventually<Value>(
  ask: () => Value | null | false | Promise<Value | null | false>,
  describe: () => string,
  limit = PATIENCE,
): Promise<Value> {
  const end = performance.now() + limit;
  for (;;) {
    const answer = await ask();
    if (answer !== null && answer !== false) return answer;
    if (performance.now() > end) throw new Error(`${describe()}\n(waited ${limit / 1000} s)`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
