import { parseArgs } from 'node:util';
import { OptionError } from '../errors.js';

/** One command-line option: `--name=VALUE`, `--name VALUE`, or a switch when it has no `value`. */
export interface Option {
  /** What the value is, for the help text, e.g. `PATH`. */
  readonly value?: string;
  /** It may be given several times, and each counts. */
  readonly repeatable?: true;
  readonly help: string;
}

export type OptionTable = Readonly<Record<string, Option>>;

/** What was given: the text of an option with a value, true for a switch. The last one counts, if it is not repeatable. */
export type OptionValues<Table extends OptionTable> = {
  readonly [Name in keyof Table]?: Table[Name] extends { readonly repeatable: true }
    ? readonly string[]
    : Table[Name] extends { readonly value: string }
      ? string
      : true;
};

/** Reads arguments. Throws OptionError with a message of one line. */
export function parseOptions<Table extends OptionTable>(
  table: Table,
  args: readonly string[],
): OptionValues<Table> {
  const options = Object.fromEntries(
    Object.entries(table).map(([name, { value, repeatable }]) => [
      name,
      {
        type: value === undefined ? ('boolean' as const) : ('string' as const),
        multiple: repeatable === true,
      },
    ]),
  );
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: false })
      .values as OptionValues<Table>;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const known = code === 'ERR_PARSE_ARGS_INVALID_OPTION_VALUE';
    // Node calls it missing, or "ambiguous" where another option follows.
    const [, name] = known
      ? (/^Option '--(\S+?)(?: <value>)?' argument (?:missing|is amb)/.exec(message) ?? [])
      : [];
    if (name !== undefined) {
      const example = `--${name}=${table[name]?.value}`;
      throw new OptionError('ERR_OPTION_MISSING', `--${name} needs a value: ${example}`, { cause });
    }
    // Node adds advice in further sentences and lines.
    const sentence = message.split(/\.\s|\n/)[0]!.replace(/\.$/, '');
    throw new OptionError(known ? 'ERR_OPTION_VALUE' : 'ERR_OPTION_UNKNOWN', sentence, { cause });
  }
}

/** The table as help text, one option a line. */
export function describeOptions(table: OptionTable): string {
  const rows = Object.entries(table).map(([name, { value, help }]) => [
    `  --${name}${value === undefined ? '' : `=${value}`}`,
    help,
  ]);
  const width = Math.max(...rows.map(([left]) => left!.length)) + 2;
  return rows.map(([left, help]) => `${left!.padEnd(width)}${help}\n`).join('');
}

/** A whole number from `low` to `high`, or `absent`. Throws OptionError. */
export function integerOption(
  name: string,
  text: string | undefined,
  [low, high]: readonly [number, number],
  absent: number,
): number {
  if (text === undefined) return absent;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= low && value <= high) return value;
  throw new OptionError(
    'ERR_OPTION_VALUE',
    `--${name}: "${text}" is not a whole number from ${low} to ${high}`,
  );
}

const UNITS: Readonly<Record<string, bigint>> = {
  '': 1n,
  K: 1n << 10n,
  M: 1n << 20n,
  G: 1n << 30n,
  T: 1n << 40n,
};

/** Bytes, with K, M, G or T for powers of 1024. Throws OptionError. */
export function sizeOption(name: string, text: string): bigint {
  const [, digits, unit] = /^(\d{1,18})([KMGT]?)$/i.exec(text) ?? [];
  const size = digits === undefined ? 0n : BigInt(digits) * UNITS[unit!.toUpperCase()]!;
  if (size > 0n) return size;
  throw new OptionError('ERR_OPTION_VALUE', `--${name}: "${text}" is not a size such as 512K, 64M or 2G`);
}

/** One of a few words, or `absent`. Throws OptionError. */
export function choiceOption<Choice extends string>(
  name: string,
  text: string | undefined,
  choices: readonly Choice[],
  absent: Choice,
): Choice {
  if (text === undefined) return absent;
  const choice = choices.find((each) => each === text);
  if (choice !== undefined) return choice;
  throw new OptionError('ERR_OPTION_VALUE', `--${name}: "${text}" is none of ${choices.join(', ')}`);
}
