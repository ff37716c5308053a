/** `npm run bench -- NAME [options]`: runs one benchmark. */
import { benchBlk } from './blk.js';
import { benchNet } from './net.js';
import { benchRing } from './ring.js';
import { benchSafety } from './safety.js';
import { benchStart } from './start.js';

const BENCHES: Record<string, (args: readonly string[]) => void | Promise<void>> = {
  blk: benchBlk,
  net: benchNet,
  ring: benchRing,
  safety: benchSafety,
  start: benchStart,
};

const [name = '', ...args] = process.argv.slice(2);
const bench = BENCHES[name];
if (bench === undefined) {
  console.error(`usage: npm run bench -- ${Object.keys(BENCHES).join('|')} [--json] [--quick]`);
  process.exitCode = 2;
} else {
  await bench(args);
}
