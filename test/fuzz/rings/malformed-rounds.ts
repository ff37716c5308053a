import * as assert from 'uvu/assert';
import type { VirtqueueErrorCode } from '../../../runtime/errors.js';
import { ChainBatch } from '../../../runtime/virtqueue/chain-batch.js';
import { Random } from '../../support/random.js';
import {
  INDIRECT,
  NEXT,
  packedTable,
  type RawDescriptor,
  type RawPackedRing,
  type RawSplitRing,
  splitTable,
  WRITE,
} from '../../support/raw-rings.js';
import { TestGuest } from '../../support/test-guest.js';
import type { DeviceVirtqueue, VirtqueueInflight } from '../../../runtime/virtqueue/device-virtqueue.js';
import { inflightStride } from '../../../runtime/virtqueue/inflight/region.js';
import { chainsOf, type DeviceRig, packedRig, type SeenChain, splitRig } from '../../virtqueue/device-rig.js';
import { joined, type ModelChain, RingModel } from '../../virtqueue/ring-model.js';

/**
 * Rings full of chance: descriptors, tables and heads are drawn with every kind of defect in them, and the device's side
 * must come to the same chains and the same verdict as the slow model of ring-model.ts.
 */

/** How a round ended, and how many chains were put before the device in it. */
export interface RoundOutcome {
  readonly verdict: 'good' | 'ran over' | VirtqueueErrorCode;
  readonly chains: number;
}

/** Two regions that touch, a hole, one behind it, one above 4 GiB, one across 8 GiB. */
const REGIONS = [
  { address: 0, size: 0x1_0000 },
  { address: 0x1_0000, size: 0x1000 },
  { address: 0x2_0000, size: 0x8000 },
  { address: 0x1_0000_0000, size: 0x8000 },
  { address: 0x1_ffff_c000, size: 0x8000 },
];
/** Where rings end and tables and buffers may lie. */
const FREE = 0x8000;
/** Flags of a packed descriptor. */
const AVAIL = 1 << 7;
const PAGE = 4096;
const USED = 1 << 15;

/** Mostly good places, with a taste for borders. */
function address(random: Random, length: number): number | bigint {
  if (random.chance(150)) return BigInt(random.below(0x1_0000)) << BigInt(random.below(49));
  const region = random.pick(REGIONS);
  const from = region.address === 0 ? FREE : region.address;
  const end = region.address + region.size;
  if (random.chance(20)) return end - random.below(length + 2);
  if (random.chance(30)) return from;
  return from + random.below(Math.max(1, end - from - length));
}

function bufferLength(random: Random): number {
  if (random.chance(12)) return 0;
  if (random.chance(150)) return random.pick([0x8000_0000, 0xffff_ffff, 0x2000_0001, 0x10_0001]);
  return 1 + random.below(random.chance(4) ? 0x1800 : 64);
}

function buffer(random: Random, writable: boolean): RawDescriptor {
  const length = bufferLength(random);
  return { address: address(random, length), length, flags: writable ? WRITE : 0 };
}

/** Buffers of one chain, readable ones first unless chance has it otherwise. */
function buffers(random: Random, most: number): RawDescriptor[] {
  const count = 1 + random.below(most);
  const readable = random.below(count + 1);
  const shuffled = random.chance(60);
  return Array.from({ length: count }, (_, i) => buffer(random, shuffled ? random.chance(2) : i >= readable));
}

