import { windowAddresses } from '../../../runtime/virtqueue/base-driver-virtqueue.js';
import { ChainBatch } from '../../../runtime/virtqueue/chain-batch.js';
import type { DeviceVirtqueue } from '../../../runtime/virtqueue/device-virtqueue.js';
import { type DriverVirtqueue, ringLayout, UsedBatch } from '../../../runtime/virtqueue/driver-virtqueue.js';
import { startDriverVirtqueue } from '../../../runtime/virtqueue/start-driver.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../../runtime/virtqueue/start.js';
import type { TestGuest } from '../../support/test-guest.js';
import {
  buffersOf,
  type Contender,
  type Format,
  type Offer,
  offerOf,
  RING_SIZE,
  SEGMENT_CAPACITY,
  type Shape,
  TABLES,
  WRITTEN,
} from './contender.js';
import { WRITE } from '../../support/raw-rings.js';
import type { Yardstick } from './yardstick.js';

/** Descriptors of each indirect table. */
const TABLE_CAPACITY = 3;

/** Where one queue lies, and what a lap adds to it. */
interface Lap {
  readonly format: Format;
  readonly offer: Offer;
  readonly descriptor: number;
  readonly driver: number;
  readonly device: number;
  readonly tables: number;
  /** Segments of every chain, one chain behind the other. */
  readonly rows: Int32Array;
  readonly total: number;
  readonly readable: number;
}

function lapOf(guest: TestGuest, format: Format, shape: Shape, base: number): Lap {
  const offer = offerOf(shape);
  const layout = ringLayout(format, RING_SIZE);
  const driver = base + layout.descriptor.length;
  const device = (driver + layout.driver.length + 63) & -64;
  const total = offer.buffers.length;
  const rows = new Int32Array(offer.chains * total * 4);
  for (let chain = 0; chain < offer.chains; chain++) {
    for (const [i, { address, length }] of buffersOf(offer, chain).entries()) {
      const { window, offset } = guest.place(Number(address));
      rows.set([window, offset, length, 0], (chain * total + i) * 4);
    }
  }
  const readable = offer.buffers.filter(({ flags }) => flags !== WRITE).length;
  return { format, offer, descriptor: base, driver, device, tables: TABLES + base, rows, total, readable };
}

/** The TypeScript rings; this package's device uses the chains and is not measured. */
export function createTypeScriptDriver(
  guest: TestGuest,
  format: Format,
  shape: Shape,
  base: number,
): Contender {
  const lap = lapOf(guest, format, shape, base);
  const common = {
    index: 0,
    size: RING_SIZE,
    format,
    eventIdx: true,
    inOrder: false,
    areas: guest.areas(lap.descriptor, lap.driver, lap.device),
    memory: guest.memory,
  };
  const indirect = { place: guest.place(lap.tables), capacity: TABLE_CAPACITY };
  const driver = startDriverVirtqueue({ ...common, indirect }, guest.windows);
  const device = startDeviceVirtqueue(
    { ...common, indirect: true, state: initialVirtqueueState(format) },
    guest.windows,
  );
  const batch = new ChainBatch(RING_SIZE, SEGMENT_CAPACITY);
  batch.written.fill(WRITTEN);
  const used = new UsedBatch(RING_SIZE);
  return {
    chainsInLap: lap.offer.chains,
    run(laps, batchSize) {
      let total = 0;
      for (let i = 0; i < laps; i++) {
        let start = performance.now();
        addLap(driver, lap, batchSize);
        total += performance.now() - start;
        useAll(device, batch);
        start = performance.now();
        collectLap(driver, used, lap.offer.chains, batchSize);
        total += performance.now() - start;
      }
      if (driver.broken !== null) throw driver.broken;
      if (driver.inFlight > 0) throw new Error(`${driver.inFlight} chains were not collected`);
      return total * 1e6;
    },
  };
}

function addLap(driver: DriverVirtqueue, { rows, offer, total, readable }: Lap, batchSize: number): void {
  const { chains, indirect } = offer;
  for (let chain = 0; chain < chains;) {
    const end = Math.min(chains, chain + batchSize);
    for (; chain < end; chain++) {
      if (indirect) driver.addIndirect(rows, chain * total, readable, total - readable);
      else driver.add(rows, chain * total, readable, total - readable);
    }
    driver.publish();
  }
}

function useAll(device: DeviceVirtqueue, batch: ChainBatch): void {
  for (let count = device.drain(batch, RING_SIZE); count > 0; count = device.drain(batch, RING_SIZE)) {
    device.pushBatch(batch, count);
  }
}

function collectLap(driver: DriverVirtqueue, used: UsedBatch, chains: number, batchSize: number): void {
  for (let left = chains; left > 0;) {
    const count = driver.collect(used, batchSize);
    if (count === 0) return;
    left -= count;
  }
}

/** The C++ loops of driver-loop.cc. */
export function createNativeDriver(
  guest: TestGuest,
  format: Format,
  shape: Shape,
  base: number,
  yardstick: Yardstick,
): Contender {
  const lap = lapOf(guest, format, shape, base);
  const { offer, total, readable, rows } = lap;
  const layout = ringLayout(format, RING_SIZE);
  const tables = { rows, ids: new Uint16Array(RING_SIZE), lengths: new Uint32Array(RING_SIZE) };
  const areas = [
    guest.bytes(lap.descriptor, layout.descriptor.length),
    guest.bytes(lap.driver, layout.driver.length),
    guest.bytes(lap.device, layout.device.length),
    guest.bytes(lap.tables, RING_SIZE * TABLE_CAPACITY * 16),
  ];
  const queue = yardstick.create(
    Int32Array.of(
      ...[format === 'packed' ? 1 : 0, RING_SIZE, offer.indirect ? 1 : 0, readable, total, offer.chains],
      ...[TABLE_CAPACITY, WRITTEN],
    ),
    ...areas,
    rows,
    Float64Array.of(lap.tables, ...windowAddresses(guest.memory)),
    tables.ids,
    tables.lengths,
  );
  return {
    chainsInLap: offer.chains,
    tables,
    run(laps, batchSize) {
      const nanoseconds = yardstick.run(queue, laps, batchSize);
      if (nanoseconds < 0) {
        throw new Error(`the yardstick refused a chain (${format}, ${shape}, batch ${batchSize})`);
      }
      return nanoseconds;
    },
  };
}
