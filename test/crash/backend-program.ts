/**
 * A disk's back-end that loads, says `warm`, and serves once it is told how, as a JSON line on stdin. A killed one is so
 * replaced at once by another that waits already.
 */
import { createInterface } from 'node:readline';
import { openFileBacking } from '../../runtime/backings/file.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import { type Death, DyingBacking } from './dying-backing.js';

export interface Assignment {
  readonly socketPath: string;
  readonly file: string;
  readonly queues: number;
  readonly seed: number;
  readonly death: Death | null;
}

const platform = createLinuxPlatform();

createInterface({ input: process.stdin }).once('line', (line) => {
  const { socketPath, file, queues, seed, death } = JSON.parse(line) as Assignment;
  const backing = new DyingBacking(openFileBacking(platform, file), seed, death);
  const backend = serveDevice(new BlockDevice(backing, { queueCount: queues }), {
    platform,
    socketPath,
    log: (level, message, fields) => {
      if (level === 'warn' || level === 'error') console.error(level, message, fields);
    },
  });
  backend.finished.catch((error: unknown) => console.error(error));
});
// Whoever started it is gone.
process.stdin.on('end', () => process.exit(0));
process.stdout.write('warm\n');
