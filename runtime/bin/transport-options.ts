import { OptionError } from '../errors.js';
import { LOG_LEVELS } from './log.js';
import { integerOption, type OptionTable, type OptionValues } from './option-table.js';

/** What every back-end program understands (vhost-user: back-end program conventions). */
export const transportOptions = {
  'socket-path': { value: 'PATH', help: 'listen on this Unix socket' },
  fd: { value: 'FDNUM', help: 'use this inherited socket, listening or connected' },
  connect: { help: 'connect to --socket-path instead, where the front-end listens' },
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

/** Where the front-end is. Throws OptionError unless there is exactly one place. */
export function transportPlace(values: OptionValues<typeof transportOptions>): TransportPlace {
  const { 'socket-path': socketPath, fd, connect } = values;
  if (socketPath === undefined && fd === undefined) {
    throw new OptionError('ERR_OPTION_MISSING', '--socket-path or --fd must say where the front-end is');
  }
  if (socketPath !== undefined && fd !== undefined) {
    throw new OptionError('ERR_OPTION_CONFLICT', '--socket-path and --fd exclude each other');
  }
  if (fd !== undefined) {
    if (connect) throw new OptionError('ERR_OPTION_CONFLICT', '--connect needs --socket-path');
    return { fd: integerOption('fd', fd, [0, 0x7fffffff], 0) };
  }
  if (socketPath === '') throw new OptionError('ERR_OPTION_VALUE', '--socket-path: the path is empty');
  return { socketPath: socketPath!, ...(connect && { connect }) };
}