/** A pointer to a table that was just written into memory. */
function indirect(random: Random, guest: TestGuest, format: 'split' | 'packed', size: number): RawDescriptor {
  const entries = buffers(random, random.chance(12) ? size + 4 : Math.min(size, 4));
  const odd = random.chance(8) ? random.below(entries.length) : -1;
  const table = entries.map((entry, i) => {
    const more = i + 1 < entries.length;
    const bits = i === odd ? random.pick([0, NEXT, INDIRECT, 0xfff8]) : 0;
    const next = i === odd ? random.below(size + 2) : more ? i + 1 : 0;
    return { ...entry, flags: (entry.flags ?? 0) | (more ? NEXT : 0) | bits, next };
  });
  const bytes = format === 'split' ? splitTable(table) : packedTable(table);
  const at = tablePlace(random, bytes.length);
  guest.write(at, bytes);
  const length = random.chance(30) ? random.pick([0, 8, bytes.length + 16, 0x1_0010]) : bytes.length;
  const outside = random.chance(60) ? 0x1_0ff8 : at;
  const flags = INDIRECT | (random.chance(10) ? WRITE : 0) | (random.chance(40) ? NEXT : 0);
  return { address: outside, length, flags };
}

/** Somewhere in memory, now and then over the border of the two regions that touch, or at an odd address. */
function tablePlace(random: Random, length: number): number {
  if (random.chance(5)) return 0x1_0000 - random.below(length);
  const even = FREE + 16 * random.below(0x400);
  return random.chance(8) ? even + random.below(16) : even;
}

function compare(seen: SeenChain, expected: ModelChain, note: string): void {
  const parts = [
    ...seen.readable.map(([at, length]) => ({ address: at, length, writable: false })),
    ...seen.writable.map(([at, length]) => ({ address: at, length, writable: true })),
  ];
  assert.equal(
    { handle: seen.handle, ranges: joined(parts) },
    { handle: expected.handle, ranges: expected.ranges },
    note,
  );
}

/** Completes a few of the chains in flight, in any order. */
function completeSome(
  random: Random,
  rig: DeviceRig<RawSplitRing | RawPackedRing>,
  inFlight: Map<number, ModelChain>,
  marks: Marks | null,
): number {
  let slots = 0;
  const completed: ModelChain[] = [];
  for (const [handle, chain] of [...inFlight]) {
    if (random.chance(3)) continue;
    const writable = chain.ranges
      .filter((range) => range.writable)
      .reduce((sum, range) => sum + range.length, 0);
    rig.queue.complete(handle, random.below(Math.min(writable, 1000) + 1));
    inFlight.delete(handle);
    completed.push(chain);
    slots += chain.slots;
  }
  rig.queue.publish();
  checkUsed(rig, completed);
  marks?.check(completed);
  rig.queue.needsCall();
  if (random.chance(2)) rig.queue.enableNotifications();
  else rig.queue.disableNotifications();
  return slots;
}

/** Fresh memory for the record of chains in flight. */
export function trackedIn(guest: TestGuest, format: 'split' | 'packed', size: number): VirtqueueInflight {
  const length = BigInt(inflightStride(format, size));
  const fd = guest.platform.createSharedMemory('inflight', length);
  const mapping = guest.platform.map(fd, 0n, length);
  return { window: mapping.firstWindow, offset: 0, capacity: size, mapping };
}

/** A dirty log by page, and whether all is in it that a device may have written. */
class Marks {
  readonly #pages = new Set<number>();

