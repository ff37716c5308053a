import { NET_MTU_MAX, NET_MTU_MIN } from '../../../generated/virtio/devices/net/layouts.js';
import { DeviceError } from '../../errors.js';
import { type NetCounters, newCounters } from './counters.js';

/** What a network device takes along when its guest moves. Features, memory and rings are the front-end's to tell. */
export interface NetState {
  /** As NET_SET_MTU or the options had it. */
  readonly mtu: number;
  /** As the driver saw it last: the one that takes over tells of a change when its own link is another. */
  readonly linkUp: boolean;
  /** By slot of the flow table, the pair on which the flow is received; null with one pair. */
  readonly flows: readonly number[] | null;
  readonly counters: NetCounters;
}

const VERSION = 1;

/** JSON, so that a member that is new can be left out by what is old. */
export function encodeState(state: NetState): Uint8Array {
  return Buffer.from(JSON.stringify({ version: VERSION, ...state }));
}

/** Throws DeviceError (ERR_DEVICE_REQUEST) for bytes that are no state of a device with so many pairs and flow slots. */
export function decodeState(bytes: Uint8Array, pairs: number, slots: number): NetState {
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as Record<string, unknown>;
  } catch (cause) {
    throw refuse('it is no JSON', cause);
  }
  if (typeof value !== 'object' || value === null) throw refuse('it is no object');
  if (value['version'] !== VERSION) throw refuse(`expected version ${VERSION}`);
  const mtu = wholeNumber(value, 'mtu', NET_MTU_MIN, NET_MTU_MAX);
  const linkUp = value['linkUp'];
  if (typeof linkUp !== 'boolean') throw refuse('linkUp is neither true nor false');
  return {
    mtu,
    linkUp,
    flows: flowsOf(value['flows'], pairs, slots),
    counters: countersOf(value['counters']),
  };
}

function flowsOf(flows: unknown, pairs: number, slots: number): readonly number[] | null {
  if (flows === null && pairs === 1) return null;
  if (!Array.isArray(flows) || flows.length !== slots || pairs === 1) {
    throw refuse(`flows do not fit ${pairs} queue pairs`);
  }
  for (const pair of flows as unknown[]) {
    if (!Number.isInteger(pair) || (pair as number) < 0 || (pair as number) >= pairs) {
      throw refuse(`a flow goes to pair ${String(pair)} of ${pairs}`);
    }
  }
  return flows as number[];
}

/** Those that are not there begin at 0; those that are not known are left out. */
function countersOf(value: unknown): NetCounters {
  if (typeof value !== 'object' || value === null) throw refuse('there are no counters');
  const counters = newCounters();
  for (const name of Object.keys(counters) as (keyof NetCounters)[]) {
    if (Object.hasOwn(value, name)) {
      counters[name] = wholeNumber(value as Record<string, unknown>, name, 0, Number.MAX_SAFE_INTEGER);
    }
  }
  return counters;
}

function wholeNumber(from: Record<string, unknown>, name: string, low: number, high: number): number {
  const value = from[name];
  if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) return value;
  throw refuse(`${name} is not from ${low} to ${high}`);
}

function refuse(what: string, cause?: unknown): DeviceError {
  return new DeviceError('ERR_DEVICE_REQUEST', `saved state of a network device: ${what}`, { cause });
}
