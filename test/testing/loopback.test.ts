/** Loopback and MockQueue as a device author uses them. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  ChainDevice,
  type DescriptorChain,
  type DeviceHost,
  type FrontendServices,
} from '../../runtime/device/index.js';
import { EntropyDevice } from '../../runtime/devices/entropy/index.js';
import {
  createFakePlatform,
  createLinuxPlatform,
  Loopback,
  type LoopbackOptions,
} from '../../runtime/testing/index.js';

const test = suite('loopback');

/** Answers with what it was sent, byte by byte plus one; a chain that begins with 0xff makes it fail. */
class Incrementer extends ChainDevice {
  readonly deviceId = 42;

  handleChain(chain: DescriptorChain): void {
    const bytes = chain.readable.bytes(chain.readable.remaining);
    if (bytes[0] === 0xff) throw new Error('the device does not like this');
    chain.writable.write(bytes.map((byte) => byte + 1));
  }
}

for (const format of ['split', 'packed'] as const) {
  for (const options of [
    {},
    { eventIdx: false },
    { inOrder: true },
    { indirect: false },
    { ram: { regions: 4, size: 1 << 20 } },
  ] satisfies LoopbackOptions[]) {
    test(`${format} ${JSON.stringify(options)}: a chain comes back with the device's answer`, async () => {
      const loopback = new Loopback(new Incrementer(), { format, queueSize: 8, ...options });
      const queue = loopback.queues[0]!;
      // Several laps, more than fit at once, with and without indirect tables.
      for (let round = 0; round < 10; round++) {
        const sent = [0, 1].map((i) => new Uint8Array([round, i, 3]));
        const results = await Promise.all(
          sent.map((bytes, i) =>
            queue.transfer([bytes.subarray(0, 1), bytes.subarray(1)], [2, 6], {
              indirect: i === 1 && loopback.queues[0]!.driver.indirectCapacity > 0,
            }),
          ),
        );
        for (const [i, result] of results.entries()) {
          assert.is(result.written, 3);
          assert.equal(
            [...result.bytes],
            [...sent[i]!].map((byte) => byte + 1),
          );
          assert.equal(
            [...result.buffers[1]!],
            [4, 0xff, 0xff, 0xff, 0xff, 0xff],
            'what was not written is poison',
          );
        }
      }
      const { ram } = loopback;
      assert.is(queue.driver.inFlight, 0);
      await loopback.stop();
      assert.is((ram.platform as ReturnType<typeof createFakePlatform>).openFdCount, 0);
      assert.is((ram.platform as ReturnType<typeof createFakePlatform>).mappingCount, 0);
    });
  }
}

test('a device of the package, over real memory', async () => {
  const loopback = new Loopback(new EntropyDevice(), { platform: createLinuxPlatform(), format: 'packed' });
  const { bytes } = await loopback.queues[0]!.transfer([], [64]);
  assert.is(bytes.byteLength, 64);
  assert.ok(bytes.some((byte) => byte !== bytes[0]));
  await loopback.stop();
});

test('a device that fails breaks its queue, and transfers say why', async () => {
  const loopback = new Loopback(new Incrementer());
  const queue = loopback.queues[0]!;
  const error = await queue.transfer([new Uint8Array([0xff])], [1]).then(
    () => null,
    (reason: unknown) => reason as Error,
  );
  assert.is((error as { code?: string } | null)?.code, 'ERR_VIRTQ_DEVICE');
  let root: unknown = error;
  while (root instanceof Error && root.cause !== undefined) root = root.cause;
  assert.match(String(root), /the device does not like this/);
  const again = await queue.transfer([new Uint8Array([1])], [1]).catch((reason: unknown) => reason);
  assert.is(again, error, 'later transfers fail with the same reason');
  await loopback.stop();
});

test('a transfer that the device holds can be abandoned by a signal; its memory stays taken until it is used', async () => {
  let held: DescriptorChain | null = null;
  class Holder extends ChainDevice {
    readonly deviceId = 42;
    handleChain(chain: DescriptorChain): Promise<void> {
      held = chain;
      return new Promise((resolve) => (release = resolve));
    }
  }
  let release: () => void = () => undefined;
  const loopback = new Loopback(new Holder());
  const before = loopback.ram.freeBytes;
  const abort = new AbortController();
  const reason = new Error('waited long enough');
  const failed = loopback.queues[0]!.transfer([], [64], { signal: abort.signal }).catch(
    (error: unknown) => error,
  );
  while (held === null) await new Promise(setImmediate);
  abort.abort(reason);
  assert.is(await failed, reason);
  assert.ok(loopback.ram.freeBytes < before);
  release();
  while (loopback.queues[0]!.driver.inFlight > 0) await new Promise(setImmediate);
  assert.is(loopback.ram.freeBytes, before);
  await loopback.stop();
});

test('a ring without room refuses the transfer and takes nothing', async () => {
  const loopback = new Loopback(new Incrementer(), { queueSize: 2, indirect: false });
  const before = loopback.ram.freeBytes;
  const error = await loopback.queues[0]!.transfer([new Uint8Array([1]), new Uint8Array([2])], [1]).catch(
    (reason: unknown) => reason as Error,
  );
  assert.match(String((error as Error).message), /1 to 2 can/);
  assert.is(loopback.ram.freeBytes, before);
  await loopback.stop();
});

test('more queues than the device has are refused', () => {
  assert.throws(() => new Loopback(new Incrementer(), { queues: 2 }), /2 queues asked for, the device has 1/);
});

test('what a device asks of a front-end is answered by the test, and rejects where it is not', async () => {
  let services: FrontendServices | null = null;
  class SharingDevice extends EntropyDevice {
    attach(host: DeviceHost): void {
      services = host.frontend;
    }
  }
  const added: number[] = [];
  const frontend = { addSharedObject: async (uuid: Uint8Array) => void added.push(uuid[0]!) };
  await using loopback = new Loopback(new SharingDevice(), { frontend });
  assert.is(loopback.queues.length, 1);
  await services!.addSharedObject(new Uint8Array(16).fill(3));
  assert.equal(added, [3]);
  const error: unknown = await services!
    .lookUpSharedObject(new Uint8Array(16))
    .catch((each: unknown) => each);
  assert.is((error as { code: string }).code, 'ERR_DEVICE_FAILED');
});

test.run();
