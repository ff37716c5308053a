import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startDaemon } from './daemon.js';
import { checksumScript, ModelDisk } from './disk.js';
import { Guest } from './guest.js';
import { TemporaryFolder } from './processes.js';

const MIB = 1 << 20;
const DISK = 8 * MIB;

/** Bit numbers of the feature word, as the guest shows it. */
export const featureBit = {
  readOnly: 5,
  flush: 9,
  multiqueue: 12,
  discard: 13,
  writeZeroes: 14,
  indirectDesc: 28,
  eventIdx: 29,
  version1: 32,
  ringPacked: 34,
} as const;

/** Which of the bits above the guest's driver and the device agreed on. */
export async function negotiated(
  guest: Guest,
  device = 'virtio0',
): Promise<Record<keyof typeof featureBit, boolean>> {
  const word = await guest.read(`cat /sys/bus/virtio/devices/${device}/features`);
  const bits = Object.entries(featureBit).map(([name, bit]) => [name, word[bit] === '1']);
  return Object.fromEntries(bits) as Record<keyof typeof featureBit, boolean>;
}

/** QEMU's arguments for a vhost-user disk. */
export function blockDevice(socket: string, options = ''): string[] {
  return [
    ...['-chardev', `socket,id=c0,path=${socket},reconnect=1`],
    ...['-device', `vhost-user-blk-pci,id=disk0,chardev=c0${options}`],
  ];
}

/** One test for each combination of queues, event idx and indirect descriptors over one ring format. */
export function testBlockMatrix(ring: 'split' | 'packed'): void {
  for (const queues of [1, 4]) {
    for (const eventIdx of [false, true]) {
      for (const indirect of [false, true]) {
        const onOff = (on: boolean): string => (on ? 'on' : 'off');
        const name = `${ring}, ${queues} queues, event idx ${onOff(eventIdx)}, indirect ${onOff(indirect)}`;
        test(`${name}: the guest's reads and writes are right to the byte`, async () => {
          using folder = new TemporaryFolder();
          const disk = new ModelDisk(
            folder.file('disk'),
            DISK,
            queues * 4 + Number(eventIdx) * 2 + Number(indirect),
          );
          const socket = folder.file('blk');
          await using daemon = await startDaemon('vhost-user-blk', socket, [
            `--blk-file=${disk.path}`,
            `--num-queues=${queues}`,
          ]);
          const options = [
            `num-queues=${queues}`,
            `packed=${onOff(ring === 'packed')}`,
            `event_idx=${onOff(eventIdx)}`,
            `indirect_desc=${onOff(indirect)}`,
          ];
          await using guest = await Guest.boot({
            devices: blockDevice(socket, `,${options.join(',')}`),
            cpus: queues,
          });
          const features = await negotiated(guest);
          assert.equal(features, {
            readOnly: false,
            flush: true,
            multiqueue: queues > 1,
            discard: true,
            writeZeroes: true,
            indirectDesc: indirect,
            eventIdx,
            version1: true,
            ringPacked: ring === 'packed',
          });
          assert.is(await guest.read('ls /sys/block/vda/mq | wc -l'), String(queues));

          assert.is(await guest.read(checksumScript()), disk.checksum, 'the whole disk, read in the guest');
          await readOnEveryQueue(guest, disk, queues);

          await disk.copyAround(guest, 24);
          assert.is(disk.difference(), null, 'random writes followed by fsync are in the file');

          await disk.discard(guest, MIB, 2 * MIB);
          await disk.writeZeroes(guest, 4 * MIB + 4096, MIB + 512 * 3);
          assert.is(disk.difference(), null, 'discard and write zeroes');
          assert.is(await guest.read(checksumScript()), disk.checksum, 'after all of it');
          await guest.powerOff();

          assert.equal(await daemon.terminate(), { status: 0, signal: null });
          assert.is(disk.difference(), null);
        });
      }
    }
  }
}

/** Reads one part of the disk on each processor at the same time, which has each use its own queue. */
async function readOnEveryQueue(guest: Guest, disk: ModelDisk, queues: number): Promise<void> {
  const part = DISK / queues;
  const script = Array.from(
    { length: queues },
    (_, i) =>
      `(taskset ${(1 << i).toString(16)} dd if=/dev/vda bs=64k skip=${(i * part) / 65536} count=${part / 65536} iflag=direct 2> /run/dd${i} | md5sum > /run/sum${i}) &`,
  );
  const sums = await guest.read(`${script.join('\n')}\nwait\ncat /run/sum?`);
  assert.equal(
    sums.split('\n').map((line) => line.split(' ')[0]),
    Array.from({ length: queues }, (_, i) => disk.checksumOf(i * part, part)),
  );
}
