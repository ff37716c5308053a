/**
 * Plays sequences of one kind until enough inputs or time are spent. Started by run.ts:
 *
 *   node child.js KIND FIRST-SEED INPUTS SECONDS PROGRESS-FILE
 *
 * Whatever is thrown, in a sequence or out of turn, ends the process with the seed still standing in the progress file.
 */
import { pathToFileURL } from 'node:url';
import type { FuzzKindFactory } from './kind.js';
import { seedAt } from './kind.js';
import { fuzzKinds } from './kinds.js';
import { Progress } from './progress.js';

/** Sequences between two looks at what shows only over many. */
const CHECK_EVERY = 512;

const [name, firstSeed, inputsWanted, seconds, progressPath] = process.argv.slice(2);
using progress = new Progress(progressPath!, 'write');

/** A name of the list, or the path of a module with a kind as default export. */
async function factoryOf(kind: string): Promise<FuzzKindFactory> {
  const known = fuzzKinds[kind];
  if (known !== undefined) return known();
  const module = (await import(pathToFileURL(kind).href)) as { default: FuzzKindFactory };
  return module.default;
}

process.on('disconnect', () => process.exit());

const kind = await (await factoryOf(name!))();
const deadline = performance.now() + Number(seconds) * 1000;
const wanted = Number(inputsWanted);
// Errors are thrown by the thousand; where they came from is of interest when a finding is played again.
if (wanted > 1) Error.stackTraceLimit = 1;
let inputs = 0;
let sequences = 0;
for (; inputs < wanted && performance.now() < deadline; sequences++) {
  const seed = seedAt(Number(firstSeed), sequences);
  progress.store(seed, inputs);
  inputs += await kind.play(seed);
  if (sequences % CHECK_EVERY === CHECK_EVERY - 1) await kind.check?.();
}
await kind.check?.();
process.send?.({ inputs, sequences, reached: kind.reached });
process.disconnect?.();
