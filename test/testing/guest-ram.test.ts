import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createFakePlatform, GuestRam } from '../../runtime/testing/index.js';

const test = suite('guest memory of a mock driver');

test('regions lie in one file one behind the other, with holes between their guest addresses', () => {
  const platform = createFakePlatform();
  using ram = new GuestRam(platform, { size: 64 << 10, regions: 4 });
  const descriptions = ram.memory.regions.map((region) => region.description);
  assert.equal(
    descriptions.map((each) => each.mmapOffset),
    [0n, 16384n, 32768n, 49152n],
  );
  for (const [i, each] of descriptions.entries()) {
    assert.is(each.size, 16384n);
    if (i > 0) assert.ok(each.guestAddress > descriptions[i - 1]!.guestAddress + each.size);
    assert.not(each.userAddress === each.guestAddress);
  }
});

test('the same byte is the same byte by window, guest address and front-end address', () => {
  using ram = new GuestRam(createFakePlatform(), { size: 64 << 10, regions: 2 });
  const buffer = ram.allocate(100, 64, 1);
  buffer.bytes[7] = 42;
  const byGuest = ram.memory.translate(buffer.guestAddress + 7, 1)!;
  const byUser = ram.memory.translateUser(ram.userAddress(buffer) + 7n, 1)!;
  for (const { window, offset } of [byGuest, byUser]) assert.is(ram.platform.windows.u8[window]![offset], 42);
});

test('allocations are zeroed, aligned, apart from one another, and come back whole', () => {
  using ram = new GuestRam(createFakePlatform(), { size: 64 << 10, regions: 2 });
  const all = ram.freeBytes;
  for (let round = 0; round < 3; round++) {
    const buffers = [1, 100, 4096, 17, 300].map((length, i) => ram.allocate(length, 1 << (i + 4)));
    for (const [i, buffer] of buffers.entries()) {
      assert.is(buffer.guestAddress % (1 << (i + 4)), 0);
      assert.ok(buffer.bytes.every((byte) => byte === 0));
      buffer.bytes.fill(i + 1);
    }
    for (const [i, buffer] of buffers.entries()) assert.ok(buffer.bytes.every((byte) => byte === i + 1));
    for (const i of [2, 0, 4, 1, 3]) {
      buffers[i]!.free();
      buffers[i]!.free();
    }
    assert.is(ram.freeBytes, all);
    ram.allocate(32768, 4096).free();
  }
});

test('what does not fit is refused with the reason', () => {
  using ram = new GuestRam(createFakePlatform(), { size: 8192 });
  assert.throws(() => ram.allocate(8193), /no 8193 contiguous bytes/);
  assert.throws(() => ram.allocate(0), /cannot allocate 0 bytes/);
});

test('nothing stays open or mapped, also when making the memory fails half way', () => {
  const platform = createFakePlatform();
  new GuestRam(platform, { regions: 3 })[Symbol.dispose]();
  platform.failNext('mmap', 'ENOMEM', 1);
  assert.throws(() => new GuestRam(platform, { regions: 3 }), /cannot map/);
  assert.is(platform.openFdCount, 0);
  assert.is(platform.mappingCount, 0);
});

test.run();
