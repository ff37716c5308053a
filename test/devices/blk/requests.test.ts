import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BlkRequestType, BlkStatus } from '../../../generated/virtio/devices/blk/layouts.js';
import { UNTOUCHED } from '../../support/fake-device-queue.js';
import { Disk, header, layouts, outcomeOf, pattern, ranges, type Request, SECTOR } from './harness.js';

const { in: READ, out: WRITE, flush: FLUSH, getId: GET_ID, discard: DISCARD } = BlkRequestType;
const { writeZeroes: WRITE_ZEROES } = BlkRequestType;
const { ok: OK, ioerr: IOERR, unsupp: UNSUPP } = BlkStatus;
const DISK = 64;
const UNMAP = 1;

interface Case {
  readonly name: string;
  readonly request: Request;
  readonly status: number;
  /** 1, the status, when absent. */
  readonly written?: number;
  readonly answer?: Uint8Array;
  /** The disk afterwards; unchanged when absent. */
  readonly disk?: Uint8Array;
}

const content = pattern(DISK);
const changed = (sector: number, bytes: Uint8Array): Uint8Array => {
  const disk = content.slice();
  disk.set(bytes, sector * SECTOR);
  return disk;
};
const sectors = (first: number, count: number): Uint8Array =>
  content.subarray(first * SECTOR, (first + count) * SECTOR);
const zeros = (count: number): Uint8Array => new Uint8Array(count * SECTOR);
const serial = (text: string, length = 20): Uint8Array => {
  const bytes = new Uint8Array(20);
  bytes.set(new TextEncoder().encode(text));
  return bytes.subarray(0, length);
};

