import { parentPort, workerData } from 'node:worker_threads';
import { BlockOperation } from '../../runtime/platform/platform.js';
import { mapped, platform } from './support.js';

export interface Task {
  readonly memory: number;
  readonly kick: number;
  readonly call: number;
  readonly image: string;
  /** What happens after the first kick: all is closed; nothing is; or a long write is started. */
  readonly end: 'exit' | 'stay' | 'write';
}

/** What a queue in a worker does: its own mapping of the same file, its own watch of the same eventfds. */
function serve({ memory, kick, call, image, end }: Task): void {
  const mapping = platform.map(memory, 0n, 65536n);
  const u8 = platform.windows.u8[mapping.firstWindow]!;
  const file = platform.openFile(image, { readOnly: false });
  const segments = Int32Array.of(mapping.firstWindow, 4096, 4096, 0);
  const watch = platform.watchEventFd(kick, () => {
    u8[1] = u8[0]! + 1;
    platform.copies.entries.set([mapping.firstWindow, 0, mapping.firstWindow, 16, 2, 0]);
    platform.copies.run(1);
    file.queue(BlockOperation.read, 1, 0, 0, segments, 0, 1);
    const result = file.submit() === 1 ? file.completions[1] : 'later';
    platform.signalEventFd(call);
    if (end === 'write') startLongWrite(image);
    if (end !== 'exit') return;
    watch.close();
    mapping.unmap();
    void file.close().then(() => parentPort!.postMessage(result));
  });
  parentPort!.postMessage('ready');
}

/** Leaves an operation under way. */
function startLongWrite(image: string): void {
  const LENGTH = 64 << 20;
  const { window } = mapped(LENGTH, 'long write');
  const file = platform.openFile(image, { readOnly: false });
  file.queue(BlockOperation.write, 1, 0, 0, Int32Array.of(window, 0, LENGTH, 0), 0, 1);
  file.submit();
}

serve(workerData as Task);
