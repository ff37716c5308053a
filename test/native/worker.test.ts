import { spawnSync } from 'node:child_process';
import { on } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { mappingsOf, once, openFds, platform, turn } from './support.js';
import type { Task } from './worker-side.js';

const script = fileURLToPath(import.meta.url);

async function serveOnce(end: Task['end']): Promise<void> {
  const folder = mkdtempSync(join(dirname(script), 'worker-'));
  const image = join(folder, 'image');
  writeFileSync(image, Buffer.alloc(4096, 0xd1));
  const memory = platform.createSharedMemory('worker', 65536n);
  const mapping = platform.map(memory, 0n, 65536n);
  const u8 = platform.windows.u8[mapping.firstWindow]!;
  const [kick, call] = [platform.createEventFd(), platform.createEventFd()];
  u8[0] = 41;
  const worker = new Worker(new URL('./worker-side.js', import.meta.url), {
    workerData: { memory, kick, call, image, end } satisfies Task,
  });
  const messages = on(worker, 'message');
  const left = once<number>((done) => worker.once('exit', done));
  assert.equal((await messages.next()).value, ['ready']);
  const called = once<void>((done) => {
    const watch = platform.watchEventFd(call, () => {
      watch.close();
      done();
    });
  });
  platform.signalEventFd(kick);
  await called;
  assert.equal([u8[1], u8[16], u8[17]], [42, 41, 42]);
  if (end === 'exit') assert.equal((await messages.next()).value, [4096]);
  assert.is(u8[4096], 0xd1);
  if (end !== 'exit') await worker.terminate();
  await left;
  mapping.unmap();
  for (const fd of [memory, kick, call]) platform.closeFd(fd);
  rmSync(folder, { recursive: true });
}

if (process.argv[2] === 'worker-only') {
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

  test('a worker that is terminated while the disk writes: the memory stays until the process ends', async () => {
    await serveOnce('write');
    await serveOnce('write');
  });

  test('the SIGBUS handler outlives the worker that installed it', () => {
    const child = spawnSync(process.execPath, [script, 'worker-only']);
    assert.is(child.signal, 'SIGBUS', String(child.stderr));
  });

  test.run();
}
