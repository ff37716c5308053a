import { EventEmitter, on } from 'node:events';
import { OptionError, PlatformError, VhostError, type VhostUserError } from '../../errors.js';
import { PollingLoop } from '../../device/polling-loop.js';
import { QueueLoop } from '../../device/queue-loop.js';
import type { QueueScheduler } from '../../device/queue-scheduler.js';
import type { VirtioDevice } from '../../device/virtio-device.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import type { Platform, SocketListener, SocketStream } from '../../platform/platform.js';
import {
  ConnectingSource,
  ListeningSource,
  SingleSource,
  type ConnectionCallbacks,
  type ConnectionSource,
} from './connections.js';
import { Leftovers } from './leftovers.js';
import { BackendSession, type Log } from './session.js';
import { checkedLimits, type SessionLimits } from './session-limits.js';
import { checkDeclaredMemory } from './frontend-services.js';

export interface BackendOptions {
  readonly platform: Platform;
  /** Path of a Unix socket: listened on, or connected to with `connect`. */
  readonly socketPath?: string;
  /** An inherited socket, listening or connected. Taken over. */
  readonly fd?: number;
  /** A connected socket. Taken over. */
  readonly stream?: SocketStream;
  /** The front-end listens on `socketPath`: connect to it, again and again until it is there, and after every session. */
  readonly connect?: boolean;
  /** Ends the back-end. */
  readonly signal?: AbortSignal;
  /** How long to look for more chains before asking for kicks, in microseconds; 0 never spins. Default 50. */
  readonly spinMicroseconds?: number;
  /**
   * Look at the queues without end instead of waiting for kicks. It takes one processor whole while a front-end is there: pin
   * the process to one of its own.
   */
  readonly poll?: boolean;
  /** Receives structured log lines; nothing is logged without it. */
  readonly log?: Log;
  readonly limits?: SessionLimits;
  /** Virtio feature bits that are not offered although device and library could, e.g. packed rings. */
  readonly withoutFeatures?: bigint;
  /**
   * Protocol features that are offered only when they are asked for here: INBAND_NOTIFICATIONS, which QEMU accepts without
   * serving it; GPA_ADDRESSES, whose bit front-ends on the crate vhost 0.16 take for another's; and PAGEFAULT, for postcopy
   * migration, which excludes CONFIGURE_MEM_SLOTS. In postcopy a front-end supplies the pages of its memory as they are
   * touched, and one that does not stops this thread, so it is for front-ends that are trusted that far. A back-end with
   * PAGEFAULT does not open where the system does not allow it (see Platform.openUserfault).
   */
  readonly withProtocolFeatures?: bigint;
}

export interface BackendEvents {
  /** A front-end connected; nothing was read from it yet. */
  session: [session: BackendSession];
  /** It is gone; null when it left in good order. */
  sessionEnd: [session: BackendSession, reason: VhostUserError | null];
  /** The back-end has ended. */
  close: [];
}

/**
 * Serves a device to one front-end after the other. A connection that comes while another is served waits for its end.
 * It ends by `close`, by the signal or at the end of a `using` block; the session that runs then is ended too.
 */
