import { LineSocket } from './line-socket.js';
import { PATIENCE, type RunningProgram, within } from './processes.js';

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

export interface QmpEvent {
  readonly event: string;
  readonly data?: Record<string, unknown>;
}

/** A client of QEMU's machine protocol: JSON, one message a line. */
export class Qmp {
  readonly events: QmpEvent[] = [];
  #socket!: LineSocket;
  #next = 0;
  readonly #waiting = new Map<number, Waiting>();
  readonly #eventWaiters = new Set<() => void>();

  static async open(path: string, qemu: RunningProgram): Promise<Qmp> {
    const qmp = new Qmp();
    qmp.#socket = await LineSocket.open(path, (line) => qmp.#receive(line), qemu);
    void qmp.#socket.closed.then(() => {
      for (const { reject } of qmp.#waiting.values()) reject(new Error('QMP: the connection ended'));
      qmp.#waiting.clear();
    });
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  /** Runs one command and gives its `return`. */
  execute<Result = unknown>(command: string, args: Record<string, unknown> = {}): Promise<Result> {
    const id = this.#next++;
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#socket.send(JSON.stringify({ execute: command, arguments: args, id }));
    return within(PATIENCE, answer as Promise<Result>, () => `QMP ${command}: no answer`);
  }

  /** Waits for an event that came or comes after the first `from` ones. */
  event(matches: (event: QmpEvent) => boolean, from = 0): Promise<QmpEvent> {
    const found = new Promise<QmpEvent>((resolve) => {
      const look = (): void => {
        const event = this.events.slice(from).find(matches);
        if (event === undefined) return;
        this.#eventWaiters.delete(look);
        resolve(event);
      };
      this.#eventWaiters.add(look);
      look();
    });
    return within(PATIENCE, found, () => `QMP: the event did not come, only ${JSON.stringify(this.events)}`);
  }

  close(): void {
    this.#socket.close();
  }

  #receive(line: string): void {
    const message = JSON.parse(line) as {
      id?: number;
      return?: unknown;
      error?: { desc: string };
    } & Partial<QmpEvent>;
    if (message.event !== undefined) {
      this.events.push(message as QmpEvent);
      for (const look of [...this.#eventWaiters]) look();
      return;
    }
    const waiting = message.id === undefined ? undefined : this.#waiting.get(message.id);
    if (waiting === undefined) return;
    this.#waiting.delete(message.id!);
    if (message.error === undefined) waiting.resolve(message.return);
    else waiting.reject(new Error(`QMP: ${message.error.desc}`));
  }
}
