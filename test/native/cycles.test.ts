import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bytes, errno, mappingsOf, once, openFds, platform, turn } from './support.js';

test('10,000 connections with memory and an eventfd, a third broken off: fds and mappings stay flat', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'cycles-'));
  const listener = platform.listen(join(folder, 's'));
  const memory = platform.createSharedMemory('cycles', 65536n);
  const eventFd = platform.createEventFd();
  const before = openFds();
  let served = 0;
  listener.onConnection((server) => {
    server.onReadable(() => {
      const fds: number[] = [];
      let count = 0;
      const lost = errno(() => (count = server.receive(new Uint8Array(8), fds)));
      assert.ok(lost === undefined || lost === 'ECONNRESET', lost);
      if (count <= 0) {
        served++;
        return server.close();
      }
      const mapping = platform.map(fds[0]!, 0n, 65536n);
      const watch = platform.watchEventFd(fds[1]!, () => {});
      const failure = errno(() => server.send(bytes(count), []));
      assert.ok(failure === undefined || failure === 'EPIPE', failure);
      watch.close();
      mapping.unmap();
      for (const fd of fds) platform.closeFd(fd);
    });
  });
  for (let i = 0; i < 10_000; i++) {
    const client = await platform.connect(join(folder, 's'));
    client.send(bytes(1, 2, 3), [memory, eventFd]);
    if (i % 3 > 0) await once<void>((done) => client.onReadable(() => done()));
    if (i % 3 === 1) client.receive(new Uint8Array(8), []);
    client.close();
  }
  while (served < 10_000) await turn();
  assert.is(openFds(), before);
  assert.is(mappingsOf('memfd:cycles'), 0);
  listener.close();
  for (const fd of [memory, eventFd]) platform.closeFd(fd);
  rmSync(folder, { recursive: true });
});

test.run();