  constructor(guest: TestGuest, queue: DeviceVirtqueue) {
    const writer = {
      mark: (address: number, length: number): boolean => {
        for (let page = Math.floor(address / PAGE); page * PAGE < address + length; page++) {
          assert.ok(this.#pages.size < 1 << 20, 'pages without end are marked');
          this.#pages.add(page);
        }
        return true;
      },
    };
    const windowAddresses = guest.memory.windowAddresses();
    queue.setLog({ writer, windowAddresses, descriptor: [], device: [] });
  }

  check(completed: readonly ModelChain[]): void {
    for (const { address, length, writable } of completed.flatMap(({ ranges }) => ranges)) {
      for (let page = Math.floor(address / PAGE); writable && page * PAGE < address + length; page++) {
        assert.ok(this.#pages.has(page), `page ${page} is not marked`);
      }
    }
  }
}

/** The driver finds what was completed, each chain once. */
function checkUsed(
  { guest, ring }: DeviceRig<RawSplitRing | RawPackedRing>,
  completed: readonly ModelChain[],
): void {
  const used: number[] = [];
  if ('usedIndex' in ring) {
    const first = ring.usedIndex - completed.length;
    for (let i = 0; i < completed.length; i++) used.push(ring.used((first + i) & 0xffff).id);
  } else {
    for (const { slots } of completed) {
      const flags = ring.flagsOf(ring.usedCursor) & (AVAIL | USED);
      assert.is(flags, ring.usedWrap === 1 ? AVAIL | USED : 0, 'flags of a used element');
      used.push(guest.view(ring.descriptorAddress + ring.usedCursor * 16, 16).getUint16(12, true));
      ring.usedCursor += slots;
      if (ring.usedCursor < ring.size) continue;
      ring.usedCursor -= ring.size;
      ring.usedWrap = ring.usedWrap === 1 ? 0 : 1;
    }
  }
  assert.equal(
    used,
    completed.map(({ handle }) => handle),
    'used elements',
  );
}

/** A broken queue gives nothing more, and its first reason stays. */
function checkLatched({ queue }: DeviceRig<RawSplitRing | RawPackedRing>): void {
  const { broken } = queue;
  assert.is(queue.drain(new ChainBatch(8, 64), 8), 0, 'a broken queue gives nothing');
  assert.is(queue.broken, broken, 'the first reason stays');
}

/** A few turns of chains on a split ring of `size`. Throws where queue and model do not agree. */
export function splitRound(random: Random, size: number, note: string): RoundOutcome {
  const negotiated = !random.chance(20);
  const chainLimit = random.chance(3) ? size + random.below(4) : 0;
  const eventIdx = random.chance(2);
  const guest = new TestGuest(REGIONS);
  const inflight = random.chance(3) ? trackedIn(guest, 'split', size) : null;
  const tracked = inflight === null ? {} : { inflight };
  const rig = splitRig({ guest, ...tracked, size, eventIdx, indirect: negotiated, chainLimit });
  const { ring, queue } = rig;
  const marks = random.chance(3) ? new Marks(guest, queue) : null;
  const model = new RingModel(guest, REGIONS, 'split', size, ring.descriptorAddress, negotiated, chainLimit);
  const inFlight = new Map<number, ModelChain>();
  let next = 0;
  let chains = 0;
  for (let round = 0; round < 4; round++) {
    const free = Array.from({ length: size }, (_, i) => i).filter((i) => !inFlight.has(i));
    const heads: number[] = [];
    while (free.length > 0 && heads.length + inFlight.size < size && !random.chance(4)) {
      const chain = buffers(random, Math.min(3, free.length));
      if (random.chance(3)) chain.splice(chain.length - 1, 1, indirect(random, guest, 'split', size));
      const slots = free.splice(0, chain.length);
      ring.chain(slots, chain);
      if (random.chance(40)) {
        const odd = { ...buffer(random, random.chance(2)), next: random.below(size + 1) };
        ring.descriptor(random.pick(slots), { ...odd, flags: (odd.flags ?? 0) | random.below(8) });
      }
      heads.push(random.chance(60) ? random.below(size + 2) : slots[0]!);
    }
    ring.offer(...heads);
    chains += heads.length;
    const batch = new ChainBatch(1 + random.below(size), 8 * size + 64);
    let offered = heads.length;
    while (offered > 0) {
      const count = queue.drain(batch, 1 + random.below(size));
      const seen = chainsOf(guest, batch);
      for (const chain of seen) {
        const expected = model.split(heads[heads.length - offered]!, new Set(inFlight.keys()));
        assert.ok('chain' in expected, `${note}: the model says ${JSON.stringify(expected)}`);
        compare(chain, expected.chain, note);
        inFlight.set(chain.handle, expected.chain);
        offered--;
        next = (next + 1) & 0xffff;
      }
      if (queue.broken !== null) {
        const expected = model.split(heads[heads.length - offered]!, new Set(inFlight.keys()));
        assert.equal(expected, { defect: queue.broken.code }, `${note}: ${queue.broken.message}`);
        assert.equal(queue.state(), { format: 'split', nextAvailable: next, nextUsed: ring.usedIndex }, note);
        checkLatched(rig);
        return { verdict: queue.broken.code, chains };
      }
      assert.ok(count > 0, `${note}: ${offered} chains left and nothing drained`);
    }
    assert.is(queue.inFlight, inFlight.size);
    completeSome(random, rig, inFlight, marks);
  }
  return { verdict: 'good', chains };
}

/** The same on a packed ring. */
export function packedRound(random: Random, size: number, note: string): RoundOutcome {
  const negotiated = !random.chance(20);
  const chainLimit = random.chance(3) ? size + random.below(4) : 0;
  const eventIdx = random.chance(2);
  const guest = new TestGuest(REGIONS);
  const inflight = random.chance(3) ? trackedIn(guest, 'packed', size) : null;
  const tracked = inflight === null ? {} : { inflight };
  const rig = packedRig({ guest, ...tracked, size, eventIdx, indirect: negotiated, chainLimit });
  const { ring, queue } = rig;
  const marks = random.chance(3) ? new Marks(guest, queue) : null;
  const model = new RingModel(guest, REGIONS, 'packed', size, ring.descriptorAddress, negotiated, chainLimit);
  const inFlight = new Map<number, ModelChain>();
  let cursor = 0;
  let freeSlots = size;
  let chains = 0;
  for (let round = 0; round < 5; round++) {
    const ids = Array.from({ length: size }, (_, i) => i).filter((i) => !inFlight.has(i));
    let offered = 0;
    for (let room = freeSlots; room > 0 && ids.length > 0 && !random.chance(4); offered++) {
      const chain = buffers(random, Math.min(3, room));
      if (random.chance(3)) chain.splice(chain.length - 1, 1, indirect(random, guest, 'packed', size));
      room -= chain.length;
      const [id] = ids.splice(random.below(ids.length), 1);
      // Now and then NEXT in the last one: the walk runs on into whatever stands there.
      if (random.chance(40))
        chain[chain.length - 1] = { ...chain.at(-1)!, flags: (chain.at(-1)!.flags ?? 0) | NEXT };
      ring.offer(random.chance(60) ? random.below(size + 2) : id!, chain, random.below(0x1_0000));
    }
    chains += offered;
    const batch = new ChainBatch(1 + random.below(size), 8 * size + 64);
    while (offered > 0) {
      const count = queue.drain(batch, 1 + random.below(size));
      for (const chain of chainsOf(guest, batch)) {
        const expected = model.packed(cursor, freeSlots, new Set(inFlight.keys()));
        assert.ok('chain' in expected, `${note}: the model says ${JSON.stringify(expected)}`);
        compare(chain, expected.chain, note);
        inFlight.set(chain.handle, expected.chain);
        freeSlots -= expected.chain.slots;
        cursor = (cursor + expected.chain.slots) % size;
        offered--;
      }
      if (queue.broken !== null) {
        const expected = model.packed(cursor, freeSlots, new Set(inFlight.keys()));
        assert.equal(expected, { defect: queue.broken.code }, `${note}: ${queue.broken.message}`);
        checkLatched(rig);
        return { verdict: queue.broken.code, chains };
      }
      if (count === 0) {
        // A chain ran over the next one's head, which is no head any more.
        assert.not(queue.hasAvailable(), note);
        return { verdict: 'ran over', chains };
      }
    }
    assert.is(queue.inFlight, inFlight.size);
    freeSlots += completeSome(random, rig, inFlight, marks);
  }
  return { verdict: 'good', chains };
}
