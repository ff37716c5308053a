import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BlkFeature } from '../../../generated/virtio/devices/blk/features.js';
import { BlkRequestType, BlkStatus } from '../../../generated/virtio/devices/blk/layouts.js';
import type { OfferedChain } from '../../support/fake-device-queue.js';
import { Disk, layouts, outcomeOf, pattern, ranges, SECTOR } from './harness.js';

const { in: READ, out: WRITE, flush: FLUSH, discard: DISCARD, writeZeroes: WRITE_ZEROES } = BlkRequestType;
const zeros = (count: number): Uint8Array => new Uint8Array(count * SECTOR);
const turn = (): Promise<void> => new Promise(setImmediate);
const settle = async (...chains: OfferedChain[]): Promise<void> => {
  while (chains.some((chain) => chain.written === null)) await turn();
};

const order = suite('completions');

order('come out of order and are published when the medium ends them on its own time', async () => {
  const disk = new Disk({ content: pattern(64) });
  disk.image.endsAtOnce = () => false;
  disk.image.next = (waiting) => waiting.length - 1;
  const chains = [1, 2, 3].map((sector) => disk.offer({ type: READ, sector, room: SECTOR }));
  disk.serve();
  assert.is(disk.queue.completed.length, 0);
  assert.is(disk.device.pending, 3);
  await settle(...chains);
  assert.equal(disk.queue.completed, [chains[2], chains[1], chains[0]]);
  for (const chain of chains) {
    assert.ok(chain.published);
    assert.is(outcomeOf(chain).written, SECTOR + 1);
    assert.equal(
      outcomeOf(chain).answer,
      disk.image.bytes.subarray(chain.handle * SECTOR + SECTOR, chain.handle * SECTOR + 2 * SECTOR),
    );
  }
  assert.is(disk.device.pending, 0);
});

order('those that end at once do not wait for those that do not', async () => {
  const disk = new Disk({ content: pattern(64) });
  disk.image.endsAtOnce = ({ position }) => position !== 2 * SECTOR;
  const chains = [1, 2, 3].map((sector) => disk.offer({ type: READ, sector, room: SECTOR }));
  disk.serve();
  assert.equal(
    chains.map((chain) => chain.written),
    [SECTOR + 1, null, SECTOR + 1],
  );
  await settle(...chains);
  assert.is(outcomeOf(chains[1]!).status, BlkStatus.ok);
});

order('a request of many ranges ends with its last one, and with the first failure', async () => {
  const disk = new Disk({ content: pattern(64) });
  disk.image.endsAtOnce = ({ position }) => position !== SECTOR;
  disk.image.failNext('writeZeroes', 'EIO');
  const chain = disk.offer({ type: WRITE_ZEROES, data: ranges([0, 1], [1, 1], [2, 1]) });
  disk.serve();
  assert.is(chain.written, null);
  await settle(chain);
  assert.is(outcomeOf(chain).status, BlkStatus.ioerr);
  assert.is(disk.image.log.length, 3);
  assert.is(disk.device.pending, 0);
});

order('a stalled medium holds neither another queue up nor the caller', async () => {
  const disk = new Disk({ content: pattern(64), options: { queueCount: 2 } });
  const other = disk.addQueue(1);
  disk.image.endsAtOnce = ({ position }) => position !== SECTOR;
  disk.image.next = (waiting) => waiting.length - 1;
  const slow = disk.offer({ type: READ, sector: 1, room: SECTOR });
  disk.image.stall();
  disk.serve();
  const id = disk.offer({ type: BlkRequestType.getId, room: 20 }, other);
  disk.serve(other);
  assert.is(outcomeOf(id).status, BlkStatus.ok);
  assert.is(slow.written, null);
  disk.image.resume();
  await settle(slow);
  assert.ok(slow.published);
});

order('outstanding work is bounded; a queue that had to wait is resumed', async () => {
  const disk = new Disk({ content: pattern(64), options: { queueSize: 4, queueCount: 1 } });
  disk.image.stall();
  const chains = Array.from({ length: 10 }, (_, sector) => disk.offer({ type: READ, sector, room: SECTOR }));
  disk.serve();
  disk.serve();
  assert.is(disk.device.pending, 4);
  assert.is(disk.queue.inFlight, 4);
  assert.is(disk.queue.resumes, 0, 'nothing to do before a request ends');
  disk.image.release(1);
  await turn();
  assert.is(disk.queue.resumes, 1);
  disk.image.resume();
  while (chains.some((chain) => chain.written === null)) {
    disk.serve();
    await turn();
  }
});

order('C14: requests of a queue that was stopped end quietly', async () => {
  const disk = new Disk({ content: pattern(64) });
  disk.image.stall();
  const chain = disk.offer({ type: READ, sector: 1, room: SECTOR });
  disk.serve();
  disk.queue.stopped = true;
  disk.device.stopQueue(disk.queue);
  disk.device.reset();
  disk.image.resume();
  await settle(chain);
  assert.is(disk.device.pending, 0);
});

order('a new connection is served while requests of the one before are under way', async () => {
  const disk = new Disk({ content: pattern(64) });
  disk.image.stall();
  const before = disk.offer({ type: READ, sector: 1, room: SECTOR });
  disk.serve();
  disk.device.stopQueue(disk.queue);
  disk.device.reset();
  const next = disk.addQueue(0);
  const after = disk.offer({ type: READ, sector: 2, room: SECTOR }, next);
  disk.serve(next);
  disk.image.resume();
  await settle(before, after);
  assert.equal(next.completed, [after]);
  assert.equal(disk.queue.completed, [before]);
  assert.equal(outcomeOf(after).answer, disk.image.bytes.subarray(2 * SECTOR, 3 * SECTOR));
});

