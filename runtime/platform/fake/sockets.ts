import { PlatformError } from '../../errors.js';
import type { SocketListener, SocketStream } from '../platform.js';
import { Description, type FdTable, systemError } from './fd-table.js';

/** How sockets behave; a test may change it at any time. */
export interface SocketBehaviour {
  /** Most bytes that one receive gives, or a function asked before each. */
  receiveLimit: number | (() => number);
  /** Bytes that may be under way in one direction before a send would block. */
  sendCapacity: number;
}

interface Chunk {
  bytes: Uint8Array;
  fds: Description[];
}

/** One end of a connected pair. */
export class StreamEnd extends Description {
  readonly kind = 'socket';
  readonly behaviour: SocketBehaviour;
  peer: StreamEnd | null = null;
  /** Called when something changed that a watcher may wait for. */
  onChange: (() => void) | null = null;
  #inbox: Chunk[] = [];
  #inboxBytes = 0;
  #peerClosed = false;
  #reset = false;
  #refused = false;

  private constructor(behaviour: SocketBehaviour) {
    super();
    this.behaviour = behaviour;
  }

  static pair(behaviour: SocketBehaviour): [StreamEnd, StreamEnd] {
    const ends: [StreamEnd, StreamEnd] = [new StreamEnd(behaviour), new StreamEnd(behaviour)];
    ends[0].peer = ends[1];
    ends[1].peer = ends[0];
    return ends;
  }

  get readable(): boolean {
    return this.#inbox.length > 0 || this.#peerClosed;
  }

  get hungUp(): boolean {
    return this.#peerClosed;
  }

  get writable(): boolean {
    return this.#peerClosed || this.peer!.#inboxBytes < this.behaviour.sendCapacity;
  }

  /** As recvmsg on a stream: fds come with the first byte they were sent with, and end the receive. */
  receive(into: Uint8Array, fds: Description[]): number {
    if (into.byteLength === 0) return 0;
    if (this.#inbox.length === 0) {
      if (this.#reset) {
        this.#reset = false;
        throw systemError('recvmsg', 'ECONNRESET', 'the peer closed without reading everything');
      }
      return this.#peerClosed ? 0 : -1;
    }
    const { receiveLimit } = this.behaviour;
    const limit = typeof receiveLimit === 'function' ? receiveLimit() : receiveLimit;
    const room = Math.max(1, Math.min(into.byteLength, limit));
    let taken = 0;
    while (taken < room) {
      const chunk = this.#inbox[0];
      if (chunk === undefined) break;
      const part = chunk.bytes.subarray(0, room - taken);
      into.set(part, taken);
      taken += part.byteLength;
      const carried = chunk.fds.splice(0);
      fds.push(...carried);
      if (part.byteLength < chunk.bytes.byteLength) chunk.bytes = chunk.bytes.subarray(part.byteLength);
      else this.#inbox.shift();
      if (carried.length > 0) break;
    }
    this.#inboxBytes -= taken;
    this.peer?.onChange?.();
    return taken;
  }

