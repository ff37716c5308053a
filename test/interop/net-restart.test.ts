/** vhost-user-net is ended or killed and started again, while a driver in user space that listens for it sends and receives. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { daemonPath } from '../support/guest/daemon.js';
import { eventually, RunningProgram, TemporaryFolder } from '../support/guest/processes.js';
import { Testpmd, testpmdPath } from '../support/testpmd.js';

const test = suite('testpmd, as a server, with a vhost-user-net that is restarted');

const PAIRS = 2;
const RESTARTS = 6;

function startDaemon(socket: string): RunningProgram {
  return new RunningProgram('vhost-user-net', process.execPath, [
    daemonPath('vhost-user-net'),
    ...[`--socket-path=${socket}`, '--connect', '--port=echo', `--queue-pairs=${PAIRS}`],
  ]);
}

/**
 * DPDK looks whether its back-end is there only when it is asked for the state of the link: once it sees that it is gone, the
 * next time it takes another. It must have seen that before anything else is sent there, since it does not survive SIGPIPE.
 */
async function link(testpmd: Testpmd, state: 'up' | 'down'): Promise<void> {
  await eventually(
    async () => (await testpmd.run('show port info 0')).includes(`Link status: ${state}`),
    () => `the link is not ${state}\n${testpmd.program.output.slice(-2000)}`,
  );
}

/** Packets per queue of a port, sent and received. */
async function queueCounts(testpmd: Testpmd): Promise<number[]> {
  const printed = await testpmd.run('show port xstats 0');
  const counts: number[] = [];
  for (let queue = 0; queue < PAIRS; queue++) {
    for (const way of ['rx', 'tx']) {
      counts.push(Number(new RegExp(`${way}_q${queue}_\\w*packets: (\\d+)`).exec(printed)?.[1]));
    }
  }
  return counts;
}

if (testpmdPath === null) {
  console.log('dpdk-testpmd is not installed: nothing is tested here');
} else {
  for (const packed_vq of [0, 1]) {
    test(`packed_vq=${packed_vq}: traffic goes on in both pairs after each of ${RESTARTS} restarts`, async () => {
      using folder = new TemporaryFolder();
      const socket = folder.file('net');
      let daemon = startDaemon(socket);
      try {
        await using testpmd = await Testpmd.start(socket, { queues: PAIRS, packed_vq, server: 1 }, [
          `--rxq=${PAIRS}`,
          `--txq=${PAIRS}`,
        ]);
        await testpmd.run('set fwd flowgen', 'start');
        await testpmd.until('traffic', ({ received }) => received >= 2000);
        for (let restart = 0; restart < RESTARTS; restart++) {
          const signal = restart % 2 === 0 ? 'SIGTERM' : 'SIGKILL';
          const exit = await daemon.terminate(signal);
          assert.equal(exit, signal === 'SIGTERM' ? { status: 0, signal: null } : { status: null, signal });
          assert.not.match(daemon.output, /level=error/);
          await link(testpmd, 'down');
          const before = await queueCounts(testpmd);
          daemon = startDaemon(socket);
          await eventually(
            () => daemon.output.includes('a front-end connected'),
            () => `the daemon does not reach testpmd\n${daemon.output}`,
          );
          await link(testpmd, 'up');
          await eventually(
            async () => (await queueCounts(testpmd)).every((count, i) => count >= before[i]! + 1000),
            () =>
              `traffic does not go on after ${signal} ${restart}\n${testpmd.program.output.slice(-2000)}\n${daemon.output}`,
          );
        }
        assert.equal(await daemon.terminate(), { status: 0, signal: null });
        assert.match(
          daemon.output,
          /transmitMalformed=0 .*receiveBadBuffers=0|receiveBadBuffers=0 .*transmitMalformed=0/,
        );
      } finally {
        await daemon[Symbol.asyncDispose]();
      }
    });
  }
}

test.run();
