import type { DirtyWriter } from '../../../runtime/memory/dirty-log.js';
import type { DeviceVirtqueue, VirtqueueInflight } from '../../../runtime/virtqueue/device-virtqueue.js';
import type { Yardstick } from './yardstick.js';
import { ChainBatch } from '../../../runtime/virtqueue/chain-batch.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../../runtime/virtqueue/start.js';
import {
  INDIRECT,
  NEXT,
  packedTable,
  type RawDescriptor,
  RawPackedRing,
  RawSplitRing,
  splitTable,
  WRITE,
} from '../../support/raw-rings.js';
import { TestGuest } from '../../support/test-guest.js';

export const RING_SIZE = 256;
export const SHAPES = ['1 descriptor', '2 descriptors', '3 descriptors', 'indirect 3'] as const;
export type Shape = (typeof SHAPES)[number];
export type Format = 'split' | 'packed';

const BUFFERS = 0x1_0000_0000;
/** End of the guest's memory. */
export const MEMORY_END = BUFFERS + RING_SIZE * 0x4000;
export const TABLES = 0x10_0000;
export const WRITTEN = 16;
export const SEGMENT_CAPACITY = 3 * RING_SIZE;
const PLAIN_LENGTH = Math.floor(0xffff_ffff / RING_SIZE);

/** Something that serves laps: every chain of the ring offered once, drained and pushed in batches. */
export interface Contender {
  /** Nanoseconds in drain and push, refilling not counted. */
  run(laps: number, batch: number): number;
  readonly chainsInLap: number;
  /** Memory that native code points to: kept here, or it would be collected. */
  readonly tables?: object;
}

/** What a queue does for the sake of others beside its work. */
export interface Safety {
  /** Keeps record of chains in flight there. */
  readonly inflight?: VirtqueueInflight;
  /** Logs its writes there. */
  readonly log?: DirtyWriter;
}

/** What the guest offers in one lap, the same for both contenders. */
export interface Offer {
  readonly chains: number;
  readonly buffers: readonly RawDescriptor[];
  readonly indirect: boolean;
}

export function offerOf(shape: Shape): Offer {
  const length = shape === 'indirect 3' ? 3 : Number(shape[0]);
  const buffers = [
    { address: 0, length: 16 },
    { address: 0x1000, length: 4096, flags: WRITE },
    { address: 0x3000, length: 16, flags: WRITE },
  ];
  // A request of 1 is one writable buffer, of 2 header and data, of 3 header, data and status.
  const chosen = length === 1 ? [buffers[1]!] : buffers.slice(0, length);
  return {
    chains: shape === 'indirect 3' ? RING_SIZE : Math.floor(RING_SIZE / length),
    buffers: chosen,
    indirect: shape === 'indirect 3',
  };
}

export function buffersOf(offer: Offer, chain: number): RawDescriptor[] {
  return offer.buffers.map((buffer) => ({
    ...buffer,
    address: BUFFERS + chain * 0x4000 + Number(buffer.address),
  }));
}

/** Rings in low memory, buffers in a second region above 4 GiB: the usual layout of a PC guest. */
export function createGuest(): TestGuest {
  return new TestGuest([
    { address: 0, size: 0x20_0000 },
    { address: BUFFERS, size: RING_SIZE * 0x4000 },
  ]);
}

/** Descriptors of every chain of a lap as they stand in the ring. */
function ringDescriptors(guest: TestGuest, format: Format, offer: Offer, tables: number): RawDescriptor[][] {
  return Array.from({ length: offer.chains }, (_, chain) => {
    const buffers = buffersOf(offer, chain);
    if (!offer.indirect) return buffers;
    const address = tables + chain * 64;
    const linked = buffers.map((buffer, i) => ({
      ...buffer,
      flags: (buffer.flags ?? 0) | (i + 1 < buffers.length ? NEXT : 0),
      next: i + 1 < buffers.length ? i + 1 : 0,
    }));
    guest.write(address, format === 'split' ? splitTable(linked) : packedTable(buffers));
    return [{ address, length: 16 * buffers.length, flags: INDIRECT }];
  });
}

