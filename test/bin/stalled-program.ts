import { EntropyDevice } from '../../runtime/devices/entropy/index.js';
import { runProgram } from '../../runtime/bin/program.js';

// A program on a medium that never finishes what it was given.
runProgram({
  name: 'stalled-program',
  summary: 'For a test.',
  capabilities: { type: 'rng', features: [] },
  options: {},
  check: () => () => ({
    device: new EntropyDevice(),
    fields: {},
    close: () => new Promise<never>(() => undefined),
  }),
});
