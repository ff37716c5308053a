/** A front-end's memory as it grows and shrinks. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SharedMemory } from '../../runtime/memory/shared-memory.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';

const test = suite('shared memory');

test('a region lies in a file of its own when asked for, each without an mmap offset', () => {
  const platform = createFakePlatform();
  const memory = new SharedMemory(platform, { size: 1 << 16, regions: 4, filePerRegion: true });
  assert.is(new Set(memory.regions.map(({ fd }) => fd)).size, 4);
  assert.ok(memory.regions.every(({ region }) => region.description.mmapOffset === 0n));
  memory[Symbol.dispose]();
  assert.is(platform.openFdCount, 0);
  assert.is(platform.mappingCount, 0);
});

test('a region is added behind the others; what was there stays where it is', () => {
  const platform = createFakePlatform();
  const memory = new SharedMemory(platform, { size: 1 << 16, regions: 2 });
  const before = memory.memory;
  const old = memory.allocate(100);
  old.bytes.fill(7);
  const added = memory.addRegion(5000);
  assert.is(added.region.description.size, 8192n, 'whole pages');
  assert.is(memory.memory.count, 3);
  assert.is(before.count, 2, 'a snapshot does not change');
  const { window, offset } = memory.memory.translate(old.guestAddress, 100)!;
  assert.equal([window, offset], [old.window, old.offset]);
  assert.ok(old.bytes.every((byte) => byte === 7));
  const fresh = memory.allocate(8192, 4096, 2);
  assert.is(memory.guestAddress(fresh), added.region.description.guestAddress);
  fresh.free();
  memory[Symbol.dispose]();
});

test('a region goes when nothing is allocated in it, and its mapping with the last snapshot', () => {
  const platform = createFakePlatform();
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const added = memory.addRegion(4096);
  const held = memory.memory.retain();
  const buffer = memory.allocate(16, 16, 1);
  assert.throws(() => memory.removeRegion(added), /still allocated from/);
  buffer.free();
  const files = platform.openFdCount;
  memory.removeRegion(added);
  assert.is(platform.openFdCount, files - 1);
  assert.is(platform.mappingCount, 2, 'the snapshot that is held');
  held.release();
  assert.is(platform.mappingCount, 1);
  assert.throws(() => memory.removeRegion(added), /it is not there/);
  assert.throws(() => memory.removeRegion(memory.regions[0]!), /it is the only one/);
  assert.throws(() => memory.userAddress({ window: 1, offset: 0 }), /not guest memory/);
  memory[Symbol.dispose]();
  assert.is(platform.openFdCount, 0);
});

test('a region that overlaps another, or cannot be mapped, changes nothing and leaves nothing behind', () => {
  const platform = createFakePlatform();
  using memory = new SharedMemory(platform, { size: 1 << 16 });
  const before = memory.memory;
  for (const [call, skip] of [
    ['memfd_create', 0],
    ['mmap', 0],
  ] as const) {
    platform.failNext(call, 'ENOMEM', skip);
    assert.throws(() => memory.addRegion(4096), /ENOMEM|cannot map/);
  }
  assert.throws(() => memory.addRegion(4096, 0x8000n), /overlap/);
  assert.is(memory.memory, before);
  assert.is(platform.openFdCount, 1);
  assert.is(platform.mappingCount, 1);
  memory.allocate(64).free();
});

test('alignment counts in guest addresses, whatever the region starts at', () => {
  using memory = new SharedMemory(createFakePlatform(), {
    layout: [{ guestAddress: 0x1010n, size: 0x4000n }],
  });
  const buffer = memory.allocate(64, 4096);
  assert.is(buffer.guestAddress, 0x2000);
  assert.is(buffer.offset, 0xff0);
});

test.run();
