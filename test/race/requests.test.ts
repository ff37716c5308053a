/** Another thread rewrites requests and packet headers while devices read them: every decision follows from one reading. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PlatformPacketMemory } from '../../runtime/backings/ports/packet-memory.js';
import { RamBacking } from '../../runtime/backings/ram.js';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import {
  NetDevice,
  type NetPort,
  OFFLOADS,
  PACKET_STRIDE,
  type PacketBurst,
  PacketColumn,
} from '../../runtime/devices/net/index.js';
import type { GuestBuffer } from '../../runtime/memory/shared-memory.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { Loopback } from '../../runtime/testing/loopback.js';
import { UsedBatch } from '../../runtime/virtqueue/driver-virtqueue.js';
import { BlkRequestType, BlkStatus } from '../../generated/virtio/devices/blk/layouts.js';
import { type RewrittenWord, whileRewritten } from './rewriter.js';

const platform = createLinuxPlatform();
const test = suite('requests change while a device reads them');

const SECTOR = 512;
const SECTORS = 128;
const ROUNDS = { least: 2000, most: 200_000 };

/** Where a buffer lies in the file of a loopback's memory. */
function inFile(loopback: Loopback, buffer: GuestBuffer): number {
  const { description } = loopback.ram.regions[0]!.region;
  return Number(description.mmapOffset) + buffer.guestAddress - Number(description.guestAddress);
}

/** One chain through a queue, buffers as they are; resolves with the length that the device reports. */
async function sent(loopback: Loopback, index: number, readable: GuestBuffer[], writable: GuestBuffer[]) {
  const queue = loopback.queues[index]!;
  const table = new Int32Array((readable.length + writable.length) * 4);
  [...readable, ...writable].forEach((buffer, i) =>
    table.set([buffer.window, buffer.offset, buffer.length], i * 4),
  );
  assert.ok(queue.driver.add(table, 0, readable.length, writable.length) >= 0);
  queue.commit();
  const used = new UsedBatch(1);
  while (queue.driver.collect(used, 1) === 0) await queue.called();
  return used.lengths[0]!;
}

/** A disk whose sectors hold their own numbers. */
async function disk(
  format: 'split' | 'packed',
): Promise<{ loopback: Loopback; read(sector: number): Promise<Uint8Array> }> {
  const backing = new RamBacking(platform, BigInt(SECTORS * SECTOR));
  const loopback = new Loopback(new BlockDevice(backing), {
    platform,
    format,
    queues: 1,
    queueSize: 16,
    ram: { size: 1 << 20 },
  });
  const [header, data, status] = [16, SECTOR, 1].map((length) => loopback.ram.allocate(length));
  const request = async (type: number, sector: number): Promise<void> => {
    new DataView(header!.bytes.buffer, header!.bytes.byteOffset).setUint32(0, type, true);
    new DataView(header!.bytes.buffer, header!.bytes.byteOffset).setUint32(8, sector, true);
    if (type === BlkRequestType.out) await sent(loopback, 0, [header!, data!], [status!]);
    else await sent(loopback, 0, [header!], [data!, status!]);
    assert.is(status!.bytes[0], BlkStatus.ok);
  };
  for (let sector = 0; sector < SECTORS; sector++) {
    data!.bytes.fill(sector);
    await request(BlkRequestType.out, sector);
  }
  return {
    loopback,
    read: async (sector) => {
      await request(BlkRequestType.in, sector);
      return data!.bytes.slice();
    },
  };
}

const LARGE = 0xffff_ffff;