const cases: Case[] = [
  {
    name: 'a read',
    request: { type: READ, sector: 3, room: 2 * SECTOR },
    status: OK,
    written: 2 * SECTOR + 1,
    answer: sectors(3, 2),
  },
  {
    name: 'a read of the last sector',
    request: { type: READ, sector: DISK - 1, room: SECTOR },
    status: OK,
    written: SECTOR + 1,
    answer: sectors(DISK - 1, 1),
  },
  { name: 'a read of nothing', request: { type: READ, sector: 3 }, status: OK },
  { name: 'a read past the end', request: { type: READ, sector: DISK, room: SECTOR }, status: IOERR },
  { name: 'a read over the end', request: { type: READ, sector: DISK - 1, room: 2 * SECTOR }, status: IOERR },
  { name: 'a read of half a sector', request: { type: READ, sector: 3, room: 256 }, status: IOERR },
  { name: 'a read of a sector and a byte', request: { type: READ, sector: 3, room: 513 }, status: IOERR },
  { name: 'a read that sends data', request: { type: READ, room: SECTOR, data: zeros(1) }, status: IOERR },
  ...[2n ** 32n, 2n ** 53n, 2n ** 55n, 2n ** 63n, 2n ** 64n - 1n].map((sector) => ({
    name: `a read at sector ${sector}`,
    request: { type: READ, sector, room: SECTOR },
    status: IOERR,
  })),
  {
    name: 'a write',
    request: { type: WRITE, sector: 5, data: pattern(2, 7) },
    status: OK,
    disk: changed(5, pattern(2, 7)),
  },
  { name: 'a write of nothing', request: { type: WRITE, sector: 5 }, status: OK },
  { name: 'a write past the end', request: { type: WRITE, sector: DISK, data: zeros(1) }, status: IOERR },
  { name: 'a write over the end', request: { type: WRITE, sector: DISK - 1, data: zeros(2) }, status: IOERR },
  { name: 'a write of a byte', request: { type: WRITE, data: new Uint8Array(1) }, status: IOERR },
  {
    name: 'a write that has room for data',
    request: { type: WRITE, data: zeros(1), room: SECTOR },
    status: IOERR,
  },
  { name: 'a write at 2^63', request: { type: WRITE, sector: 2n ** 63n, data: zeros(1) }, status: IOERR },
  { name: 'a flush', request: { type: FLUSH }, status: OK },
  { name: 'an id', request: { type: GET_ID, room: 20 }, status: OK, written: 21, answer: serial('disk-1') },
  {
    name: 'an id with little room',
    request: { type: GET_ID, room: 4 },
    status: OK,
    written: 5,
    answer: serial('disk-1', 4),
  },
  { name: 'an id without room', request: { type: GET_ID }, status: OK },
  {
    name: 'a discard',
    request: { type: DISCARD, data: ranges([8, 4]) },
    status: OK,
    disk: changed(8, zeros(4)),
  },
  {
    name: 'a discard of two ranges',
    request: { type: DISCARD, data: ranges([8, 1], [0, 0], [DISK - 1, 1]) },
    status: OK,
    disk: (() => {
      const disk = changed(8, zeros(1));
      disk.set(zeros(1), (DISK - 1) * SECTOR);
      return disk;
    })(),
  },
  { name: 'a discard of no sectors', request: { type: DISCARD, data: ranges([8, 0]) }, status: OK },
  { name: 'a discard without a range', request: { type: DISCARD }, status: IOERR },
  { name: 'a discard of half a range', request: { type: DISCARD, data: new Uint8Array(8) }, status: IOERR },
  {
    name: 'a discard of one range and a half',
    request: { type: DISCARD, data: new Uint8Array(24) },
    status: IOERR,
  },
  { name: 'a discard over the end', request: { type: DISCARD, data: ranges([DISK - 1, 2]) }, status: IOERR },
  {
    name: 'a discard at 2^64 - 1',
    request: { type: DISCARD, data: ranges([2n ** 64n - 1n, 1]) },
    status: IOERR,
  },
  {
    name: 'a discard of 2^32 - 1 sectors',
    request: { type: DISCARD, data: ranges([0, 0xffffffff]) },
    status: IOERR,
  },
  {
    name: 'a discard whose second range is bad, which changes nothing',
    request: { type: DISCARD, data: ranges([8, 1], [DISK, 1]) },
    status: IOERR,
  },
  { name: 'a discard with unmap', request: { type: DISCARD, data: ranges([8, 1, UNMAP]) }, status: UNSUPP },
  {
    name: 'a discard with an unknown flag',
    request: { type: DISCARD, data: ranges([8, 1, 0x80000000]) },
    status: UNSUPP,
  },
  {
    name: 'a discard of more ranges than announced',
    request: { type: DISCARD, data: ranges([1, 1], [2, 1], [3, 1], [4, 1]) },
    status: UNSUPP,
  },
  {
    name: 'write zeroes',
    request: { type: WRITE_ZEROES, data: ranges([8, 4]) },
    status: OK,
    disk: changed(8, zeros(4)),
  },
  {
    name: 'write zeroes with unmap',
    request: { type: WRITE_ZEROES, data: ranges([8, 4, UNMAP]) },
    status: OK,
    disk: changed(8, zeros(4)),
  },
  {
    name: 'write zeroes with an unknown flag',
    request: { type: WRITE_ZEROES, data: ranges([8, 1, 3]) },
    status: UNSUPP,
  },
  {
    name: 'write zeroes with an unknown flag and a bad range',
    request: { type: WRITE_ZEROES, data: ranges([DISK, 1, 2]) },
    status: UNSUPP,
  },
  {
    name: 'write zeroes over the end',
    request: { type: WRITE_ZEROES, data: ranges([DISK, 1]) },
    status: IOERR,
  },
  {
    name: 'write zeroes of too many ranges',
    request: { type: WRITE_ZEROES, data: ranges([1, 1], [2, 1], [3, 1], [4, 1]) },
    status: UNSUPP,
  },
  // C28: SCSI passthrough is never offered.
  ...[2, 3, 5, 10, 14, 15, 16, 18, 20, 22, 24, 26, 9, 0x80000000, 0x80000001, 0xffffffff].map((type) => ({
    name: `type ${type}, which is not offered`,
    request: { type, sector: 1, room: SECTOR },
    status: UNSUPP,
  })),
];

