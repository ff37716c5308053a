import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BlkFeature } from '../../../generated/virtio/devices/blk/features.js';
import { BlkConfig } from '../../../generated/virtio/devices/blk/layouts.js';
import { BlockDevice, type BlockDeviceOptions } from '../../../runtime/devices/blk/index.js';
import type { DeviceError } from '../../../runtime/errors.js';
import { createFakePlatform } from '../../../runtime/platform/fake.js';
import { decodeExactly } from '../../../runtime/wire/index.js';
import { Disk, SECTOR } from './harness.js';

const WRITEBACK = 32;
const configOf = ({ device }: Disk): BlkConfig => {
  const bytes = new Uint8Array(96);
  bytes.set(device.config.read());
  return decodeExactly(BlkConfig, bytes);
};

const features = suite('offered features');

features('are those that work', () => {
  const { flush, segMax, blkSize, topology, configWce, discard, writeZeroes, mq, ro } = BlkFeature;
  const always = flush | segMax | blkSize | topology;
  const rows: [ConstructorParameters<typeof Disk>[0], bigint][] = [
    [{}, always | configWce | discard | writeZeroes],
    [{ options: { queueCount: 4 } }, always | configWce | discard | writeZeroes | mq],
    [{ image: { canDiscard: false } }, always | configWce | writeZeroes],
    [{ image: { canWriteZeroes: false } }, always | configWce | discard],
    [{ readOnly: true }, always | ro],
  ];
  for (const [disk, expected] of rows) assert.is(new Disk(disk).device.features, expected);
});

features('C28: never SCSI passthrough, nor anything else that is not served', () => {
  assert.is(new Disk({ options: { queueCount: 4 } }).device.features & ~0b111_1110_0110_0100n, 0n);
});

features.run();

const space = suite('the configuration space');

space('says what the disk is', () => {
  const disk = new Disk({
    content: new Uint8Array(5 * 4096),
    image: { blockSize: 4096 },
    options: { queueCount: 3, rangesMax: 7, segmentsMax: 30 },
  });
  const config = configOf(disk);
  assert.is(config.capacity, 40n);
  assert.is(config.segMax, 30);
  assert.is(config.blkSize, 4096);
  assert.is(config.numQueues, 3);
  assert.is(config.writeback, 1);
  assert.is(config.maxDiscardSeg, 7);
  assert.is(config.maxDiscardSectors, 0x3ff800);
  assert.is(config.discardSectorAlignment, 8);
  assert.is(config.maxWriteZeroesSeg, 7);
  assert.is(config.maxWriteZeroesSectors, 0x3ff800);
  assert.is(config.writeZeroesMayUnmap, 1);
  assert.is(disk.device.config.read().byteLength, disk.device.config.size);
});

for (const blockSize of [512, 4096, 1 << 20]) {
  space(`ranges cut at the limits are whole blocks of ${blockSize} bytes`, () => {
    const config = configOf(new Disk({ content: new Uint8Array(4 << 20), image: { blockSize } }));
    const blocks = blockSize / SECTOR;
    assert.is(config.discardSectorAlignment, blocks);
    assert.is(config.maxDiscardSectors % blocks, 0);
    assert.is(config.maxWriteZeroesSectors % blocks, 0);
  });
}

space('leaves the fields of what is not offered at zero', () => {
  const config = configOf(new Disk({ readOnly: true }));
  assert.is(config.maxDiscardSectors, 0);
  assert.is(config.maxWriteZeroesSectors, 0);
  assert.is(config.writeZeroesMayUnmap, 0);
  assert.is(config.writeback, 0);
});

space('a request of seg-max segments, header and status fits into the smallest queue announced', () => {
  assert.is(configOf(new Disk()).segMax, 126);
  assert.is(configOf(new Disk({ options: { queueSize: 64 } })).segMax, 62);
});

space('tells the driver when the capacity changes, once', () => {
  const disk = new Disk({ content: new Uint8Array(4 * SECTOR) });
  disk.device.capacityChanged();
  assert.is(disk.configurationChanges, 0);
  Object.defineProperty(disk.image, 'bytes', { value: new Uint8Array(8 * SECTOR) });
  assert.is(configOf(disk).capacity, 4n, 'not before it is announced');
  disk.device.capacityChanged();
  disk.device.capacityChanged();
  assert.is(disk.configurationChanges, 1);
  assert.is(configOf(disk).capacity, 8n);
});

