import { connect, type Socket } from 'node:net';
import { eventually, type RunningProgram } from './processes.js';

/** A Unix socket that carries lines. */
export class LineSocket {
  readonly #socket: Socket;
  readonly #onLine: (line: string) => void;
  #rest = '';
  /** Settles when the peer hangs up. */
  readonly closed: Promise<void>;

  private constructor(socket: Socket, onLine: (line: string) => void) {
    this.#socket = socket;
    this.#onLine = onLine;
    this.closed = new Promise((resolve) => socket.on('close', () => resolve()));
    socket.setEncoding('utf8');
    socket.on('error', () => socket.destroy());
    socket.on('data', (text: string) => this.#take(text));
  }

  /** Connects once the program listens at the path. */
  static async open(
    path: string,
    onLine: (line: string) => void,
    program: RunningProgram,
  ): Promise<LineSocket> {
    const socket = await eventually(
      () => {
        if (program.exit !== null) throw new Error(`${program.ending}${program.output}`);
        return tryConnect(path);
      },
      () => `${program.name} does not listen on ${path}`,
    );
    return new LineSocket(socket, onLine);
  }

  send(line: string): void {
    this.#socket.write(`${line}\n`);
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) this.#onLine(line.replace(/\r$/, ''));
  }
}

function tryConnect(path: string): Promise<Socket | null> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', () => resolve(null));
  });
}
