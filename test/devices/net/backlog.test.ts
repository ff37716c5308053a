import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PlatformPacketMemory } from '../../../runtime/backings/ports/packet-memory.js';
import { Backlog } from '../../../runtime/devices/net/backlog.js';
import { createFakePlatform } from '../../../runtime/platform/fake.js';

const test = suite('the packets of a network device that wait for buffers');

const HEADER = new Int32Array(3);

for (const [name, lengthOf] of [
  ['60 bytes, which end where the memory ends', () => 60],
  ['4096 bytes, which end where the memory ends', () => 4096],
  ['any length', (i: number) => 14 + ((i * 7919) % 1500)],
] as const) {
  test(`every packet lies inside the memory, however long the backlog is never empty: ${name}`, () => {
    const memory = new PlatformPacketMemory(createFakePlatform());
    const allocated: number[] = [];
    const backlog = new Backlog(
      {
        u8: memory.u8,
        u32: memory.u32,
        copies: memory.copies,
        allocate: (bytes) => {
          allocated.push(bytes);
          return memory.allocate(bytes);
        },
      },
      256,
    );
    backlog.window;
    for (let i = 0; i < 150_000; i++) {
      const length = lengthOf(i);
      const offset = backlog.push(length, HEADER, 0);
      assert.ok(
        offset >= 0 && offset + length <= allocated[0]!,
        `packet ${i} of ${length} bytes at ${offset}`,
      );
      if (backlog.count > 10) backlog.pop(1);
    }
    assert.equal(allocated.length, 1);
    backlog.close();
  });
}

test('it takes no more than its memory and its rows hold, and all of it again afterwards', () => {
  for (const [length, most] of [
    [60, 1024],
    [4096, 1024],
    [65_535, 64],
  ] as const) {
    const backlog = new Backlog(new PlatformPacketMemory(createFakePlatform()), 256);
    for (let round = 0; round < 3; round++) {
      let count = 0;
      while (backlog.push(length, HEADER, 0) >= 0) count++;
      assert.ok(count <= most && count >= most - 1, `${count} of ${length} bytes`);
      backlog.pop(count);
      assert.is(backlog.count, 0);
    }
    backlog.close();
  }
});

test.run();
