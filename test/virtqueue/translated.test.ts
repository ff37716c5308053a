import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Access, Iotlb } from '../../runtime/memory/iotlb.js';
import { AddressMap } from '../../runtime/virtqueue/address-map.js';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import type { DeviceVirtqueue } from '../../runtime/virtqueue/device-virtqueue.js';
import { startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';
import type { Fault, Translation } from '../../runtime/virtqueue/translation.js';
import { Random } from '../support/random.js';
import {
  INDIRECT,
  NEXT,
  packedTable,
  RawPackedRing,
  RawSplitRing,
  splitTable,
  WRITE,
} from '../support/raw-rings.js';
import { TestGuest } from '../support/test-guest.js';
import { DATA, packedRig, splitRig } from './device-rig.js';

/** Rings behind random page tables, compared with a model that looks every byte up by itself. */
const test = suite('chains behind an IOMMU');

const PAGE = 4096;
const PAGES = 24;
const SIZE = 8;
/** Of the test guest's regions. */
const USER = 0x7000_0000_0000n;
/** Pages that the device may be told of; some lie on both sides of a 4 GiB boundary. */
const IOVA = 2 ** 32 - 8 * PAGE;

interface Entry {
  readonly address: number;
  readonly permission: number;
}

/** A front-end's page table, and what the device has of it. */
class PageTable implements Translation {
  readonly pages: (Entry | null)[];
  readonly iotlb = new Iotlb();
  readonly faults: Fault[] = [];
  readonly refused: Fault[] = [];
  readonly #guest: TestGuest;

  constructor(guest: TestGuest, random: Random) {
    this.#guest = guest;
    this.iotlb.setMemory(guest.memory);
    this.pages = Array.from({ length: PAGES }, () => {
      // The first page lies where its window starts, which is where the hot loops go.
      const first = random.chance(4);
      return {
        address: first ? 0 : DATA + random.below(40) * PAGE,
        permission: random.chance(first ? 6 : 60) ? 1 + random.below(2) : Access.readWrite,
      };
    });
  }

  get map(): AddressMap {
    return AddressMap.ofTranslations(this.iotlb.runs, this.#guest.windows);
  }

  missed(faults: readonly Fault[]): void {
    this.faults.push(...faults);
  }

  mayGrant(): boolean {
    return false;
  }

  denied(fault: Fault): void {
    this.refused.push(fault);
  }

  tell(page: number): void {
    const { address, permission } = this.pages[page]!;
    this.iotlb.update(BigInt(IOVA + page * PAGE), BigInt(PAGE), USER + BigInt(address), permission);
  }

  forget(page: number): void {
    this.iotlb.invalidate(BigInt(IOVA + page * PAGE), BigInt(PAGE));
  }

  /** Where a byte lies in the guest; null where the table does not allow the access. */
  byte(iova: number, access: number): number | null {
    const entry = this.pages[Math.floor((iova - IOVA) / PAGE)];
    if (entry === null || entry === undefined || (entry.permission & access) === 0) return null;
    return entry.address + ((iova - IOVA) % PAGE);
  }
}

interface Buffer {
  readonly address: number;
  readonly length: number;
  readonly flags: number;
}

function randomChain(random: Random): Buffer[] {
  const count = 1 + random.below(SIZE - 2);
  const readable = random.below(count + 1);
  return Array.from({ length: count }, (_, i) => {
    const length = random.pick([1, 16, 512, PAGE, 2 * PAGE + 5, 3 * PAGE]);
    const address = IOVA + random.below(PAGES * PAGE - length);
    return { address, length, flags: i < readable ? 0 : WRITE };
  });
}

for (const format of ['split', 'packed'] as const) {
  for (let seed = 1; seed <= 30; seed++) {
    test(`${format}, seed ${seed}: segments are what the page table says, byte by byte`, () => {
      const random = new Random(seed);
      const { guest, ring, configuration } =
        format === 'split' ? splitRig({ size: SIZE }) : packedRig({ size: SIZE });
      const table = new PageTable(guest, random);
      const queue = startDeviceVirtqueue({ ...configuration, translation: table }, guest.windows);
      const batch = new ChainBatch(4, 256);
      for (let step = 0; step < 40 && queue.broken === null; step++) {
        for (let page = 0; page < PAGES; page++) {
          if (random.chance(3)) table.forget(page);
          else if (random.chance(3)) table.tell(page);
        }
        const chain = randomChain(random);
        const indirect = random.chance(2);
        const tableAt = IOVA + random.below(PAGES * PAGE - 16 * chain.length);
        let offered: Buffer[] = chain;
        if (indirect) {
          offered = [{ address: tableAt, length: 16 * chain.length, flags: INDIRECT }];
          writeTable(guest, table, tableAt, chain, format);
        }
        // The table may lie in one of its own buffers' pages, or where it cannot be read.
        if (ring instanceof RawSplitRing) {
          const slots = offered.map((_, i) => i);
          ring.chain(slots, offered);
          ring.offer(0);
        } else (ring as RawPackedRing).offer(0, offered);

        let taken = queue.drain(batch, 4);
        for (let rounds = 0; taken === 0 && queue.broken === null; rounds++) {
          assert.ok(rounds < 100, 'it ends');
          assert.ok(table.faults.length > 0, 'what is missing is asked for');
          assert.not(queue.hasAvailable(), 'and the ring waits');
          assert.is(queue.drain(batch, 4), 0);
          const asked = table.faults.splice(0);
          for (const { address } of asked) {
            assert.is(table.iotlb.find(address), null, 'nothing is asked for that is there');
          }
          for (const { address } of asked) table.tell(Math.floor((address - IOVA) / PAGE));
          queue.translated();
          taken = queue.drain(batch, 4);
        }
        const expected = expectedBytes(table, chain, indirect ? tableAt : null);
        if (expected === null) {
          assert.is(brokenBy(queue), 'ERR_VIRTQ_ADDRESS', `step ${step}`);
          assert.is(table.refused.length, 1);
          return;
        }
        assert.is(queue.broken, null, `step ${step}`);
        assert.is(taken, 1);
        assert.equal(drainedBytes(guest, batch), expected, `step ${step}`);
        batch.written[0] = 0;
        queue.pushBatch(batch, 1);
        if (ring instanceof RawPackedRing) ring.poll();
      }
    });
  }
}

function brokenBy({ broken }: DeviceVirtqueue): string | undefined {
  return broken?.code;
}

function writeTable(
  guest: TestGuest,
  table: PageTable,
  at: number,
  chain: readonly Buffer[],
  format: 'split' | 'packed',
): void {
  const chained = chain.map((buffer, i) => ({
    ...buffer,
    flags: buffer.flags | (format === 'split' && i + 1 < chain.length ? NEXT : 0),
    next: format === 'split' ? i + 1 : 0,
  }));
  // Every page of the table, whatever it allows the device.
  const bytes = (format === 'split' ? splitTable : packedTable)(chained);
  for (const [i, byte] of bytes.entries()) {
    const { address } = table.pages[Math.floor((at + i - IOVA) / PAGE)]!;
    guest.bytes(address + ((at + i - IOVA) % PAGE), 1)[0] = byte;
  }
}

/** Ranges of guest memory, joined, readable ones and writable ones; null when the chain asks for what it may not have. */
function expectedBytes(table: PageTable, chain: readonly Buffer[], tableAt: number | null) {
  for (let i = 0; tableAt !== null && i < 16 * chain.length; i++) {
    if (table.byte(tableAt + i, Access.read) === null) return null;
  }
  const seen: { readonly at: number; readonly flags: number }[] = [];
  for (const { address, length, flags } of chain) {
    for (let i = 0; i < length; i++) {
      const at = table.byte(address + i, flags === 0 ? Access.read : Access.write);
      if (at === null) return null;
      seen.push({ at, flags });
    }
  }
  return joined(seen);
}

function drainedBytes(guest: TestGuest, batch: ChainBatch) {
  const [, first, readable, writable] = batch.chains;
  const seen: { at: number; flags: number }[] = [];
  for (let row = first!; row < first! + readable! + writable!; row++) {
    const [window, offset, length, flags] = batch.segments.subarray(row * 4, row * 4 + 4);
    assert.is(flags, row < first! + readable! ? 0 : WRITE);
    for (let i = 0; i < length!; i++) seen.push({ at: guest.address(window!, offset! + i), flags: flags! });
  }
  return joined(seen);
}

function joined(bytes: readonly { readonly at: number; readonly flags: number }[]) {
  const ranges: { start: number; end: number; flags: number }[] = [];
  for (const { at, flags } of bytes) {
    const last = ranges.at(-1);
    if (last !== undefined && last.end === at && last.flags === flags) last.end++;
    else ranges.push({ start: at, end: at + 1, flags });
  }
  return ranges;
}

test.run();
