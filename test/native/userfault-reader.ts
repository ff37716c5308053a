import { parentPort, workerData } from 'node:worker_threads';
import { platform } from './support.js';

/** What a worker is told: the memory to read in, and through which socket's end it is to be released. */
export interface ReaderTask {
  readonly memory: number;
  readonly size: number;
  readonly peer: number;
  readonly offsets: readonly number[];
}

/** Maps memory whose pages are missing, and reads it as a queue's loop does: the thread stands still until they come. */
function read({ memory, size, peer, offsets }: ReaderTask): void {
  const mapping = platform.map(memory, 0n, BigInt(size));
  const stream = platform.adoptSocket(peer);
  const userfault = platform.openUserfault(stream.kind === 'stream' ? stream : undefined);
  userfault.register(mapping);
  parentPort!.postMessage({ fd: userfault.fd, address: mapping.address });
  const u8 = platform.windows.u8[mapping.firstWindow]!;
  parentPort!.once('message', () => {
    const values = offsets.map((offset) => u8[offset]!);
    const { damaged } = mapping;
    userfault.withdraw();
    mapping.unmap();
    stream.close();
    parentPort!.postMessage({ values, damaged });
  });
}

read(workerData as ReaderTask);