for (const format of ['split', 'packed'] as const) {
  test(`C8: ${format}: a block request is of one type and for one sector, whatever its header becomes`, async () => {
    const { loopback, read } = await disk(format);
    const [header, data, status] = [16, SECTOR, 1].map((length) => loopback.ram.allocate(length));
    const at = inFile(loopback, header!);
    const words: RewrittenWord[] = [
      // Read, the device's id, and two that nobody serves; an odd priority matters to nobody.
      { at, values: [0, 0, 0, 8, 2, 99] },
      { at: at + 4, values: [0, 7] },
      { at: at + 8, values: [3, 3, 5, 5, SECTORS, LARGE] },
      { at: at + 12, values: [0, 0, 0, LARGE] },
    ];
    const seen = new Map<string, number>();
    const task = { fd: loopback.ram.regions[0]!.fd, size: 1 << 20, words };
    await whileRewritten(task, async () => {
      const all = ['sector 3', 'sector 5', 'id', 'ioerr', 'unsupp'];
      const enough = () => all.every((what) => seen.has(what));
      for (let round = 0; round < ROUNDS.least || (!enough() && round < ROUNDS.most); round++) {
        data!.bytes.fill(0xee);
        status!.bytes[0] = 0xee;
        const length = await sent(loopback, 0, [header!], [data!, status!]);
        const what = outcome(data!.bytes, status!.bytes[0]!, length);
        seen.set(what, (seen.get(what) ?? 0) + 1);
      }
      assert.ok(enough(), JSON.stringify([...seen]));
    });
    for (let sector = 0; sector < SECTORS; sector++) {
      assert.ok(
        (await read(sector)).every((byte) => byte === sector),
        `sector ${sector}`,
      );
    }
    assert.is(loopback.queues[0]!.endReason, null);
    await loopback.stop();
  });

  test(`C8: ${format}: write zeroes reach what was checked and nothing else, whatever the range becomes`, async () => {
    const { loopback, read } = await disk(format);
    const [header, range, status] = [16, 16, 1].map((length) => loopback.ram.allocate(length));
    new DataView(header!.bytes.buffer, header!.bytes.byteOffset).setUint32(
      0,
      BlkRequestType.writeZeroes,
      true,
    );
    const at = inFile(loopback, range!);
    const words: RewrittenWord[] = [
      // Of sectors 8 to 10 at most; the rest does not fit on the disk, or is too long.
      { at, values: [8, 8, 9, SECTORS, LARGE] },
      { at: at + 4, values: [0, 0, 0, LARGE] },
      { at: at + 8, values: [1, 2, 2, 0x7fff_ffff, LARGE] },
      { at: at + 12, values: [0, 0, 1, 2, LARGE] },
    ];
    const seen = new Map<number, number>();
    const task = { fd: loopback.ram.regions[0]!.fd, size: 1 << 20, words };
    await whileRewritten(task, async () => {
      const enough = () => [BlkStatus.ok, BlkStatus.ioerr, BlkStatus.unsupp].every((what) => seen.has(what));
      for (let round = 0; round < ROUNDS.least || (!enough() && round < ROUNDS.most); round++) {
        status!.bytes[0] = 0xee;
        assert.is(await sent(loopback, 0, [header!, range!], [status!]), 1);
        const [said] = status!.bytes;
        assert.ok(said! <= BlkStatus.unsupp, `status ${said}`);
        seen.set(said!, (seen.get(said!) ?? 0) + 1);
      }
      assert.ok(enough(), JSON.stringify([...seen]));
    });
    for (let sector = 0; sector < SECTORS; sector++) {
      const zeroed = sector >= 8 && sector <= 10;
      const bytes = await read(sector);
      assert.ok(
        bytes.every((byte) => byte === sector) || (zeroed && bytes.every((byte) => byte === 0)),
        `sector ${sector}`,
      );
    }
    await loopback.stop();
  });
}

