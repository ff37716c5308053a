import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { blockDevice } from '../support/guest/block-matrix.js';
import { startDaemon } from '../support/guest/daemon.js';
import { checksumScript, ModelDisk } from '../support/guest/disk.js';
import { Guest } from '../support/guest/guest.js';
import { configureCard, ipAddress, networkCard, ping, transfer } from '../support/guest/network.js';
import { TemporaryFolder } from '../support/guest/processes.js';

/** Guests whose devices lie behind an emulated Intel IOMMU, so that the daemon has to ask QEMU what addresses mean. */
const test = suite('behind an IOMMU');

const MIB = 1 << 20;
const DISK = 8 * MIB;
const ACCESS_PLATFORM = 33;
/** Its guest's driver flushes the device's IOTLB (ATS) only behind a root port; QEMU 7.2 tells of lazy unmapping only then. */
const VIRTUAL_IOMMU = [
  ...['-device', 'intel-iommu,intremap=on,device-iotlb=on'],
  ...['-device', 'pcie-root-port,id=rp0,chassis=1,slot=1'],
];
const BEHIND_IT = ',bus=rp0,disable-legacy=on,iommu_platform=on,ats=on';

async function withDisk(
  options: {
    readonly iommu: readonly string[];
    readonly device: string;
    readonly kernel: string;
    readonly queues: number;
  },
  check: (guest: Guest, disk: ModelDisk) => Promise<void>,
): Promise<string> {
  using folder = new TemporaryFolder();
  const disk = new ModelDisk(folder.file('disk'), DISK, 33);
  const socket = folder.file('blk');
  await using daemon = await startDaemon('vhost-user-blk', socket, [
    `--blk-file=${disk.path}`,
    `--num-queues=${options.queues}`,
  ]);
  await using guest = await Guest.boot({
    devices: [...options.iommu, ...blockDevice(socket, `,num-queues=${options.queues}${options.device}`)],
    cpus: options.queues,
    kernelArguments: options.kernel,
  });
  const features = await guest.read('cat /sys/bus/virtio/devices/virtio0/features');
  assert.is(features[ACCESS_PLATFORM], '1', 'the driver has ACCESS_PLATFORM');
  await check(guest, disk);
  await guest.powerOff();
  assert.equal(await daemon.terminate(), { status: 0, signal: null });
  assert.is(disk.difference(), null);
  return daemon.output;
}

async function exercise(guest: Guest, disk: ModelDisk): Promise<void> {
  assert.is(await guest.read(checksumScript()), disk.checksum, 'the whole disk, read in the guest');
  await disk.copyAround(guest, 24);
  assert.is(disk.difference(), null, 'random writes followed by fsync are in the file');
  await disk.discard(guest, MIB, 2 * MIB);
  await disk.writeZeroes(guest, 4 * MIB + 4096, MIB + 512 * 3);
  assert.is(await guest.read(checksumScript()), disk.checksum, 'after all of it');
}

for (const ring of ['split', 'packed']) {
  for (const mode of ['iommu.strict=1', 'iommu.strict=0', 'iommu=pt']) {
    test(`a disk, ${ring}, ${mode}: reads and writes are right to the byte`, async () => {
      const output = await withDisk(
        {
          iommu: VIRTUAL_IOMMU,
          device: `${BEHIND_IT},packed=${ring === 'packed' ? 'on' : 'off'}`,
          kernel: `intel_iommu=on ${mode}`,
          queues: 2,
        },
        exercise,
      );
      assert.not.match(output, /level=(warn|error)/);
    });
  }
}

test('the guest reboots behind its IOMMU', async () => {
  await withDisk(
    { iommu: VIRTUAL_IOMMU, device: BEHIND_IT, kernel: 'intel_iommu=on', queues: 1 },
    async (guest, disk) => {
      await exercise(guest, disk);
      await guest.reboot();
      await exercise(guest, disk);
      await guest.reset();
      await exercise(guest, disk);
    },
  );
});

test('ACCESS_PLATFORM without an IOMMU: addresses are what they are without it', async () => {
  await withDisk(
    { iommu: [], device: ',disable-legacy=on,iommu_platform=on', kernel: '', queues: 1 },
    exercise,
  );
});

for (const ring of ['split', 'packed']) {
  test(`two network cards, ${ring}: every byte arrives`, async () => {
    using folder = new TemporaryFolder();
    const sockets = [folder.file('a'), folder.file('b')] as const;
    await using daemon = await startDaemon('vhost-user-net', sockets[1], [
      `--socket-path=${sockets[0]}`,
      '--port=switch',
    ]);
    const boot = async (number: 1 | 2): Promise<Guest> => {
      const properties = [...BEHIND_IT.slice(1).split(','), `packed=${ring === 'packed' ? 'on' : 'off'}`];
      const guest = await Guest.boot({
        devices: [...VIRTUAL_IOMMU, ...networkCard(sockets[number - 1]!, { number, properties })],
        kernelArguments: 'intel_iommu=on',
      });
      await configureCard(guest, number);
      return guest;
    };
    await using first = await boot(1);
    await using second = await boot(2);
    for (const guest of [first, second]) {
      const features = await guest.read('cat /sys/bus/virtio/devices/virtio0/features');
      assert.is(features[ACCESS_PLATFORM], '1', 'the driver has ACCESS_PLATFORM');
    }
    await ping(first, ipAddress(2));
    await transfer(first, second, ipAddress(2), 1);
    await transfer(second, first, ipAddress(1), 1);
    await first.powerOff();
    await second.powerOff();
    assert.equal(await daemon.terminate(), { status: 0, signal: null });
    // QEMU closes the back-end channel before the main socket, which is worth a warning.
    assert.not.match(daemon.output, /level=error/);
  });
}

test.run();