export class VhostUserBackend extends EventEmitter<BackendEvents> implements Disposable {
  /** Resolves when the back-end has ended; rejects when no front-end can ever be reached. */
  readonly finished: Promise<void>;
  readonly #finish: (error?: unknown) => void;
  readonly #device: VirtioDevice;
  readonly #options: BackendOptions;
  readonly #loop: QueueScheduler;
  readonly #log: Log;
  readonly #limits: Required<SessionLimits>;
  readonly #waiting: SocketStream[] = [];
  readonly #leftovers = new Leftovers();
  #source: ConnectionSource | null = null;
  #session: BackendSession | null = null;
  /** When the session that runs was connected, in milliseconds of the process. */
  #connectedAt = 0;
  /** Ends a silent session when its time is up. */
  #patience: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(device: VirtioDevice, options: BackendOptions) {
    super();
    checkDeclaredMemory(device);
    this.#device = device;
    this.#options = options;
    this.#log = options.log ?? (() => undefined);
    this.#limits = checkedLimits(options.limits);
    const { spinMicroseconds } = options;
    this.#loop =
      options.poll === true
        ? PollingLoop.shared
        : new QueueLoop(spinMicroseconds === undefined ? {} : { spinMicroseconds });
    let finish!: (error?: unknown) => void;
    this.finished = new Promise<void>((resolve, reject) => {
      finish = (error) => (error === undefined ? resolve() : reject(error as Error));
    });
    // Whoever does not look at `finished` reads of a failure in the log.
    this.finished.catch(() => undefined);
    this.#finish = finish;
  }

  /** Begins to take connections. Throws OptionError or PlatformError. */
  open(): this {
    const { signal } = this.#options;
    signal?.throwIfAborted();
    const { platform, withProtocolFeatures = 0n } = this.#options;
    if ((withProtocolFeatures & ProtocolFeature.pagefault) !== 0n) checkUserfault(platform);
    this.#source = openSource(this.#options, {
      onConnection: (stream) => this.#connected(stream),
      onFailure: (error) => this.#close(error),
    });
    signal?.addEventListener('abort', this.#aborted, { once: true });
    return this;
  }

  /** The session that is being served. */
  get session(): BackendSession | null {
    return this.#session;
  }

  /** The sessions to come, until the back-end ends. */
  async *sessions(): AsyncIterableIterator<BackendSession> {
    if (this.#closed) return;
    const abort = new AbortController();
    this.once('close', () => abort.abort());
    try {
      for await (const [session] of on(this, 'session', { signal: abort.signal })) {
        yield session as BackendSession;
      }
    } catch (error) {
      if (!abort.signal.aborted) throw error;
    }
  }

  /** Ends the session and takes no more connections. Idempotent. */
  close(): void {
    this.#close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  readonly #aborted = (): void => this.#close();

  #connected(stream: SocketStream): void {
    if (this.#closed || this.#waiting.length >= this.#limits.waitingConnections) {
      stream.close();
      if (!this.#closed) this.#log('warn', 'too many connections wait: closed one');
    } else if (this.#session !== null) {
      this.#waiting.push(stream);
      this.#hurry(this.#session);
      this.#log('info', 'a connection waits for the session before it to end');
    } else {
      this.#serve(stream);
    }
  }

  #serve(stream: SocketStream): void {
    const { platform, withoutFeatures, withProtocolFeatures } = this.#options;
    const session = new BackendSession({
      platform,
      device: this.#device,
      stream,
      loop: this.#loop,
      log: this.#log,
      limits: this.#limits,
      leftovers: this.#leftovers,
      withoutFeatures: withoutFeatures ?? 0n,
      withProtocolFeatures: withProtocolFeatures ?? 0n,
    });
    this.#session = session;
    this.#connectedAt = performance.now();
    void session.closed.then((reason) => this.#sessionEnded(session, reason));
    this.#log('info', 'a front-end connected');
    this.emit('session', session);
    session.start();
    if (this.#waiting.length > 0) this.#hurry(session);
  }

  /** Somebody waits: a session that says nothing has its time and no longer. */
  #hurry(session: BackendSession): void {
    const { silence } = this.#limits;
    if (silence === Infinity || !session.silent || this.#patience !== undefined) return;
    const left = Math.max(0, this.#connectedAt + silence - performance.now());
    this.#patience = setTimeout(() => {
      if (!session.silent) return;
      session.end(
        new VhostError(
          'ERR_VHOST_STATE',
          `the front-end has said nothing for ${silence} ms, and another one waits`,
        ),
      );
    }, left);
  }

  #sessionEnded(session: BackendSession, reason: VhostUserError | null): void {
    if (reason === null) this.#log('info', 'the session ended');
    else if (hungUp(reason)) this.#log('info', 'the session ended: the front-end hung up', { error: reason });
    else this.#log('error', `the session ended: ${reason.message}`, { code: reason.code, error: reason });
    this.#session = null;
    clearTimeout(this.#patience);
    this.#patience = undefined;
    this.emit('sessionEnd', session, reason);
    if (this.#closed) return;
    const next = this.#waiting.shift();
    if (next !== undefined) this.#serve(next);
    else if (this.#source?.next() !== true) this.#close();
  }

  #close(error?: unknown): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#options.signal?.removeEventListener('abort', this.#aborted);
    this.#source?.close();
    for (const stream of this.#waiting.splice(0)) stream.close();
    this.#session?.end();
    if (error !== undefined) this.#log('error', 'no front-end can be reached', { error });
    this.#finish(error);
    this.emit('close');
  }
}

/** Serves `device` as the options say. Throws OptionError, DeviceError or PlatformError when that cannot even begin. */
export function serveDevice(device: VirtioDevice, options: BackendOptions): VhostUserBackend {
  return new VhostUserBackend(device, options).open();
}

/** The front-end closed its socket without reading all that was sent to it, as a killed one does. */
function hungUp({ cause }: VhostUserError): boolean {
  return cause instanceof PlatformError && (cause.errno === 'ECONNRESET' || cause.errno === 'EPIPE');
}

/** Opens a userfaultfd to see whether one is to be had. Throws PlatformError. */
function checkUserfault(platform: Platform): void {
  const userfault = platform.openUserfault();
  platform.closeFd(userfault.fd);
  userfault.release();
}

function openSource(options: BackendOptions, callbacks: ConnectionCallbacks): ConnectionSource {
  const { platform, socketPath, fd, stream, connect } = options;
  const given = [socketPath, fd, stream].filter((option) => option !== undefined).length;
  if (given !== 1) {
    throw new OptionError(
      given === 0 ? 'ERR_OPTION_MISSING' : 'ERR_OPTION_CONFLICT',
      `exactly one of socketPath, fd and stream says where the front-end is, got ${given}`,
    );
  }
  if (connect === true && socketPath === undefined) {
    throw new OptionError('ERR_OPTION_CONFLICT', 'connect needs a socketPath to connect to');
  }
  if (stream !== undefined) return new SingleSource(stream, callbacks);
  if (socketPath !== undefined) {
    return connect === true
      ? new ConnectingSource(platform, socketPath, callbacks)
      : new ListeningSource(platform.listen(socketPath), callbacks);
  }
  const socket: SocketListener | SocketStream = platform.adoptSocket(fd!);
  return socket.kind === 'listener'
    ? new ListeningSource(socket, callbacks)
    : new SingleSource(socket, callbacks);
}
