import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockOperation } from '../../runtime/platform/platform.js';
import { mappingsOf, once, openFds, platform, turn } from './support.js';

const script = fileURLToPath(import.meta.url);

interface Task {
  readonly memory: number;
  readonly kick: number;
  readonly call: number;
  readonly image: string;
  readonly end: 'exit' | 'stay';
}

/** What a queue in a worker does: its own mapping of the same file, its own watch of the same eventfds. */
function serve({ memory, kick, call, image, end }: Task): void {
  const mapping = platform.map(memory, 0n, 65536n);
  const u8 = platform.windows.u8[mapping.firstWindow]!;
  const file = platform.openFile(image, { readOnly: false });
  const segments = Int32Array.of(mapping.firstWindow, 4096, 4096, 0);
  const watch = platform.watchEventFd(kick, () => {
    u8[1] = u8[0]! + 1;
    platform.copies.entries.set([mapping.firstWindow, 0, mapping.firstWindow, 16, 2]);
    platform.copies.run(1);
    file.queue(BlockOperation.read, 1, 0, 0, segments, 0, 1);
    const result = file.submit() === 1 ? file.completions[1] : 'later';
    platform.signalEventFd(call);
    if (end !== 'exit') return;
    watch.close();
    mapping.unmap();
    void file.close().then(() => parentPort!.postMessage(result));
  });
  parentPort!.postMessage('ready');
}

async function serveOnce(end: Task['end']): Promise<void> {
  const folder = mkdtempSync(join(dirname(script), 'worker-'));
  const image = join(folder, 'image');
  writeFileSync(image, Buffer.alloc(4096, 0xd1));
  const memory = platform.createSharedMemory('worker', 65536n);
  const mapping = platform.map(memory, 0n, 65536n);
  const u8 = platform.windows.u8[mapping.firstWindow]!;
  const [kick, call] = [platform.createEventFd(), platform.createEventFd()];
  u8[0] = 41;
  const worker = new Worker(script, { workerData: { memory, kick, call, image, end } satisfies Task });
  await once((done) => worker.once('message', done));
  const called = once<void>((done) => {
    const watch = platform.watchEventFd(call, () => {
      watch.close();
      done();
    });
  });
  platform.signalEventFd(kick);
  await called;
  assert.equal([u8[1], u8[16], u8[17]], [42, 41, 42]);
  if (end === 'exit') assert.is(await once((done) => worker.once('message', done)), 4096);
  assert.is(u8[4096], 0xd1);
  const left = once<number>((done) => worker.once('exit', done));
  if (end === 'stay') await worker.terminate();
  await left;
  mapping.unmap();
  for (const fd of [memory, kick, call]) platform.closeFd(fd);
  rmSync(folder, { recursive: true });
}

if (!isMainThread) {
  serve(workerData as Task);
} else if (process.argv[2] === 'worker-only') {
  // The main thread has loaded the addon too (support.ts), but has mapped nothing.
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads');
    import(${JSON.stringify(new URL('./support.js', import.meta.url).href)}).then(({ mapped }) => {
      mapped(4096);
      parentPort.postMessage('mapped');
    });`,
    { eval: true },
  );
  await once((done) => worker.once('message', done));
  await worker.terminate();
  process.kill(process.pid, 'SIGBUS');
} else {
  test('a worker serves with mappings and watches of its own, and exits when all is closed', async () => {
    await serveOnce('exit');
    const fds = openFds();
    await serveOnce('exit');
    await turn();
    assert.is(openFds(), fds);
    assert.is(mappingsOf('memfd:worker'), 0);
  });

  test('a worker that is terminated in the middle leaves no fd of the addon’s and no mapping', async () => {
    await serveOnce('stay');
    const fds = openFds();
    for (let i = 0; i < 5; i++) await serveOnce('stay');
    await turn();
    // Its image and the fds of its I/O engine were closed at the environment's end.
    assert.is(openFds(), fds);
    assert.is(mappingsOf('memfd:worker'), 0);
  });

  test('the SIGBUS handler outlives the worker that installed it', () => {
    const child = spawnSync(process.execPath, [script, 'worker-only']);
    assert.is(child.signal, 'SIGBUS', String(child.stderr));
  });

  test.run();
}
