import { rmSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { daemonPath, startDaemon } from '../support/guest/daemon.js';
import { eventually, RunningProgram, TemporaryFolder } from '../support/guest/processes.js';
import { Testpmd, testpmdPath } from '../support/testpmd.js';

const test = suite('testpmd as the driver of vhost-user-net');

const LENGTHS = [64, 1500];

/** The daemon's own counts, from its last word on them. */
async function traffic(daemon: RunningProgram): Promise<Record<string, number>> {
  const line = await eventually(
    () => daemon.output.split('\n').findLast((each) => each.includes('"traffic so far"')) ?? null,
    () => `no word on traffic\n${daemon.output}`,
  );
  const pairs = line.matchAll(/(\w+)=(\d+)(?=\s|$)/g);
  return Object.fromEntries([...pairs].map(([, name, value]) => [name!, Number(value)]));
}

/** What may not happen to any packet. */
function assertNoLoss(counts: Record<string, number>): void {
  for (const name of ['transmitMalformed', 'receiveOversize', 'receiveOverrun', 'receiveBadBuffers']) {
    assert.is(counts[name], 0, name);
  }
}

async function disposeAll(programs: readonly AsyncDisposable[]): Promise<void> {
  for (const each of programs) await each[Symbol.asyncDispose]();
}

/** Packets go round and round; then the driver takes in what is still under way. Gives how many it sent in all. */
async function loop(testpmd: Testpmd, length: number): Promise<number> {
  const before = await testpmd.counts();
  await testpmd.run('set fwd io', `set txpkts ${length}`, 'start tx_first 2');
  await testpmd.until(`a loop of ${length} bytes`, ({ received }) => received >= before.received + 5000);
  await testpmd.run('stop', 'set fwd rxonly', 'start');
  const { sent } = await testpmd.until('all come back', (counts) => counts.received === counts.sent);
  await testpmd.run('stop');
  return sent;
}

if (testpmdPath === null) {
  console.log('dpdk-testpmd is not installed: nothing is tested here');
} else {
  for (const packed of [0, 1]) {
    for (const inOrder of [0, 1]) {
      for (const mergeable of [0, 1]) {
        const device = { queues: 1, packed_vq: packed, in_order: inOrder, mrg_rxbuf: mergeable };
        test(`echo: packed_vq=${packed} in_order=${inOrder} mrg_rxbuf=${mergeable}`, async () => {
          using folder = new TemporaryFolder();
          await using daemon = await startDaemon('vhost-user-net', folder.file('net'), ['--port=echo']);
          await using testpmd = await Testpmd.start(folder.file('net'), device);
          let sent = 0;
          for (const length of LENGTHS) sent = await loop(testpmd, length);
          await testpmd.quit();
          const counts = await traffic(daemon);
          assert.equal([counts['transmitted'], counts['received']], [sent, sent]);
          assertNoLoss(counts);
          assert.equal(await daemon.terminate(), { status: 0, signal: null });
        });
      }
    }

    test(`two cards of a daemon that polls, each with a driver at the same time: packed_vq=${packed}`, async () => {
      using folder = new TemporaryFolder();
      const sockets = ['a', 'b'].map((name) => folder.file(name)) as [string, string];
      const args = [`--socket-path=${sockets[1]}`, '--port=echo', '--poll'];
      await using daemon = await startDaemon('vhost-user-net', sockets[0], args);
      const drivers: Testpmd[] = [];
      await using _drivers = { [Symbol.asyncDispose]: () => disposeAll(drivers) };
      for (const socket of sockets) {
        drivers.push(await Testpmd.start(socket, { queues: 1, packed_vq: packed }));
      }
      await Promise.all(drivers.map((driver) => loop(driver, 64)));
      for (const driver of drivers) await driver.quit();
      const counts = await traffic(daemon);
      assert.is(counts['transmitted'], counts['received']);
      assertNoLoss(counts);
      assert.equal(await daemon.terminate(), { status: 0, signal: null });
    });

    test(`two pairs: packed_vq=${packed}`, async () => {
      using folder = new TemporaryFolder();
      const socket = folder.file('net');
      await using daemon = await startDaemon('vhost-user-net', socket, ['--port=echo', '--queue-pairs=2']);
      await using testpmd = await Testpmd.start(socket, { queues: 2, packed_vq: packed }, [
        '--rxq=2',
        '--txq=2',
      ]);
      const sent = await loop(testpmd, 64);
      const printed = await testpmd.run('set fwd io', 'start tx_first 1', 'stop');
      for (const queue of [0, 1]) {
        assert.match(printed, new RegExp(`RX Port= 0/Queue= ?${queue} -> TX Port= 0/Queue= ?${queue}`));
      }
      await testpmd.quit();
      const counts = await traffic(daemon);
      assert.ok(counts['transmitted']! > sent);
      assertNoLoss(counts);
    });

    for (const length of LENGTHS) {
      test(`transmit of ${length} bytes: packed_vq=${packed}`, async () => {
        using folder = new TemporaryFolder();
        await using daemon = await startDaemon('vhost-user-net', folder.file('net'), ['--port=sink']);
        await using testpmd = await Testpmd.start(folder.file('net'), { queues: 1, packed_vq: packed });
        await testpmd.run('set fwd txonly', `set txpkts ${length}`, 'start');
        await testpmd.until('sending', ({ sent }) => sent >= 20_000);
        await testpmd.run('stop');
        const { sent } = await testpmd.counts();
        await testpmd.quit();
        const counts = await traffic(daemon);
        assert.equal([counts['transmitted'], counts['transmittedBytes']], [sent, sent * length]);
        assertNoLoss(counts);
      });

      test(`receive of ${length} bytes: packed_vq=${packed}`, async () => {
        using folder = new TemporaryFolder();
        const source = `--port=source:${length}`;
        await using daemon = await startDaemon('vhost-user-net', folder.file('net'), [source]);
        await using testpmd = await Testpmd.start(folder.file('net'), { queues: 1, packed_vq: packed });
        await testpmd.run('set fwd rxonly', 'start');
        await testpmd.until('receiving', ({ received }) => received >= 20_000);
        await testpmd.run('stop');
        const { received } = await testpmd.counts();
        await testpmd.quit();
        const counts = await traffic(daemon);
        // What the driver has not looked at lies in its ring.
        const unseen = counts['received']! - received;
        assert.ok(unseen >= 0 && unseen <= 1024, `${unseen} unseen`);
        assert.is(counts['receivedBytes'], counts['received']! * length);
        assertNoLoss(counts);
      });
    }
  }

  test('server=1: we connect, and find the driver again after it was killed', async () => {
    using folder = new TemporaryFolder();
    const socket = folder.file('net');
    await using daemon = new RunningProgram('vhost-user-net', process.execPath, [
      daemonPath('vhost-user-net'),
      ...[`--socket-path=${socket}`, '--connect', '--port=echo'],
    ]);
    const device = { queues: 1, packed_vq: 1, server: 1 };
    await using first = await Testpmd.start(socket, device);
    await loop(first, 64);
    await first.run('set fwd io', 'start tx_first 2');
    await first.program.terminate('SIGKILL');
    // DPDK does not replace the socket that it left behind.
    rmSync(socket);
    await using second = await Testpmd.start(socket, device);
    const sent = await loop(second, 64);
    assert.ok(sent >= 5000);
    await second.quit();
    assert.match(daemon.output, /the session ended/);
    assert.equal(await daemon.terminate(), { status: 0, signal: null });
  });

  test('a driver that is killed in full flight leaves a daemon that serves the next one', async () => {
    using folder = new TemporaryFolder();
    const socket = folder.file('net');
    await using daemon = await startDaemon('vhost-user-net', socket, ['--port=echo']);
    for (const packed_vq of [0, 1, 0]) {
      await using testpmd = await Testpmd.start(socket, { queues: 1, packed_vq });
      await testpmd.run('start tx_first 4');
      await testpmd.until('a loop', ({ received }) => received >= 1000);
      await testpmd.program.terminate('SIGKILL');
    }
    await using testpmd = await Testpmd.start(socket, { queues: 1, packed_vq: 1 });
    assert.ok((await loop(testpmd, 1500)) >= 5000);
    assert.is(daemon.exit, null);
  });
}

test.run();
