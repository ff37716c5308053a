import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { OptionError } from '../errors.js';
import { LOG_LEVELS } from './log.js';
import { choiceOption, integerOption, type OptionTable, type OptionValues } from './option-table.js';

/** Protocol features that work and are offered only to those who ask: some front-ends take their bits amiss. */
const OFFERED_ON_REQUEST = {
  'inband-notifications': ProtocolFeature.inbandNotifications,
  'gpa-addresses': ProtocolFeature.gpaAddresses,
} as const;

/** What every back-end program understands (vhost-user: back-end program conventions). */
export const transportOptions = {
  'socket-path': { value: 'PATH', repeatable: true, help: 'listen on this Unix socket' },
  fd: { value: 'FDNUM', help: 'use this inherited socket, listening or connected' },
  connect: { help: 'connect to --socket-path instead, where the front-end listens' },
  poll: { help: 'look at the queues without end instead of waiting for kicks; takes a processor whole' },
  postcopy: { help: 'take part in postcopy migration; the front-end can then stall this program' },
  offer: {
    value: 'FEATURE',
    repeatable: true,
    help: `offer as well ${Object.keys(OFFERED_ON_REQUEST).join(' or ')}; see PROTOCOL.md`,
  },
  'log-level': { value: 'LEVEL', help: `${LOG_LEVELS.join(', ')}; info when absent` },
  'print-capabilities': { help: 'print what this program can do, as JSON, and exit' },
  help: { help: 'print this text and exit' },
  version: { help: 'print the version and exit' },
} as const satisfies OptionTable;

export interface TransportPlace {
  readonly socketPath?: string;
  readonly fd?: number;
  readonly connect?: boolean;
}

/** Where the front-ends are: one fd, or one socket path or, where `several` are served, more. Throws OptionError. */
export function transportPlaces(
  values: OptionValues<typeof transportOptions>,
  several: boolean,
): readonly TransportPlace[] {
  const { 'socket-path': given, fd, connect } = values;
  const paths = several ? given : given?.slice(-1);
  if (paths === undefined && fd === undefined) {
    throw new OptionError('ERR_OPTION_MISSING', '--socket-path or --fd must say where the front-end is');
  }
  if (paths !== undefined && fd !== undefined) {
    throw new OptionError('ERR_OPTION_CONFLICT', '--socket-path and --fd exclude each other');
  }
  if (fd !== undefined) {
    if (connect) throw new OptionError('ERR_OPTION_CONFLICT', '--connect needs --socket-path');
    return [{ fd: integerOption('fd', fd, [0, 0x7fffffff], 0) }];
  }
  if (paths!.includes('')) throw new OptionError('ERR_OPTION_VALUE', '--socket-path: the path is empty');
  if (new Set(paths).size < paths!.length) {
    throw new OptionError('ERR_OPTION_CONFLICT', '--socket-path: each device has a path of its own');
  }
  return paths!.map((socketPath) => ({ socketPath, ...(connect && { connect }) }));
}

/** The protocol features that --offer and --postcopy ask for. Throws OptionError. */
export function featuresOnRequest(values: OptionValues<typeof transportOptions>): bigint {
  const names = Object.keys(OFFERED_ON_REQUEST) as (keyof typeof OFFERED_ON_REQUEST)[];
  let features = values.postcopy === true ? ProtocolFeature.pagefault : 0n;
  for (const name of values.offer ?? []) {
    features |= OFFERED_ON_REQUEST[choiceOption('offer', name, names, names[0]!)];
  }
  return features;
}
