import { VhostError } from '../../errors.js';
import { DeviceStateDirection, DeviceStatePhase } from '../../../generated/vhost-user/payloads.js';
import { bounded } from './announce.js';
import type { Frontend } from './frontend.js';

export interface DeviceStateOptions {
  /** Most bytes of state that are taken; 16 MiB when absent. */
  readonly limit?: number;
  readonly signal?: AbortSignal;
}

const DEFAULT_LIMIT = 16 << 20;
/** Of the reply to SET_DEVICE_STATE_FD. */
const ERROR_BITS = 0xffn;

/**
 * Fetches the state of the back-end's device, whose rings are all stopped. Rejects with VhostError: ERR_VHOST_GATE when the
 * back-end has no DEVICE_STATE, ERR_VHOST_REFUSED when it says that something went wrong; with PlatformError (ERR_PLATFORM_LIMIT)
 * when there is more of it than `limit`; with the reason of the conversation's end, or the signal's.
 */
export async function saveDeviceState(
  frontend: Frontend,
  options: DeviceStateOptions = {},
): Promise<Uint8Array> {
  const channel = await openChannel(frontend, DeviceStateDirection.save, options.signal);
  const { limit = DEFAULT_LIMIT, signal } = options;
  const state = await whileConnected(frontend, signal, (bound) =>
    frontend.platform.readChannel(channel, limit, bound),
  );
  await check(frontend, signal);
  return state;
}

/** Gives another back-end the state that `saveDeviceState` has brought, before any ring is started. Rejects likewise. */
export async function loadDeviceState(
  frontend: Frontend,
  state: Uint8Array,
  options: DeviceStateOptions = {},
): Promise<void> {
  const channel = await openChannel(frontend, DeviceStateDirection.load, options.signal);
  try {
    await whileConnected(frontend, options.signal, (bound) =>
      frontend.platform.writeChannel(channel, state, bound),
    );
  } catch (cause) {
    // A back-end that has seen enough hangs up; why, it says below.
    await check(frontend, options.signal);
    throw cause;
  }
  await check(frontend, options.signal);
}

/** Our end of the channel; the back-end's own, where it sends one. */
async function openChannel(
  frontend: Frontend,
  direction: DeviceStateDirection,
  signal: AbortSignal | undefined,
): Promise<number> {
  const { platform } = frontend;
  const [mine, theirs] = platform.socketPair();
  const replyFds: number[] = [];
  let used = -1;
  try {
    const reply = await frontend.request(
      'setDeviceStateFd',
      { direction, phase: DeviceStatePhase.stopped },
      { ...bounded(signal), fds: [theirs], replyFds },
    );
    if ((reply & ERROR_BITS) !== 0n) {
      throw new VhostError('ERR_VHOST_REFUSED', `the back-end answered 0x${reply.toString(16)}`, {
        request: 'VHOST_USER_SET_DEVICE_STATE_FD',
      });
    }
    used = replyFds.shift() ?? mine;
    return used;
  } finally {
    for (const fd of [mine, theirs, ...replyFds]) if (fd !== used) platform.closeFd(fd);
  }
}

/** The channel is another socket than the conversation's: it may stay open when that is over, and nobody is left to use it. */
async function whileConnected<Result>(
  frontend: Frontend,
  signal: AbortSignal | undefined,
  transfer: (bound: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const over = new AbortController();
  const end = (reason: Error): void => over.abort(reason);
  frontend.once('disconnected', end);
  void frontend.ended.then(end);
  if (!frontend.connected) {
    end(frontend.endReason ?? new VhostError('ERR_VHOST_DISCONNECTED', 'the back-end is gone'));
  }
  try {
    return await transfer(signal === undefined ? over.signal : AbortSignal.any([over.signal, signal]));
  } catch (error) {
    signal?.throwIfAborted();
    over.signal.throwIfAborted();
    throw error;
  } finally {
    frontend.off('disconnected', end);
  }
}

async function check(frontend: Frontend, signal: AbortSignal | undefined): Promise<void> {
  const result = await frontend.request('checkDeviceState', undefined, bounded(signal));
  if (result === 0n) return;
  throw new VhostError('ERR_VHOST_REFUSED', `the back-end answered ${result}`, {
    request: 'VHOST_USER_CHECK_DEVICE_STATE',
  });
}
