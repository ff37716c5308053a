import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChainDevice, ChainQueue, type DescriptorChain } from '../../runtime/device/index.js';
import { DeviceError } from '../../runtime/errors.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { FakeDeviceQueue, UNTOUCHED } from '../support/fake-device-queue.js';
import { Random } from '../support/random.js';

type Handler = (chain: DescriptorChain) => number | void | Promise<number | void>;

class TestDevice extends ChainDevice {
  readonly deviceId = 42;
  readonly handler: Handler;

  constructor(handler: Handler) {
    super();
    this.handler = handler;
  }

  handleChain(chain: DescriptorChain): number | void | Promise<number | void> {
    return this.handler(chain);
  }
}

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);
const makeQueue = (options?: { size?: number }): FakeDeviceQueue =>
  new FakeDeviceQueue(createFakePlatform(), options);
const turn = (): Promise<void> => new Promise(setImmediate);

const chains = suite('a descriptor chain');

chains('gives what was sent and takes the answer, whatever the layout', () => {
  const random = new Random(1);
  for (let round = 0; round < 200; round++) {
    const queue = makeQueue();
    const sent = random.bytes(random.below(100));
    let at = 0;
    const pieces = random.cut(sent.byteLength).map((length) => sent.slice(at, (at += length)));
    const room = random.below(100);
    const chain = queue.offer(pieces, random.cut(room));
    const answer = random.bytes(random.below(150));
    new TestDevice((each) => {
      assert.is(each.readable.length, sent.byteLength);
      assert.is(each.writable.length, room);
      assert.equal(each.readable.bytes(each.readable.remaining), sent);
      assert.is(each.writable.write(answer), Math.min(room, answer.byteLength));
    }).serveQueue(queue);
    const written = Math.min(room, answer.byteLength);
    assert.is(chain.written, written);
    assert.equal(chain.answer.subarray(0, written), answer.subarray(0, written));
    assert.ok(chain.answer.subarray(written).every((byte) => byte === UNTOUCHED));
    assert.ok(queue.gapsUntouched);
  }
});

chains('reads and writes little-endian numbers over segment borders', () => {
  for (const size of [1, 2, 3, 5, 15]) {
    const queue = makeQueue();
    const sent = bytes(1, 0x34, 0x12, 0x78, 0x56, 0x34, 0xf2, 8, 7, 6, 5, 4, 3, 2, 0xf1);
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < 15; at += size) pieces.push(sent.slice(at, at + size));
    const chain = queue.offer(
      pieces,
      pieces.map((piece) => piece.byteLength),
    );
    new TestDevice(({ readable, writable }) => {
      const numbers = [readable.u8(), readable.u16(), readable.u32(), readable.u64()] as const;
      assert.equal(numbers, [1, 0x1234, 0xf2345678, 0xf102030405060708n]);
      writable.u8(numbers[0]);
      writable.u16(numbers[1]);
      writable.u32(numbers[2]);
      writable.u64(numbers[3]);
    }).serveQueue(queue);
    assert.equal(chain.answer, sent);
  }
});

chains('skips, and hands out guest memory itself up to a limit', () => {
  const queue = makeQueue();
  const chain = queue.offer([bytes(1, 2, 3), bytes(4, 5, 6)], [2, 4]);
  new TestDevice(({ readable, writable }) => {
    readable.skip(2);
    assert.equal(
      [...readable.spans(3)].map((span) => [...span]),
      [[3], [4, 5]],
    );
    assert.is(readable.remaining, 1);
    for (const span of writable.spans(5)) span.fill(9);
  }).serveQueue(queue);
  assert.is(chain.written, 5);
  assert.equal(chain.answer, bytes(9, 9, 9, 9, 9, UNTOUCHED));
});

for (const [name, read] of Object.entries({
  'a number': (chain: DescriptorChain) => chain.readable.u32(),
  bytes: (chain: DescriptorChain) => chain.readable.bytes(4),
  'a skip': (chain: DescriptorChain) => chain.readable.skip(4),
  'an answer': (chain: DescriptorChain) => chain.writable.u32(1),
})) {
  chains(`C11: ${name} beyond the end is an error, not a read elsewhere`, () => {
    const queue = makeQueue();
    queue.offer([bytes(1, 2, 3)], [3]);
    new TestDevice((chain) => void read(chain)).serveQueue(queue);
    const failure = queue.failure as DeviceError;
    assert.is(failure.code, 'ERR_DEVICE_FAILED');
    assert.is((failure.cause as DeviceError).code, 'ERR_DEVICE_REQUEST');
    assert.ok(queue.gapsUntouched);
  });
}

chains.run();

const loop = suite('a chain queue');

