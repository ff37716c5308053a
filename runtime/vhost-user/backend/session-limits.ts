import { OptionError } from '../../errors.js';
import { DIRTY_LOG_MAX } from '../../memory/dirty-log.js';
import { DEFAULT_IOTLB_ENTRIES } from '../../memory/iotlb.js';
import type { RequestRow } from '../../wire/index.js';
import { UNANSWERED_REQUESTS } from './backend-channel.js';
import { MESSAGE_FDS, WAITING_MESSAGES } from '../message-stream.js';
import { frontendRequests } from '../../../generated/vhost-user/frontend-requests.js';

/** What one front-end may take up. Each has a default; what lies above is refused, or ends the session, with a reason. */
export interface SessionLimits {
  /** Largest payload of a message in bytes, on the main socket and on the back-end's own channel. */
  readonly maxPayload?: number;
  /** File descriptors that come with one message. */
  readonly messageFds?: number;
  /** Whole messages that wait while one is being handled; behind them the socket's own buffer holds the front-end back. */
  readonly waitingMessages?: number;
  /** Memory regions at a time, in a table or in slots. */
  readonly memorySlots?: number;
  /** Rings, however many the device has; GET_QUEUE_NUM says so. */
  readonly queues?: number;
  /** Descriptors of a ring, however many the device takes. As many chains of it are in flight at most. */
  readonly queueSize?: number;
  /** Translations behind an IOMMU at a time; one more pushes the oldest out, which is asked for when it is needed. */
  readonly iotlbEntries?: number;
  /** Bytes of a dirty log. 1 GiB, the most there can be, covers 32 TiB of guest addresses. */
  readonly logSize?: number;
  /** Bytes of an in-flight region. */
  readonly inflightSize?: number;
  /** Bytes of a device's saved state. */
  readonly stateSize?: number;
  /** Requests of the back-end's own that the front-end has not answered or not fetched. */
  readonly unansweredRequests?: number;
  /** Connections that wait for the session before them to end; further ones are closed. */
  readonly waitingConnections?: number;
  /**
   * A front-end that has not said a whole request yet gives way to one that waits after so many milliseconds from its
   * connection on; Infinity lets it stay.
   */
  readonly silence?: number;
}

/** Largest payload of any request there is. */
const LARGEST_PAYLOAD = Math.max(
  ...Object.values(frontendRequests).map((row: RequestRow) => row.payload?.maxSize ?? 0),
);

/** What holds where nothing else is said. ARCHITECTURE.md has them as a table, which a test compares with this. */
export const DEFAULT_LIMITS: Required<SessionLimits> = {
  // What the table knows, and some room for what it does not.
  maxPayload: Math.max(LARGEST_PAYLOAD, 4096),
  messageFds: MESSAGE_FDS,
  waitingMessages: WAITING_MESSAGES,
  // As other back-ends have it.
  memorySlots: 509,
  // A kick, call or err message names a ring by eight bits.
  queues: 256,
  queueSize: 32768,
  iotlbEntries: DEFAULT_IOTLB_ENTRIES,
  logSize: DIRTY_LOG_MAX,
  // More than 256 packed rings of the largest size take.
  inflightSize: 512 << 20,
  stateSize: 1 << 20,
  unansweredRequests: UNANSWERED_REQUESTS,
  waitingConnections: 16,
  silence: 10_000,
};

/** The smallest and the largest number that makes sense. */
const RANGES: Record<keyof SessionLimits, readonly [number, number]> = {
  maxPayload: [8, 1 << 30],
  messageFds: [1, 253],
  waitingMessages: [1, 1024],
  memorySlots: [1, 4096],
  queues: [1, 256],
  queueSize: [1, 32768],
  iotlbEntries: [1, 1 << 20],
  logSize: [1, DIRTY_LOG_MAX],
  inflightSize: [64, 2 ** 40],
  stateSize: [12, 1 << 30],
  unansweredRequests: [1, 1 << 20],
  waitingConnections: [0, 4096],
  // What a timer takes.
  silence: [1, 2 ** 31 - 1],
};

/** Fills in defaults. Throws OptionError (ERR_OPTION_VALUE) for a limit that cannot be. */
export function checkedLimits(limits: SessionLimits = {}): Required<SessionLimits> {
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    const value = limits[name as keyof SessionLimits] ?? low;
    if (Number.isInteger(value) && value >= low && value <= high) continue;
    if (name === 'silence' && value === Infinity) continue;
    throw new OptionError('ERR_OPTION_VALUE', `limit ${name}: expected ${low} to ${high}, got ${value}`);
  }
  return { ...DEFAULT_LIMITS, ...limits };
}
