/**
 * A process whose loop waits for a page that nobody supplies, in an access of its own or inside of a system call, as the first
 * argument says. Its end by SIGTERM has status 3.
 */
import { openSync, readSync, writeSync } from 'node:fs';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import type { SocketStream } from '../../runtime/platform/platform.js';

process.on('SIGTERM', () => process.exit(3));
const platform = createLinuxPlatform({ endingSignals: ['SIGTERM'] });
const [near] = platform.socketPair();
const userfault = platform.openUserfault(platform.adoptSocket(near) as SocketStream);
const memory = platform.createSharedMemory('missing', 4096n);
const mapping = platform.map(memory, 0n, 4096n);
const page = platform.windows.u8[mapping.firstWindow]!.subarray(0, 4096);
const zeros = openSync('/dev/zero', 'r');
userfault.register(mapping);
writeSync(1, 'stuck\n');
let outcome: unknown;
try {
  outcome = process.argv[2] === 'access' ? page[0] : readSync(zeros, page);
} catch (error) {
  outcome = (error as NodeJS.ErrnoException).code;
}
writeSync(1, `${outcome}\n`);
setInterval(() => undefined, 1000);