loop('is iterated chain by chain and leaves the rest in the ring', () => {
  const queue = makeQueue();
  for (let i = 0; i < 3; i++) queue.offer([bytes(i)], []);
  const seen: number[] = [];
  const source = new ChainQueue(queue);
  for (const chain of source) {
    seen.push(chain.readable.u8());
    chain.complete();
    if (seen.length === 2) break;
  }
  assert.is(queue.inFlight, 0);
  for (const chain of source) {
    seen.push(chain.readable.u8());
    chain.complete();
  }
  assert.equal(seen, [0, 1, 2]);
});

loop('keeps chains beyond their step', () => {
  const queue = makeQueue();
  for (let i = 0; i < 3; i++) queue.offer([bytes(i, i + 10)], [1]);
  const kept: DescriptorChain[] = [];
  for (const chain of new ChainQueue(queue)) {
    assert.is(chain.readable.u8(), kept.length);
    kept.push(chain.keep());
  }
  for (const chain of kept.reverse()) {
    chain.writable.u8(chain.readable.u8());
    chain.complete();
  }
  assert.equal(
    queue.completed.map((chain) => chain.answer[0]),
    [12, 11, 10],
  );
});

loop('refuses a step that loses its chain, and completing one twice', () => {
  const queue = makeQueue();
  queue.offer([bytes(1)], []);
  queue.offer([bytes(2)], []);
  const source = new ChainQueue(queue);
  const { value } = source.next();
  assert.throws(
    () => source.next(),
    (error: DeviceError) => error.code === 'ERR_DEVICE_FAILED',
  );
  value!.complete();
  assert.throws(
    () => value!.complete(),
    (error: DeviceError) => error.code === 'ERR_DEVICE_FAILED',
  );
});

loop.run();

const device = suite('a chain device');

device('reports what the handler returns, else what it wrote', () => {
  const queue = makeQueue();
  const explicit = queue.offer([], [8]);
  const counted = queue.offer([], [8]);
  new TestDevice((chain) => {
    chain.writable.write(bytes(1, 2, 3));
    return chain.handle === explicit.handle ? 1 : undefined;
  }).serveQueue(queue);
  assert.is(explicit.written, 1);
  assert.is(counted.written, 3);
});

device('serves other chains while a handler waits, and publishes when it is done', async () => {
  const queue = makeQueue();
  const slow = queue.offer([bytes(7, 8)], [4]);
  const quick = queue.offer([bytes(1)], [4]);
  let go = (): void => {};
  const gate = new Promise<void>((resolve) => (go = resolve));
  new TestDevice((chain) => {
    const first = chain.readable.u8();
    if (first === 1) return chain.writable.u8(1);
    return gate.then(() => chain.writable.u8(first + chain.readable.u8()));
  }).serveQueue(queue);
  assert.is(quick.written, 1);
  assert.is(slow.written, null);
  go();
  await turn();
  assert.is(slow.written, 1);
  assert.is(slow.answer[0], 15);
  assert.ok(slow.published);
});

for (const [name, handler] of Object.entries<Handler>({
  throws: () => {
    throw new RangeError('no');
  },
  rejects: () => Promise.reject(new RangeError('no')),
})) {
  device(`breaks its queue when the handler ${name}, with the cause, and lets go of the chain`, async () => {
    const queue = makeQueue();
    queue.offer([bytes(1)], [4]);
    new TestDevice(handler).serveQueue(queue);
    await turn();
    const failure = queue.failure as DeviceError;
    assert.instance(failure, DeviceError);
    assert.is(failure.code, 'ERR_DEVICE_FAILED');
    assert.instance(failure.cause, RangeError);
    assert.is(queue.inFlight, 0);
  });
}

device('stops at the chain that failed', () => {
  const queue = makeQueue();
  queue.offer([bytes(1)], []);
  const next = queue.offer([bytes(2)], []);
  new TestDevice(() => {
    throw new Error('no');
  }).serveQueue(queue);
  assert.is(next.written, null);
});

for (const written of [5, -1, 1.5, Number.NaN]) {
  device(`C23: cannot report ${written} bytes for a chain with room for 4`, () => {
    const queue = makeQueue();
    queue.offer([], [4]);
    new TestDevice(() => written).serveQueue(queue);
    assert.match(String((queue.failure as DeviceError).cause), /room for 4/);
  });
}

device('gives way to others when a driver refills its ring without end', () => {
  const queue = makeQueue({ size: 4 });
  let handled = 0;
  queue.offer([], [1]);
  new TestDevice(() => {
    handled++;
    queue.offer([], [1]);
  }).serveQueue(queue);
  assert.is(handled, 4);
  assert.is(queue.resumes, 1);
});

device('takes a chain of as many segments as the queue can hold', () => {
  const queue = makeQueue({ size: 1024 });
  const chain = queue.offer(
    [],
    Array.from({ length: 1500 }, () => 1),
  );
  new TestDevice(({ writable }) => void writable.write(new Uint8Array(2000))).serveQueue(queue);
  assert.is(chain.written, 1500);
});

device.run();
