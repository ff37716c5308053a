import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { once, platform } from './support.js';

if (process.argv[2] !== undefined) {
  // Uses up every fd while a connection waits, then frees them.
  const listener = platform.listen(process.argv[2]);
  const client = await platform.connect(process.argv[2]);
  const hoard: number[] = [];
  try {
    for (;;) hoard.push(platform.createEventFd());
  } catch {
    // the limit is reached
  }
  let warnings = 0;
  process.on('warning', (warning) => {
    warnings += warning.name === 'PlatformWarning' ? 1 : 0;
    for (const fd of hoard.splice(0)) platform.closeFd(fd);
  });
  const server = await once<Disposable>((done) => listener.onConnection(done));
  console.log('accepted after', warnings, 'warning');
  for (const each of [server, client, listener]) each[Symbol.dispose]();
} else {
  test('a process without free fds rests, says so, and accepts once there are some', () => {
    const folder = mkdtempSync(join(tmpdir(), 'accept-'));
    const script = fileURLToPath(import.meta.url);
    const command = `ulimit -n 100 && exec "${process.execPath}" "${script}" "${join(folder, 's')}"`;
    const child = spawnSync('sh', ['-c', command], { encoding: 'utf8' });
    rmSync(folder, { recursive: true });
    assert.is(child.stdout.trim(), 'accepted after 1 warning', child.stderr);
  });
  test.run();
}
