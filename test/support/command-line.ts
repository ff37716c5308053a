import { parseArgs, type ParseArgsConfig } from 'node:util';

/**
 * What the commands of the tests are told. An argument that cannot be followed ends the process with status 2 and one line:
 * a run of nothing, or of something else, must not look like one that went well.
 */
export function readCommandLine<Config extends ParseArgsConfig>(
  config: Config,
): ReturnType<typeof parseArgs<Config>> {
  try {
    return parseArgs(config);
  } catch (error) {
    // Node adds advice in further sentences and lines.
    return refuse((error as Error).message.split(/\.\s|\n/)[0]!.replace(/\.$/, ''));
  }
}

/** A whole number from `low` on. */
export function wholeNumber(name: string, text: string, low = 0): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= low) return value;
  return refuse(`--${name}: expected a whole number${low > 0 ? ` from ${low} on` : ''}, got ${text}`);
}

/** Those of the choices that are named; all, when none is. */
export function someOf<Choice extends string>(
  name: string,
  texts: readonly string[] | undefined,
  choices: readonly Choice[],
): readonly Choice[] {
  for (const text of texts ?? []) {
    if (!choices.some((choice) => choice === text)) {
      refuse(`--${name}: expected some of ${choices.join(', ')}, got ${text}`);
    }
  }
  return texts === undefined ? choices : choices.filter((choice) => texts.includes(choice));
}

export function refuse(message: string): never {
  console.error(message);
  process.exit(2);
}
