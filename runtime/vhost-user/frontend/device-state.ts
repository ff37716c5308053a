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
 * when there is more of it than `limit`.
 */
export async function saveDeviceState(
  frontend: Frontend,
  options: DeviceStateOptions = {},
): Promise<Uint8Array> {
  const channel = await openChannel(frontend, DeviceStateDirection.save, options.signal);
  const { limit = DEFAULT_LIMIT, signal } = options;
  const state = await frontend.platform.readChannel(channel, limit, signal);
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
    await frontend.platform.writeChannel(channel, state, options.signal);
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

async function check(frontend: Frontend, signal: AbortSignal | undefined): Promise<void> {
  const result = await frontend.request('checkDeviceState', undefined, bounded(signal));
  if (result === 0n) return;
  throw new VhostError('ERR_VHOST_REFUSED', `the back-end answered ${result}`, {
    request: 'VHOST_USER_CHECK_DEVICE_STATE',
  });
}