for (const [layout, offer] of Object.entries(layouts)) {
  const test = suite(`requests, ${layout}`);
  for (const { name, request, status, written = 1, answer, disk = content } of cases) {
    test(`C11: ${name}`, async () => {
      const target = new Disk({ content: content.slice(), options: { serial: 'disk-1', rangesMax: 3 } });
      const outcome = await target.run(request, offer);
      assert.is(outcome.status, status);
      assert.is(outcome.written, written);
      if (answer === undefined) assert.ok(outcome.answer.every((byte) => byte === UNTOUCHED));
      else assert.equal(outcome.answer, answer);
      assert.equal(target.image.bytes, disk);
      assert.ok(target.queue.gapsUntouched);
      assert.is(target.device.pending, 0);
    });
  }
  test.run();
}

const broken = suite('chains that are no request');

for (let length = 0; length < 16; length++) {
  broken(`C11: a header of ${length} bytes is an error`, () => {
    const disk = new Disk();
    const chain = disk.queue.offer([header({ type: READ }).subarray(0, length)], [1]);
    disk.serve();
    assert.equal(outcomeOf(chain), { status: IOERR, written: 1, answer: new Uint8Array(0) });
  });
}

broken('C11: without room for a status nothing is done, and the driver gets its chain back', () => {
  const disk = new Disk({ content: content.slice() });
  const short = disk.queue.offer([header({ type: WRITE }), zeros(1)], []);
  const next = disk.offer({ type: READ, room: SECTOR });
  disk.serve();
  assert.is(short.written, 0);
  assert.equal(disk.image.bytes, content);
  assert.is(outcomeOf(next).status, OK);
  assert.equal(disk.logged, ['warn: a request has no room for its status']);
});

broken('complaints do not flood the log', () => {
  const disk = new Disk();
  for (let i = 0; i < 100; i++) disk.queue.offer([header({ type: WRITE })], []);
  disk.serve();
  assert.is(disk.logged.length, 7);
});

broken.run();

const limits = suite('a disk that offers less');

limits('refuses every change when it is read-only', async () => {
  const disk = new Disk({ content: content.slice(), readOnly: true });
  assert.is((await disk.run({ type: WRITE, data: zeros(1) })).status, IOERR);
  assert.is((await disk.run({ type: WRITE })).status, IOERR);
  assert.is((await disk.run({ type: DISCARD, data: ranges([0, 1]) })).status, UNSUPP);
  assert.is((await disk.run({ type: WRITE_ZEROES, data: ranges([0, 1]) })).status, UNSUPP);
  assert.is((await disk.run({ type: FLUSH })).status, OK);
  assert.equal((await disk.run({ type: READ, room: SECTOR })).answer, sectors(0, 1));
  assert.equal(disk.image.bytes, content);
});

limits('refuses discard and write zeroes where the medium cannot do them', async () => {
  const disk = new Disk({ image: { canDiscard: false, canWriteZeroes: false } });
  assert.is((await disk.run({ type: DISCARD, data: ranges([0, 1]) })).status, UNSUPP);
  assert.is((await disk.run({ type: WRITE_ZEROES, data: ranges([0, 1]) })).status, UNSUPP);
});

limits('refuses a second range where one is announced', async () => {
  const disk = new Disk({ options: { rangesMax: 1 } });
  assert.is((await disk.run({ type: DISCARD, data: ranges([0, 1], [2, 1]) })).status, UNSUPP);
  assert.is((await disk.run({ type: DISCARD, data: ranges([0, 1]) })).status, OK);
});

limits('leaves out a tail of less than a sector', async () => {
  const disk = new Disk({ content: new Uint8Array(2 * SECTOR + 511) });
  assert.is((await disk.run({ type: READ, sector: 1, room: SECTOR })).status, OK);
  assert.is((await disk.run({ type: READ, sector: 2, room: SECTOR })).status, IOERR);
});

limits.run();
