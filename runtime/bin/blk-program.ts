import { BLK_SECTOR_SIZE } from '../../generated/virtio/devices/blk/layouts.js';
import { openFileBacking } from '../backings/file.js';
import { RamBacking } from '../backings/ram.js';
import { type BlockBacking, BlockDevice } from '../devices/blk/index.js';
import { OptionError } from '../errors.js';
import type { Platform } from '../platform/platform.js';
import { integerOption, type OptionTable, type OptionValues, sizeOption } from './option-table.js';
import { type OpenDevice, runProgram } from './program.js';

const options = {
  'blk-file': { value: 'PATH', help: 'serve this image file or block device' },
  memory: { value: 'SIZE', help: 'serve a RAM disk of this size instead, e.g. 64M' },
  'read-only': { help: 'refuse every write' },
  'num-queues': { value: 'N', help: 'request queues offered, 1 to 256; 1 when absent' },
  'queue-size': { value: 'N', help: 'largest queue accepted, 4 to 32768; 1024 when absent' },
  serial: { value: 'TEXT', help: 'serial number that the guest sees, up to 20 bytes' },
} as const satisfies OptionTable;

runProgram({
  name: 'vhost-user-blk',
  summary:
    'Serves a disk image (virtio-blk) to a virtual machine. After SIGHUP the guest sees the size that the image has then.',
  capabilities: { type: 'block', features: ['read-only', 'blk-file'] },
  options,
  check,
});

function check(values: OptionValues<typeof options>): (platform: Platform) => OpenDevice {
  const readOnly = values['read-only'] === true;
  const queueCount = integerOption('num-queues', values['num-queues'], [1, 256], 1);
  const queueSize = integerOption('queue-size', values['queue-size'], [4, 32768], 1024);
  const { serial } = values;
  if (serial !== undefined && Buffer.byteLength(serial) > 20) {
    throw new OptionError('ERR_OPTION_VALUE', `--serial: "${serial}" is longer than 20 bytes`);
  }
  const openBacking = checkBacking(values, readOnly);
  return (platform) => {
    const backing = openBacking(platform);
    const device = new BlockDevice(backing, {
      queueCount,
      queueSize,
      ...(serial !== undefined && { serial }),
    });
    const image = values['blk-file'] ?? 'memory';
    return {
      device,
      fields: { image, bytes: backing.size, readOnly, queues: queueCount },
      warnings: oddities(backing),
      refresh: () => device.capacityChanged(),
      close: () => backing.close(),
    };
  };
}

/** Nothing that could not be meant: the next process of a migration opens the image beside this one. */
function oddities(backing: BlockBacking): readonly string[] {
  const tail = backing.size % BigInt(BLK_SECTOR_SIZE);
  return [
    ...(tail === 0n ? [] : [`the last ${tail} bytes are less than a sector, and not served`]),
    ...(!backing.readOnly && backing.heldElsewhere?.() === true
      ? ['the image is open for writing elsewhere, or was until just now']
      : []),
  ];
}

function checkBacking(
  { 'blk-file': path, memory }: OptionValues<typeof options>,
  readOnly: boolean,
): (platform: Platform) => BlockBacking {
  if (path !== undefined && memory !== undefined) {
    throw new OptionError('ERR_OPTION_CONFLICT', '--blk-file and --memory exclude each other');
  }
  if (path === '') throw new OptionError('ERR_OPTION_VALUE', '--blk-file: the path is empty');
  if (path !== undefined) return (platform) => openFileBacking(platform, path, { readOnly });
  if (memory === undefined) {
    throw new OptionError('ERR_OPTION_MISSING', '--blk-file or --memory must say what to serve');
  }
  const size = sizeOption('memory', memory);
  if (size < 512n || size > 1n << 50n) {
    throw new OptionError('ERR_OPTION_VALUE', `--memory: ${memory} is not from 512 bytes to 1024T`);
  }
  return (platform) => new RamBacking(platform, size, { readOnly });
}