  send(bytes: Uint8Array, fds: readonly Description[]): number {
    if (this.#peerClosed) throw systemError('sendmsg', 'EPIPE', 'the peer closed');
    const peer = this.peer!;
    const room = this.behaviour.sendCapacity - peer.#inboxBytes;
    if (room <= 0) return -1;
    const part = bytes.slice(0, room);
    peer.#inbox.push({ bytes: part, fds: fds.map((description) => description.hold()) });
    peer.#inboxBytes += part.byteLength;
    peer.onChange?.();
    return part.byteLength;
  }

  /** The listener closes before this end was accepted: the kernel resets the one who waits. */
  refuse(): void {
    this.#refused = true;
    this.drop();
  }

  protected override ended(): void {
    const peer = this.peer!;
    peer.#peerClosed = true;
    peer.#reset = this.#refused || this.#inbox.length > 0;
    for (const { fds } of this.#inbox.splice(0)) for (const description of fds) description.drop();
    this.#inboxBytes = 0;
    peer.onChange?.();
  }
}

/** A bound socket with its backlog. */
export class ListenerEnd extends Description {
  readonly kind = 'socket';
  readonly backlog: StreamEnd[] = [];
  onChange: (() => void) | null = null;
  readonly #unbind: () => void;

  constructor(unbind: () => void) {
    super();
    this.#unbind = unbind;
  }

  protected override ended(): void {
    this.#unbind();
    for (const end of this.backlog.splice(0)) end.refuse();
  }
}

/** Repeats a callback once a turn of the loop while its condition holds, as a level-triggered poll does. */
class LevelWatch {
  readonly #condition: () => boolean;
  #callback: (() => void) | null = null;
  #scheduled = false;

  constructor(condition: () => boolean) {
    this.#condition = condition;
  }

  set(callback: (() => void) | null): void {
    this.#callback = callback;
    this.wake();
  }

  wake(): void {
    if (this.#scheduled || this.#callback === null || !this.#condition()) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      try {
        if (this.#condition()) this.#callback?.();
      } finally {
        this.wake();
      }
    });
  }
}

export class FakeSocketStream implements SocketStream {
  readonly kind = 'stream';
  readonly fd: number;
  readonly #table: FdTable;
  readonly #end: StreamEnd;
  readonly #readable: LevelWatch;
  readonly #writable: LevelWatch;
  readonly #hungUp: LevelWatch;
  #closed = false;

  constructor(table: FdTable, fd: number, end: StreamEnd) {
    this.fd = fd;
    this.#table = table;
    this.#end = end;
    this.#readable = new LevelWatch(() => !this.#closed && end.readable);
    this.#writable = new LevelWatch(() => !this.#closed && end.writable);
    this.#hungUp = new LevelWatch(() => !this.#closed && end.hungUp);
    end.onChange = () => {
      this.#readable.wake();
      this.#writable.wake();
      this.#hungUp.wake();
    };
  }

  receive(into: Uint8Array, fds: number[]): number {
    this.#checkOpen('recvmsg');
    this.#table.fault('recvmsg');
    const received: Description[] = [];
    const count = this.#end.receive(into, received);
    for (const description of received) {
      fds.push(this.#table.open(description));
      description.drop();
    }
    return count;
  }

  send(bytes: Uint8Array, fds: readonly number[]): number {
    this.#checkOpen('sendmsg');
    this.#table.fault('sendmsg');
    if (bytes.byteLength === 0) {
      if (fds.length === 0) return 0;
      throw new PlatformError('ERR_PLATFORM_ARGUMENT', 'sendmsg: fds need at least one byte to go with');
    }
    return this.#end.send(
      bytes,
      fds.map((fd) => this.#table.get(fd, 'sendmsg')),
    );
  }

  onReadable(callback: (() => void) | null): void {
    this.#readable.set(callback);
  }

  onWritable(callback: (() => void) | null): void {
    this.#writable.set(callback);
  }

  onHangUp(callback: (() => void) | null): void {
    this.#hungUp.set(callback);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#readable.set(null);
    this.#writable.set(null);
    this.#hungUp.set(null);
    this.#end.onChange = null;
    this.#table.close(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #checkOpen(syscall: string): void {
    if (this.#closed)
      throw new PlatformError('ERR_PLATFORM_CLOSED', `${syscall}: the stream is closed`, { syscall });
  }
}

export class FakeSocketListener implements SocketListener {
  readonly kind = 'listener';
  readonly #table: FdTable;
  readonly #fd: number;
  readonly #end: ListenerEnd;
  readonly #watch: LevelWatch;
  #closed = false;

  constructor(table: FdTable, fd: number, end: ListenerEnd) {
    this.#table = table;
    this.#fd = fd;
    this.#end = end;
    this.#watch = new LevelWatch(() => !this.#closed && end.backlog.length > 0);
    end.onChange = () => this.#watch.wake();
  }

  onConnection(callback: (stream: SocketStream) => void): void {
    this.#watch.set(() => {
      this.#table.fault('accept4');
      const end = this.#end.backlog.shift()!;
      const stream = new FakeSocketStream(this.#table, this.#table.open(end), end);
      end.drop();
      callback(stream);
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch.set(null);
    this.#end.onChange = null;
    this.#table.close(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