space('keeps its capacity when the new one cannot be', () => {
  const disk = new Disk({ content: new Uint8Array(4 * SECTOR) });
  Object.defineProperty(disk.image, 'bytes', { value: new Uint8Array(0) });
  assert.throws(() => disk.device.capacityChanged(), /0 bytes/);
  assert.is(disk.configurationChanges, 0);
  assert.is(configOf(disk).capacity, 4n);
});

space('takes writeback and nothing else', () => {
  const { device } = new Disk();
  const present = device.config.read();
  assert.ok(device.config.write(WRITEBACK, Uint8Array.of(0), false));
  assert.is(device.config.read()[WRITEBACK], 0);
  assert.not(device.config.write(WRITEBACK, Uint8Array.of(2), false));
  assert.not(device.config.write(0, Uint8Array.of(99), false));
  assert.ok(device.config.write(0, present, false), 'the whole space, as it was, with writeback on');
  assert.equal(device.config.read(), present);
});

space('restored state may differ in fields that the driver cannot write, which are left as they are', () => {
  const { device } = new Disk();
  const present = device.config.read();
  const restored = present.slice();
  restored[0] = 99;
  restored[WRITEBACK] = 0;
  assert.ok(device.config.write(0, restored, true));
  assert.is(device.config.read()[0], present[0]);
  assert.is(device.config.read()[WRITEBACK], 0);
});

space('writeback starts as the features have it and survives the same features again', () => {
  const { device } = new Disk();
  const all = device.features;
  const writeback = (): number => device.config.read()[WRITEBACK]!;
  device.setFeatures(all & ~BlkFeature.flush);
  assert.is(writeback(), 0);
  device.setFeatures(all);
  assert.is(writeback(), 1);
  device.config.write(WRITEBACK, Uint8Array.of(0), false);
  device.setFeatures(all);
  assert.is(writeback(), 0, 'stopped and continued');
  device.reset();
  device.setFeatures(all);
  assert.is(writeback(), 1, 'another driver');
});

space('a read-only disk has no writeback to set', () => {
  const { device } = new Disk({ readOnly: true });
  assert.not(device.config.write(WRITEBACK, Uint8Array.of(1), false));
});

space.run();

const options = suite('options that cannot be');

const refused: [string, BlockDeviceOptions, RegExp][] = [
  ['no queue', { queueCount: 0 }, /queueCount: 0/],
  ['too many queues', { queueCount: 257 }, /queueCount: 257/],
  ['a queue of 3', { queueSize: 3 }, /queueSize: 3/],
  ['a queue of 32769', { queueSize: 32769 }, /queueSize: 32769/],
  ['half a queue', { queueCount: 1.5 }, /queueCount: 1\.5/],
  ['more segments than a queue takes', { queueSize: 64, segmentsMax: 63 }, /segmentsMax: 63/],
  ['no range', { rangesMax: 0 }, /rangesMax: 0/],
  ['a serial of 21 bytes', { serial: 'ä'.repeat(10) + 'x' }, /serial: .* takes 21 bytes/],
];
for (const [name, given, message] of refused) {
  options(name, () => {
    assert.throws(
      () => new Disk({ options: given }),
      (error: DeviceError) => error.code === 'ERR_DEVICE_CONFIGURATION' && message.test(error.message),
    );
  });
}

options('an image without a whole sector', () => {
  assert.throws(() => new Disk({ content: new Uint8Array(511) }), /size: 511 bytes/);
});

options('a block size that is no power of two', () => {
  assert.throws(() => new Disk({ image: { blockSize: 1000 } }), /block size: 1000/);
});

options('a medium whose positions are not exact', () => {
  const file = createFakePlatform();
  file.addFile('/image', SECTOR);
  const backing = file.openFile('/image', { readOnly: false });
  Object.defineProperty(backing, 'size', { value: (1n << 53n) + 1n });
  assert.throws(() => new BlockDevice(backing), /2\^53/);
});

options.run();