order('a driver that refills its ring without end does not keep the loop', () => {
  const disk = new Disk();
  for (let i = 0; i < 500; i++) disk.offer({ type: READ, room: SECTOR });
  disk.serve();
  assert.ok(disk.queue.completed.length < 500);
  assert.is(disk.queue.resumes, 1);
});

order.run();

const failures = suite('failures of the medium');

for (const [name, type, errno, status] of [
  ['read', READ, 'EIO', BlkStatus.ioerr],
  ['write', WRITE, 'ENOSPC', BlkStatus.ioerr],
  ['write', WRITE, 'EOPNOTSUPP', BlkStatus.ioerr],
  ['flush', FLUSH, 'EIO', BlkStatus.ioerr],
  ['discard', DISCARD, 'EIO', BlkStatus.ioerr],
  ['discard', DISCARD, 'EOPNOTSUPP', BlkStatus.unsupp],
  ['writeZeroes', WRITE_ZEROES, 'EOPNOTSUPP', BlkStatus.unsupp],
] as const) {
  for (const later of [false, true]) {
    failures(
      `${name} with ${errno}${later ? ', later' : ''}: status ${status}, one byte written`,
      async () => {
        const disk = new Disk();
        if (later) disk.image.endsAtOnce = () => false;
        disk.image.failNext(name, errno);
        const data =
          type === WRITE ? zeros(1) : type === DISCARD || type === WRITE_ZEROES ? ranges([0, 1]) : undefined;
        const outcome = await disk.run({
          type,
          ...(data !== undefined && { data }),
          ...(type === READ && { room: SECTOR }),
        });
        assert.is(outcome.status, status);
        assert.is(outcome.written, 1);
        assert.is(
          (await disk.run({ type: READ, room: SECTOR })).status,
          BlkStatus.ok,
          'the next one is served',
        );
      },
    );
  }
}

failures('an image that became shorter ends reads behind its end with an error', async () => {
  const disk = new Disk();
  Object.defineProperty(disk.image, 'bytes', { value: new Uint8Array(3 * SECTOR) });
  const outcome = await disk.run({ type: READ, sector: 2, room: 2 * SECTOR });
  assert.is(outcome.status, BlkStatus.ioerr);
  assert.is(outcome.written, 1);
});

failures('a backing that refuses an operation fails the request and no more', async () => {
  const disk = new Disk();
  const chain = disk.offer({ type: READ, room: SECTOR });
  // The guest's memory vanished under the request.
  const { readable, writable } = chain;
  disk.queue.offered.length = 0;
  Object.assign(writable[0]!, { window: 99 });
  disk.serve();
  assert.is(disk.queue.u8[writable[1]!.window]![writable[1]!.offset], BlkStatus.ioerr);
  assert.is(chain.written, 1);
  assert.ok(readable.length > 0);
  assert.is((await disk.run({ type: READ, room: SECTOR })).status, BlkStatus.ok);
});

failures.run();

const durability = suite('writes and the cache');
const names = (disk: Disk): string[] => disk.image.log.map((operation) => operation.name);

durability('with FLUSH negotiated a write is reported at once', async () => {
  const disk = new Disk();
  await disk.run({ type: WRITE, data: zeros(1) });
  assert.equal(names(disk), ['write']);
});

for (const [what, request, operation] of [
  ['a write', { type: WRITE, data: zeros(1) }, 'write'],
  ['a discard', { type: DISCARD, data: ranges([0, 1]) }, 'discard'],
  ['write zeroes', { type: WRITE_ZEROES, data: ranges([0, 1]) }, 'writeZeroes'],
] as const) {
  durability(`without FLUSH negotiated ${what} is on the medium before it is reported`, async () => {
    const disk = new Disk();
    disk.device.setFeatures(disk.device.features & ~(BlkFeature.flush | BlkFeature.configWce));
    disk.image.endsAtOnce = ({ name }) => name !== 'flush';
    const chain = layouts.usual!(disk.queue, request);
    disk.serve();
    assert.is(chain.written, null);
    await settle(chain);
    assert.equal(names(disk), [operation, 'flush']);
    assert.is(outcomeOf(chain).status, BlkStatus.ok);
    assert.ok(chain.published);
  });
}

durability('a write whose flush fails is reported as failed', async () => {
  const disk = new Disk();
  disk.device.setFeatures(0n);
  disk.image.failNext('flush', 'EIO');
  assert.is((await disk.run({ type: WRITE, data: zeros(1) })).status, BlkStatus.ioerr);
});

durability('a failed write is not flushed, nor is a read', async () => {
  const disk = new Disk();
  disk.device.setFeatures(0n);
  disk.image.failNext('write', 'EIO');
  assert.is((await disk.run({ type: WRITE, data: zeros(1) })).status, BlkStatus.ioerr);
  await disk.run({ type: READ, room: SECTOR });
  assert.equal(names(disk), ['write', 'read']);
});

durability('the driver switches the cache off and on', async () => {
  const disk = new Disk();
  assert.ok(disk.device.config.write(32, Uint8Array.of(0), false));
  await disk.run({ type: WRITE, data: zeros(1) });
  assert.ok(disk.device.config.write(32, Uint8Array.of(1), false));
  await disk.run({ type: WRITE, data: zeros(1) });
  assert.equal(names(disk), ['write', 'flush', 'write']);
});

durability.run();
