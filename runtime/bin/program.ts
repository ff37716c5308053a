import { readFileSync } from 'node:fs';
import type { VirtioDevice } from '../device/index.js';
import { OptionError, VhostUserError } from '../errors.js';
import { createLinuxPlatform } from '../platform/linux.js';
import type { Platform } from '../platform/platform.js';
import { serveDevice } from '../vhost-user/backend/server.js';
import { takenOver } from './early-signals.js';
import { createLog, describeError, type Log, LOG_LEVELS } from './log.js';
import {
  choiceOption,
  describeOptions,
  type OptionTable,
  type OptionValues,
  parseOptions,
} from './option-table.js';
import { featuresOnRequest, transportOptions, transportPlaces } from './transport-options.js';

/** How a program ends. */
const ExitCode = {
  /** Ended by a signal, or with the one front-end that it was given. */
  done: 0,
  /** The image, the socket or the platform is not to be had. */
  failed: 1,
  /** The arguments make no sense. */
  usage: 2,
} as const;

/** How long work under way is waited for after a signal. A stalled disk must not keep the program. */
const CLOSE_LIMIT_MS = 500;

/** A back-end program: what it offers and how its device is made. */
export interface Program<Table extends OptionTable> {
  readonly name: string;
  /** One line for the help text. */
  readonly summary: string;
  /** For --print-capabilities. */
  readonly capabilities: { readonly type: string; readonly features: readonly string[] };
  readonly options: Table;
  /** Whether --socket-path may be given several times, for a device each. */
  readonly several?: boolean;
  /**
   * Checks the options, which needs neither file nor platform, for `count` devices. What it gives is called once a device,
   * with its number. Throws OptionError.
   */
  check(values: OptionValues<Table>, count: number): (platform: Platform, index: number) => OpenDevice;
}

/** A device with what it stands on. */
export interface OpenDevice {
  readonly device: VirtioDevice;
  /** For the log. */
  readonly fields: Record<string, unknown>;
  /** What somebody should know who meant something else; for the log. */
  readonly warnings?: readonly string[];
  /** Looks at what the device stands on again; SIGHUP asks for it. */
  refresh?(): void;
  /** Ends when nothing is under way. */
  close(): Promise<void>;
}

/** Runs a program with the process's arguments to its end. */
export function runProgram<Table extends OptionTable>(program: Program<Table>): void {
  const args = process.argv.slice(2);
  // Whoever reads the output may go away; the device is worth more than its log.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
  if (args.includes('--print-capabilities')) {
    process.stdout.write(`${JSON.stringify(program.capabilities)}\n`);
  } else if (args.includes('--help')) {
    process.stdout.write(helpText(program));
  } else if (args.includes('--version')) {
    process.stdout.write(`${program.name} ${packageVersion()}\n`);
  } else {
    serve(program, args).catch((error: unknown) => fail(program.name, error));
  }
}

async function serve<Table extends OptionTable>(
  program: Program<Table>,
  args: readonly string[],
): Promise<void> {
  const values = parseOptions({ ...transportOptions, ...program.options }, args);
  const places = transportPlaces(values as OptionValues<typeof transportOptions>, program.several ?? false);
  const onRequest = featuresOnRequest(values as OptionValues<typeof transportOptions>);
  const level = choiceOption('log-level', values['log-level'] as string | undefined, LOG_LEVELS, 'info');
  const open = program.check(values as OptionValues<Table>, places.length);
  const log = createLog(level, (line) => process.stderr.write(line));

  const stopped = new AbortController();
  const stop = (signal: NodeJS.Signals): void => {
    // Asked twice: at once.
    if (stopped.signal.aborted) process.exit(ExitCode.done);
    log('info', 'stopping', { signal });
    stopped.abort();
  };
  const endingSignals = ['SIGTERM', 'SIGINT'] as const;
  for (const signal of endingSignals) {
    process.on(signal, stop);
    takenOver(signal);
  }

  const platform = createLinuxPlatform(values['postcopy'] === true ? { endingSignals } : {});
  const opened: OpenDevice[] = [];
  // Before the log says that it serves: who reads that may send it at once.
  process.on('SIGHUP', () => opened.forEach((each) => refresh(each, log)));
  try {
    const options = {
      platform,
      log,
      signal: stopped.signal,
      poll: values['poll'] === true,
      withProtocolFeatures: onRequest,
    };
    const backends = places.map((place, index) => {
      const each = open(platform, index);
      opened.push(each);
      const backend = serveDevice(each.device, { ...options, ...place });
      log('info', 'serving', { ...place, ...each.fields });
      for (const warning of each.warnings ?? []) log('warn', warning, each.fields);
      return backend;
    });
    await Promise.all(backends.map(({ finished }) => finished));
  } finally {
    // When one cannot be served, the others end, and leave no socket behind.
    stopped.abort();
    await Promise.all(opened.map((each) => closeInTime(each, log)));
  }
  process.exit(ExitCode.done);
}

function refresh(opened: OpenDevice, log: Log): void {
  try {
    opened.refresh?.();
  } catch (error) {
    log('error', 'the device stays as it was', { error });
  }
}

/** Requests that were not completed are lost to the guest in any case; those under way get a moment to reach the image. */
async function closeInTime(opened: OpenDevice, log: Log): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<false>((resolve) => (timer = setTimeout(() => resolve(false), CLOSE_LIMIT_MS)));
  const closed = opened.close().then(() => true);
  if (!(await Promise.race([closed, limit]))) log('warn', 'requests under way are left to the kernel');
  clearTimeout(timer);
}

function fail(name: string, error: unknown): void {
  if (error instanceof OptionError) {
    process.stderr.write(`${name}: ${error.message}; see ${name} --help\n`);
    process.exit(ExitCode.usage);
  }
  // Anything else is a defect of ours, for which the whole trace is wanted.
  const known = error instanceof VhostUserError;
  const text = known ? describeError(error) : ((error as Error).stack ?? String(error));
  process.stderr.write(`${name}: ${text}\n`);
  process.exit(ExitCode.failed);
}

function helpText<Table extends OptionTable>({ name, summary, options }: Program<Table>): string {
  return [
    `Usage: ${name} --socket-path=PATH | --fd=FDNUM [OPTION]...\n`,
    `${summary}\n\n`,
    describeOptions({ ...options, ...transportOptions }),
    '\nIt stays in the foreground, writes its log to stderr and ends with SIGTERM or SIGINT.\n',
    'Exit status: 0 ended as asked, 1 cannot serve, 2 wrong arguments.\n',
  ].join('');
}

function packageVersion(): string {
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
