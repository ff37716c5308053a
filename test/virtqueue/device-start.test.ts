import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { VirtqueueConfiguration, VirtqueueState } from '../../runtime/virtqueue/device-virtqueue.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';
import { TestGuest } from '../support/test-guest.js';
import { packedRig, splitRig } from './device-rig.js';

const test = suite('starting a ring');

const guest = new TestGuest([{ address: 0, size: 0x20_0000 }]);

function start(format: 'split' | 'packed', changes: Partial<VirtqueueConfiguration> = {}): void {
  startDeviceVirtqueue(
    {
      index: 3,
      size: 8,
      format,
      eventIdx: true,
      indirect: true,
      inOrder: false,
      areas: guest.areas(0x1000, 0x2000, 0x3000),
      memory: guest.memory,
      state: initialVirtqueueState(format),
      ...changes,
    },
    guest.windows,
  );
}

function refused(
  format: 'split' | 'packed',
  changes: Partial<VirtqueueConfiguration>,
  message: RegExp,
): void {
  assert.throws(
    () => start(format, changes),
    (error: { code: string; queue: number; message: string }) =>
      error.code === 'ERR_VIRTQ_CONFIGURATION' && error.queue === 3 && message.test(error.message),
    JSON.stringify(changes),
  );
}

test('packed 10: sizes of either format', () => {
  const areas = guest.areas(0x1000, 0x10_0000, 0x18_0000);
  for (const size of [1, 2, 8, 1024, 32768]) start('split', { size, areas });
  for (const size of [1, 2, 3, 5, 7, 100, 32767, 32768]) start('packed', { size, areas });
  for (const size of [0, -1, 3, 100, 65536, 32769, 1.5, NaN])
    refused('split', { size, areas }, /power of two/);
  for (const size of [0, -1, 32769, 65536, 1.5, NaN]) refused('packed', { size, areas }, /1 to 32768/);
});

test('the longest chain through a table is bounded', () => {
  for (const chainLimit of [0, 1, 126, 0x10_0000]) start('split', { chainLimit });
  for (const chainLimit of [-1, 0x10_0001, 1.5, NaN]) refused('packed', { chainLimit }, /longest chain/);
});

test('areas must be aligned', () => {
  start('split', { areas: guest.areas(0x1010, 0x2002, 0x3004) });
  refused('split', { areas: guest.areas(0x1008, 0x2000, 0x3000) }, /descriptor table: must be aligned to 16/);
  refused('split', { areas: guest.areas(0x1000, 0x2001, 0x3000) }, /available ring: must be aligned to 2/);
  refused('split', { areas: guest.areas(0x1000, 0x2000, 0x3002) }, /used ring: must be aligned to 4/);
  start('packed', { areas: guest.areas(0x1010, 0x2004, 0x3004) });
  refused('packed', { areas: guest.areas(0x1008, 0x2000, 0x3000) }, /descriptor ring: must be aligned to 16/);
  refused(
    'packed',
    { areas: guest.areas(0x1000, 0x2002, 0x3000) },
    /driver event suppression: must be aligned to 4/,
  );
  refused(
    'packed',
    { areas: guest.areas(0x1000, 0x2000, 0x3001) },
    /device event suppression: must be aligned to 4/,
  );
});

test('areas must lie in memory as a whole, the event words included', () => {
  const end = 0x20_0000;
  start('split', { areas: guest.areas(end - 128, 0x2000, 0x3000) });
  refused('split', { areas: guest.areas(end - 112, 0x2000, 0x3000) }, /descriptor table: 128 bytes/);
  start('split', { areas: guest.areas(0x1000, end - 22, 0x3000) });
  refused('split', { areas: guest.areas(0x1000, end - 20, 0x3000) }, /available ring: 22 bytes/);
  start('split', { areas: guest.areas(0x1000, end - 20, 0x3000), eventIdx: false });
  refused('split', { areas: guest.areas(0x1000, 0x2000, end - 68) }, /used ring: 70 bytes/);
  start('split', { areas: guest.areas(0x1000, 0x2000, end - 68), eventIdx: false });
  refused('packed', { areas: guest.areas(end - 112, 0x2000, 0x3000) }, /descriptor ring: 128 bytes/);
  for (const driver of [
    { window: 99, offset: 0 },
    { window: 0, offset: -16 },
    { window: 0, offset: 0.5 },
  ]) {
    refused(
      'packed',
      { areas: { ...guest.areas(0x1000, 0x2000, 0x3000), driver } },
      /do not lie in mapped memory/,
    );
  }
});

test('packed 43: saved state must be of the format and in range', () => {
  const packed = { format: 'packed', nextAvailable: 0, availableWrap: 1, nextUsed: 0, usedWrap: 1 } as const;
  start('split', { state: { format: 'split', nextAvailable: 0xffff, nextUsed: 0xfff0 } });
  start('packed', { state: { ...packed, nextAvailable: 7, usedWrap: 0 } });
  refused('split', { state: packed }, /state of a packed ring/);
  refused('packed', { state: initialVirtqueueState('split') }, /state of a split ring/);
  for (const nextAvailable of [-1, 0x1_0000, 0.5, NaN]) {
    refused('split', { state: { format: 'split', nextAvailable, nextUsed: 0 } }, /next available/);
  }
  refused('split', { state: { format: 'split', nextAvailable: 0, nextUsed: 0x1_0000 } }, /next used/);
  refused('packed', { state: { ...packed, nextAvailable: 8 } }, /next available must be below 8/);
  refused('packed', { state: { ...packed, nextUsed: 8 } }, /next used/);
  refused('packed', { state: { ...packed, usedWrap: 2 } as unknown as VirtqueueState }, /used wrap counter/);
});

test('packed 42, packed 46: a fresh ring stands at its start and writes nothing before it is told to', () => {
  const before = guest.bytes(0x1000, 0x3000).slice();
  start('split');
  start('packed');
  assert.equal(guest.bytes(0x1000, 0x3000), before);
  assert.equal(splitRig().queue.state(), { format: 'split', nextAvailable: 0, nextUsed: 0 });
  assert.equal(packedRig().queue.state(), {
    format: 'packed',
    nextAvailable: 0,
    availableWrap: 1,
    nextUsed: 0,
    usedWrap: 1,
  });
});

test.run();
