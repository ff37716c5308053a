/** Serves a block device that does nothing, for measuring all that lies above a disk. Arguments: SOCKET BYTES. */
import { NullBacking } from '../../../runtime/backings/null.js';
import { BlockDevice } from '../../../runtime/devices/blk/index.js';
import { serve } from '../../../runtime/index.js';

const [socketPath, bytes] = process.argv.slice(2);
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort());
await serve(new BlockDevice(new NullBacking(BigInt(bytes!))), {
  socketPath: socketPath!,
  signal: stop.signal,
}).finished;
