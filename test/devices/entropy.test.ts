import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { EntropyDevice } from '../../runtime/devices/entropy/index.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { FakeDeviceQueue, UNTOUCHED } from '../support/fake-device-queue.js';

const test = suite('the entropy device');

test('fills every buffer of a chain with other bytes each time', () => {
  const queue = new FakeDeviceQueue(createFakePlatform());
  const chains = [queue.offer([], [64, 1, 7]), queue.offer([], [72])];
  new EntropyDevice().serveQueue(queue);
  for (const chain of chains) assert.is(chain.written, 72);
  assert.not.equal(chains[0]!.answer, chains[1]!.answer);
  assert.not(chains.some((chain) => chain.answer.every((byte) => byte === UNTOUCHED)));
  assert.ok(queue.gapsUntouched);
});

test('gives a bounded number of bytes to a driver that asks for many', () => {
  const queue = new FakeDeviceQueue(createFakePlatform());
  const chain = queue.offer([], [100, 1000]);
  new EntropyDevice({ limit: 150 }).serveQueue(queue);
  assert.is(chain.written, 150);
  assert.ok(chain.answer.subarray(150).every((byte) => byte === UNTOUCHED));
});

test('gives back a chain without room, and ignores what is sent', () => {
  const queue = new FakeDeviceQueue(createFakePlatform());
  const chain = queue.offer([Uint8Array.of(1, 2, 3)], []);
  new EntropyDevice().serveQueue(queue);
  assert.is(chain.written, 0);
});

test('is device type 4 with one queue and no features', () => {
  const device = new EntropyDevice();
  assert.equal([device.deviceId, device.queueCount, device.features], [4, 1, 0n]);
});

test.run();