export function createTypeScriptContender(
  guest: TestGuest,
  format: Format,
  shape: Shape,
  base: number,
  safety: Safety = {},
): Contender {
  const offer = offerOf(shape);
  const ring =
    format === 'split' ? new RawSplitRing(guest, RING_SIZE, base) : new RawPackedRing(guest, RING_SIZE, base);
  const descriptors = ringDescriptors(guest, format, offer, TABLES + base);
  const queue = startDeviceVirtqueue(
    {
      index: 0,
      size: RING_SIZE,
      format,
      eventIdx: true,
      indirect: true,
      inOrder: false,
      areas: guest.areas(ring.descriptorAddress, ring.driverAddress, ring.deviceAddress),
      memory: guest.memory,
      state: initialVirtqueueState(format),
      ...(safety.inflight !== undefined && { inflight: safety.inflight }),
    },
    guest.windows,
  );
  if (safety.log !== undefined) {
    queue.setLog({
      writer: safety.log,
      windowAddresses: guest.memory.windowAddresses(),
      descriptor: format === 'packed' ? [ring.descriptorAddress] : [],
      device: [ring.deviceAddress],
    });
  }
  const heads: number[] = [];
  for (const [chain, each] of descriptors.entries()) {
    const slots = each.map((_, i) => chain * each.length + i);
    heads.push(slots[0]!);
    if (ring instanceof RawSplitRing) ring.chain(slots, each);
  }
  const refill = (): void => {
    if (ring instanceof RawSplitRing) {
      ring.offer(...heads);
      return;
    }
    while (ring.poll() !== null);
    for (const [chain, each] of descriptors.entries()) ring.offer(chain, each, chain);
  };
  const batch = new ChainBatch(RING_SIZE, SEGMENT_CAPACITY);
  batch.written.fill(WRITTEN);
  if (offer.buffers.every((buffer) => buffer.flags !== WRITE)) batch.written.fill(0);
  const chainsInLap = offer.chains;
  return {
    chainsInLap,
    run(laps, batchSize) {
      let total = 0;
      for (let lap = 0; lap < laps; lap++) {
        refill();
        const start = performance.now();
        serveLap(queue, batch, chainsInLap, batchSize);
        total += performance.now() - start;
      }
      if (queue.broken !== null) throw queue.broken;
      return total * 1e6;
    },
  };
}

function serveLap(queue: DeviceVirtqueue, batch: ChainBatch, chains: number, batchSize: number): void {
  for (let left = chains; left > 0;) {
    const count = queue.drain(batch, batchSize);
    if (count === 0) return;
    queue.pushBatch(batch, count);
    left -= count;
  }
}

export function createNativeContender(
  guest: TestGuest,
  format: Format,
  shape: Shape,
  base: number,
  yardstick: Yardstick,
): Contender {
  const offer = offerOf(shape);
  const ring =
    format === 'split' ? new RawSplitRing(guest, RING_SIZE, base) : new RawPackedRing(guest, RING_SIZE, base);
  const descriptors = ringDescriptors(guest, format, offer, TABLES + base);
  const heads: RawDescriptor[] = [];
  const offers: Uint8Array[] = [];
  for (const [chain, each] of descriptors.entries()) {
    const slots = each.map((_, i) => chain * each.length + i);
    if (ring instanceof RawSplitRing) {
      ring.chain(slots, each);
      heads.push({ address: 0, length: 0, next: slots[0]! });
    } else {
      const linked = each.map((one, i) => ({
        ...one,
        flags: (one.flags ?? 0) | (i + 1 < each.length ? NEXT : 0),
        next: chain,
      }));
      offers.push(packedTable(linked));
    }
  }
  const offered = format === 'split' ? splitTable(heads) : Buffer.concat(offers);
  const written = new Uint32Array(RING_SIZE).fill(WRITTEN);
  if (offer.buffers.every((buffer) => buffer.flags !== WRITE)) written.fill(0);
  const bytes = (address: number, length: number): Uint8Array => guest.bytes(address, length);
  const { memory } = guest;
  const tables = {
    chains: new Int32Array(RING_SIZE * 4),
    segments: new Int32Array(SEGMENT_CAPACITY * 4),
    written,
    windows: Array.from(memory.firstWindows, (window) => guest.windows.u8[window]!),
  };
  const queue = yardstick.create(
    Int32Array.of(format === 'packed' ? 1 : 0, RING_SIZE, SEGMENT_CAPACITY, PLAIN_LENGTH, offer.chains),
    bytes(ring.descriptorAddress, 16 * RING_SIZE),
    bytes(ring.driverAddress, 4),
    bytes(ring.deviceAddress, 4),
    tables.chains,
    tables.segments,
    tables.written,
    offered,
    Float64Array.from(
      memory.regions.flatMap((_, i) => [memory.starts[i]!, memory.ends[i]!, memory.firstWindows[i]!]),
    ),
    ...tables.windows,
  );
  return {
    chainsInLap: offer.chains,
    tables,
    run(laps, batchSize) {
      const total = yardstick.run(queue, laps, batchSize);
      if (total < 0)
        throw new Error(`the yardstick refused a chain (${format}, ${shape}, batch ${batchSize})`);
      return total;
    },
  };
}
