import { EntropyDevice } from '../devices/entropy/index.js';
import { runProgram } from './program.js';

runProgram({
  name: 'vhost-user-rng',
  summary: 'Serves a source of randomness (virtio-rng) to a virtual machine.',
  capabilities: { type: 'rng', features: [] },
  options: {},
  check: () => () => ({ device: new EntropyDevice(), fields: {}, close: async () => {} }),
});
