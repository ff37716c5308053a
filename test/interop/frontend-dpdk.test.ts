/** Our front-end on DPDK's back-end: testpmd with a `net_vhost` port, which sends back what it gets. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { NetFeature } from '../../generated/virtio/devices/net/features.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { PATIENCE, RunningProgram, TemporaryFolder, within } from '../support/guest/processes.js';
import { testpmdPath, threadsOn } from '../support/testpmd.js';

const test = suite('front-end on testpmd net_vhost');

const LIMIT_MS = PATIENCE;
const HEADER_BYTES = 12;
const PACKET_BYTES = 64;

function vhostPort(socket: string): RunningProgram {
  const args = [
    ...['--no-huge', '-m', '128', '--no-pci', '--no-telemetry', `--file-prefix=vhu-vhost-${process.pid}`],
    ...threadsOn(),
    `--vdev=net_vhost0,iface=${socket},queues=1`,
    ...['--', '--no-mlockall', '--total-num-mbufs=8192', '--no-lsc-interrupt'],
    // Without the last it throws away what came before it began to forward.
    ...['--forward-mode=mac', '--auto-start', '-i', '--no-flush-rx'],
  ];
  // It ends with its standard input.
  return new RunningProgram('dpdk-testpmd', testpmdPath!, args, undefined, 'pipe');
}

if (testpmdPath === null) {
  console.log('dpdk-testpmd is not installed: nothing is tested here');
} else {
  for (const format of ['split', 'packed'] as const) {
    for (const order of ['virtio-user', 'qemu'] as const) {
      test(`${format}, order of ${order}: packets go round, memory is plugged, rings stop and go on`, async () => {
        using folder = new TemporaryFolder();
        await using testpmd = vhostPort(folder.file('net'));
        using driver = await testpmd.whileRunning(
          VirtioDriver.start({
            platform: createLinuxPlatform(),
            path: folder.file('net'),
            retry: { attempts: Infinity, delayMilliseconds: 50 },
            format,
            order,
            queues: 2,
            queueSize: 64,
            deviceFeatures: NetFeature.mrgRxbuf,
            signal: AbortSignal.timeout(LIMIT_MS),
          }),
        );
        assert.is(driver.format, format);
        assert.ok((driver.frontend.negotiated.protocol & ProtocolFeature.replyAck) !== 0n);
        const [receiver, transmitter] = driver.queues;
        const received = Array.from({ length: 8 }, () => receiver!.transfer([], [2048]));
        for (const waiting of received) waiting.catch(() => undefined);
        const packet = (n: number) =>
          Uint8Array.from({ length: HEADER_BYTES + PACKET_BYTES }, (_, i) => (i < HEADER_BYTES ? 0 : i + n));
        let next = 0;
        const roundTrip = async (): Promise<void> => {
          const n = next++;
          await within(
            LIMIT_MS,
            transmitter!.transfer([packet(n)]),
            () => `packet ${n} is not taken\n${testpmd.output}`,
          );
          const { bytes } = await within(
            LIMIT_MS,
            received[n]!,
            () => `packet ${n} does not come back\n${testpmd.output}`,
          );
          assert.is(bytes.byteLength, HEADER_BYTES + PACKET_BYTES);
          // Forwarding replaces the two MAC addresses.
          const rest = HEADER_BYTES + 12;
          assert.equal(Uint8Array.from(bytes.subarray(rest)), packet(n).subarray(rest));
        };
        for (let i = 0; i < 3; i++) await roundTrip();
        const added = await driver.addMemory(1 << 20);
        await roundTrip();
        // Trap 1: of a packed ring's base DPDK sends and reads the lower 16 bits only.
        const states = await driver.stopRings();
        assert.equal(
          states.map((state) => [state.nextAvailable, state.nextUsed]),
          [
            [4, 4],
            [4, 4],
          ],
        );
        await driver.resumeRings();
        for (let i = 0; i < 2; i++) await roundTrip();
        await driver.removeMemory(added);
        await roundTrip();
      });
    }
  }
}

test.run();
