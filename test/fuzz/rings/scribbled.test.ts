import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RigOptions } from '../../virtqueue/property-rig.js';
import { attackDevice, attackDriver } from './scribbled.js';

const test = suite('virtqueues under malformed input');

const combinations: RigOptions[] = (['split', 'packed'] as const).flatMap((format) =>
  [false, true].flatMap((inOrder) =>
    [0, 8].map((indirectCapacity) => ({ format, size: 8, eventIdx: true, inOrder, indirectCapacity })),
  ),
);

for (const options of combinations) {
  const name = `${options.format}, in order ${options.inOrder}, indirect ${options.indirectCapacity !== 0}`;

  test(`a device faces a driver that scribbles over its ring: ${name}`, () => {
    const seen = new Set<string>();
    for (let seed = 1; seed <= 600; seed++) {
      const { defect } = attackDevice(options, seed * 31337);
      if (defect !== null) seen.add(defect);
    }
    assert.ok(seen.size >= 3, `defects of several kinds were found: ${[...seen].join(', ')}`);
  });

  test(`a driver faces a device that scribbles over its ring: ${name}`, () => {
    let broken = 0;
    for (let seed = 1; seed <= 600; seed++) if (attackDriver(options, seed * 65537).defect !== null) broken++;
    assert.ok(broken > 25, `${broken} of 600 queues broke`);
  });
}

test.run();