/** What a read came to; nothing in between may happen. */
function outcome(data: Uint8Array, status: number, length: number): string {
  const whole = data[0]!;
  if (status === BlkStatus.ok && length === SECTOR + 1) {
    assert.ok(whole === 3 || whole === 5, `sector ${whole}`);
    assert.ok(
      data.every((byte) => byte === whole),
      'the whole sector is one',
    );
    return `sector ${whole}`;
  }
  if (status === BlkStatus.ok) {
    assert.match(Buffer.from(data.subarray(0, 14)).toString(), 'vhost-user-blk');
    assert.ok(
      data.subarray(20).every((byte) => byte === 0xee),
      'an id of 20 bytes',
    );
    return 'id';
  }
  assert.ok(
    data.every((byte) => byte === 0xee),
    'nothing is written',
  );
  assert.ok(status === BlkStatus.ioerr || status === BlkStatus.unsupp, `status ${status}`);
  return status === BlkStatus.ioerr ? 'ioerr' : 'unsupp';
}

/** Looks at every packet that goes out. */
class CheckingPort implements NetPort {
  readonly memory = new PlatformPacketMemory(platform);
  readonly offloads = OFFLOADS.sent;
  readonly pairs = 1;
  readonly up = true;
  readonly seen = { plain: 0, checksum: 0, segments: 0 };

  connect(): void {}

  transmit(burst: PacketBurst, first: number, count: number): number {
    for (let row = first; row < count; row++)
      this.#look(burst.packets.subarray(row * PACKET_STRIDE, (row + 1) * PACKET_STRIDE));
    return count;
  }

  close(): void {}

  #look(packet: Int32Array): void {
    const header = new DataView(Int32Array.from(packet.subarray(0, 3)).buffer);
    const length = packet[PacketColumn.length]!;
    const [flags, gso] = [header.getUint8(0), header.getUint8(1)];
    const place = header.getUint16(6, true) + header.getUint16(8, true);
    assert.ok((flags & ~1) === 0, `flags ${flags}`);
    assert.ok([0, 1, 4].includes(gso & 0x7f), `segmentation ${gso}`);
    if ((flags & 1) !== 0) {
      assert.ok(place + 2 <= length, `a checksum at ${place} of ${length} bytes`);
      this.seen.checksum++;
    }
    if ((gso & 0x7f) !== 0) {
      assert.ok(header.getUint16(4, true) > 0 && (flags & 1) !== 0, 'segments have a size and a checksum');
      this.seen.segments++;
    } else this.seen.plain++;
  }
}

for (const format of ['split', 'packed'] as const) {
  test(`C8, C12: ${format}: a packet's header is what was checked, whatever it becomes`, async () => {
    const port = new CheckingPort();
    const device = new NetDevice(port);
    const loopback = new Loopback(device, { platform, format, queueSize: 16, ram: { size: 1 << 20 } });
    const packet = loopback.ram.allocate(12 + 200);
    packet.bytes.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45], 12);
    const at = inFile(loopback, packet);
    const word = (low: number, high: number): number => (low | (high << 16)) >>> 0;
    const words: RewrittenWord[] = [
      // Flags and kind of segmentation, bytes of headers.
      { at, values: [0, 0, 1, 1, 0x0101, 0x0401, 0x0100, 0x7701, 0xff].map((low) => word(low, 54)) },
      // Size of segments, start of the checksum; where it goes.
      { at: at + 4, values: [word(0, 0), word(100, 34), word(100, 34), word(100, 0xfff0), word(0, 199)] },
      { at: at + 8, values: [word(16, 0), word(16, 0), word(0xffff, 0), word(164, 9), word(165, 0)] },
    ];
    const task = { fd: loopback.ram.regions[0]!.fd, size: 1 << 20, words };
    await whileRewritten(task, async () => {
      const enough = () => Object.values(port.seen).every((times) => times > 0);
      for (let round = 0; round < ROUNDS.least || (!enough() && round < ROUNDS.most); round++) {
        await sent(loopback, 1, [packet], []);
      }
      assert.ok(enough(), JSON.stringify(port.seen));
    });
    assert.is(loopback.queues[1]!.endReason, null);
    await loopback.stop();
  });
}

test.run();
