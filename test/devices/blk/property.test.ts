import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BlkRequestType, BlkStatus } from '../../../generated/virtio/devices/blk/layouts.js';
import type { OfferedChain } from '../../support/fake-device-queue.js';
import { Random } from '../../support/random.js';
import { Disk, outcomeOf, pattern, randomLayout, ranges, type Request, SECTOR } from './harness.js';

const DISK = 256;
/** Sectors that one request of a batch has for itself, so that the order of completion cannot matter. */
const SHARE = 16;

/** What a disk must do with a request, in the simplest words. */
function expected(disk: Uint8Array, request: Request): { status: number; answer: Uint8Array } {
  const none = new Uint8Array(0);
  const sector = Number(request.sector ?? 0);
  const data = request.data ?? none;
  const room = request.room ?? 0;
  const inside = (first: number, bytes: number): boolean => first * SECTOR + bytes <= disk.byteLength;
  switch (request.type) {
    case BlkRequestType.in:
      if (data.byteLength > 0 || room % SECTOR !== 0 || !inside(sector, room))
        return { status: BlkStatus.ioerr, answer: none };
      return { status: BlkStatus.ok, answer: disk.slice(sector * SECTOR, sector * SECTOR + room) };
    case BlkRequestType.out:
      if (room > 0 || data.byteLength % SECTOR !== 0 || !inside(sector, data.byteLength)) {
        return { status: BlkStatus.ioerr, answer: none };
      }
      disk.set(data, sector * SECTOR);
      return { status: BlkStatus.ok, answer: none };
    case BlkRequestType.discard:
    case BlkRequestType.writeZeroes: {
      const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
      const first = Number(view.getBigUint64(0, true));
      const bytes = view.getUint32(8, true) * SECTOR;
      if (!inside(first, bytes)) return { status: BlkStatus.ioerr, answer: none };
      disk.fill(0, first * SECTOR, first * SECTOR + bytes);
      return { status: BlkStatus.ok, answer: none };
    }
    case BlkRequestType.flush:
      return { status: BlkStatus.ok, answer: none };
    default:
      return { status: BlkStatus.unsupp, answer: none };
  }
}

function draw(random: Random, first: number): Request {
  const sector = first + random.below(SHARE / 2);
  const count = random.below(SHARE / 2);
  const wrong = random.chance(8);
  const at = wrong && random.chance(2) ? DISK - random.below(4) + (random.chance(2) ? 2 ** 40 : 0) : sector;
  // Past the end on purpose, or in its own share.
  const bytes =
    (at === sector ? count : count + 4) * SECTOR + (wrong && random.chance(2) ? 1 + random.below(511) : 0);
  switch (random.below(8)) {
    case 0:
    case 1:
    case 2:
      return {
        type: BlkRequestType.in,
        sector: at,
        room: bytes,
        ...(wrong && random.chance(4) && { data: random.bytes(3) }),
      };
    case 3:
    case 4:
      return {
        type: BlkRequestType.out,
        sector: at,
        data: random.bytes(bytes),
        ...(wrong && random.chance(4) && { room: 3 }),
      };
    case 5:
      return { type: BlkRequestType.discard, data: ranges([at, Math.ceil(bytes / SECTOR)]) };
    case 6:
      return {
        type: BlkRequestType.writeZeroes,
        data: ranges([at, Math.ceil(bytes / SECTOR), random.below(2)]),
      };
    default:
      return random.chance(2)
        ? { type: BlkRequestType.flush }
        : { type: 30 + random.below(1000), room: random.below(9) };
  }
}

const test = suite('any requests in any layout, ended in any order');

for (let seed = 1; seed <= 20; seed++) {
  test(`seed ${seed}`, async () => {
    const random = new Random(seed);
    const model = pattern(DISK, seed);
    const disk = new Disk({ content: model.slice() });
    disk.image.endsAtOnce = () => random.chance(2);
    disk.image.next = (waiting) => random.below(waiting.length);
    for (let round = 0; round < 12; round++) {
      const batch: [OfferedChain, ReturnType<typeof expected>, Request][] = [];
      for (let i = 0; i < 1 + random.below(DISK / SHARE); i++) {
        const request = draw(random, i * SHARE);
        batch.push([randomLayout(random)(disk.queue, request), expected(model, request), request]);
        if (random.chance(3)) disk.serve();
      }
      disk.serve();
      while (batch.some(([chain]) => chain.written === null)) await new Promise(setImmediate);
      for (const [chain, { status, answer }, request] of batch) {
        const outcome = outcomeOf(chain);
        const what = `${request.type} at ${request.sector}`;
        assert.is(outcome.status, status, what);
        assert.is(outcome.written, answer.byteLength + 1, what);
        assert.equal(outcome.answer.subarray(0, answer.byteLength), answer, what);
      }
      assert.equal(disk.image.bytes, model);
    }
    assert.ok(disk.queue.gapsUntouched);
    assert.is(disk.device.pending, 0);
  });
}

test.run();
