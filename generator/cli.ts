import { fileURLToPath } from 'node:url';
import { run } from './command.js';

// Compiled, this file lies in build/generator.
const root = fileURLToPath(new URL('../../', import.meta.url));
process.exitCode = run(process.argv.slice(2), root, {
  out: (line) => console.log(line),
  error: (line) => console.error(line),
});
