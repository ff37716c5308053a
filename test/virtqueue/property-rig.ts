import * as assert from 'uvu/assert';
import { GuestMemory, MemoryRegion } from '../../runtime/memory/guest-memory.js';
import { createFakePlatform, type FakePlatform } from '../../runtime/platform/fake.js';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import type {
  DeviceVirtqueue,
  MemoryPlace,
  VirtqueueAreas,
  VirtqueueState,
} from '../../runtime/virtqueue/device-virtqueue.js';
import { type DriverVirtqueue, ringLayout, UsedBatch } from '../../runtime/virtqueue/driver-virtqueue.js';
import { startDriverVirtqueue } from '../../runtime/virtqueue/start-driver.js';
import { Random } from '../support/random.js';
import { initialVirtqueueState, startDeviceVirtqueue } from '../../runtime/virtqueue/start.js';

/** What a property runs over. */
export interface RigOptions {
  readonly format: 'split' | 'packed';
  readonly size: number;
  readonly eventIdx?: boolean;
  readonly inOrder?: boolean;
  readonly indirectCapacity?: number;
  readonly state?: VirtqueueState;
  /** Each area of the ring begins on a page of its own. */
  readonly spread?: boolean;
}

/** One buffer of a chain, as both sides must see it. */
export interface Buffer {
  readonly window: number;
  readonly offset: number;
  readonly length: number;
  readonly writable: boolean;
}

/** Size in bytes of each data region; there are two, far apart in guest addresses, and one region for the ring. */
export const DATA_BYTES = 1 << 17;

/** Both sides of one ring over shared memory of the fake platform. */
export class Rig {
  readonly platform: FakePlatform = createFakePlatform();
  readonly memory: GuestMemory;
  readonly areas: VirtqueueAreas;
  readonly driver: DriverVirtqueue;
  readonly device: DeviceVirtqueue;
  readonly dataWindows: readonly number[];
  readonly tables: MemoryPlace;
  readonly options: RigOptions;

  constructor(options: RigOptions) {
    this.options = options;
    const { format, size, indirectCapacity = 0 } = options;
    const layout = ringLayout(format, size);
    let end = 0;
    const take = (length: number, alignment: number) => {
      const step = options.spread === true ? 4096 : alignment;
      const offset = Math.ceil(end / step) * step;
      end = offset + length;
      return offset;
    };
    const offsets = {
      descriptor: take(layout.descriptor.length, 16),
      driver: take(layout.driver.length, layout.driver.alignment),
      device: take(layout.device.length, layout.device.alignment),
      tables: take(size * indirectCapacity * 16, 16),
    };
    const ring = this.#region(0x10_0000n, BigInt(Math.ceil(end / 4096) * 4096));
    const data = [
      this.#region(0x4000_0000n, BigInt(DATA_BYTES)),
      this.#region(0x1_8000_0000n, BigInt(DATA_BYTES)),
    ];
    this.memory = new GuestMemory([ring, ...data]);
    this.dataWindows = data.map((region) => region.mapping.firstWindow);
    const place = (offset: number): MemoryPlace => ({ window: ring.mapping.firstWindow, offset });
    this.areas = {
      descriptor: place(offsets.descriptor),
      driver: place(offsets.driver),
      device: place(offsets.device),
    };
    this.tables = place(offsets.tables);
    const common = {
      index: 0,
      size,
      format,
      eventIdx: options.eventIdx ?? false,
      inOrder: options.inOrder ?? false,
      areas: this.areas,
      memory: this.memory,
    };
    this.driver = startDriverVirtqueue(
      {
        ...common,
        ...(indirectCapacity > 0 ? { indirect: { place: this.tables, capacity: indirectCapacity } } : {}),
        ...(options.state === undefined ? {} : { state: options.state }),
      },
      this.platform.windows,
    );
    const state = options.state ?? initialVirtqueueState(format);
    this.device = startDeviceVirtqueue(
      { ...common, indirect: indirectCapacity > 0, state },
      this.platform.windows,
    );
  }

  /** A raw view of one area, for writes that a well-behaved side would not do. */
  u16(area: keyof VirtqueueAreas): Uint16Array {
    const { window, offset } = this.areas[area];
    const bytes = this.platform.windows.u8[window]!;
    const { length } = ringLayout(this.options.format, this.options.size)[area];
    return new Uint16Array(bytes.buffer, bytes.byteOffset + offset, length >>> 1);
  }

  u32(area: keyof VirtqueueAreas): Uint32Array {
    const words = this.u16(area);
    return new Uint32Array(words.buffer, words.byteOffset, words.byteLength >>> 2);
  }

  /** Adds one chain through the table form. */
  add(buffers: readonly Buffer[], indirect = false): number {
    const table = new Int32Array(buffers.length * 4);
    buffers.forEach((buffer, i) => table.set([buffer.window, buffer.offset, buffer.length], i * 4));
    const readable = buffers.filter((buffer) => !buffer.writable).length;
    return indirect
      ? this.driver.addIndirect(table, 0, readable, buffers.length - readable)
      : this.driver.add(table, 0, readable, buffers.length - readable);
  }

  /** The device's view of what is available now. */
  drain(max = this.options.size): { handle: number; buffers: Buffer[] }[] {
    const batch = new ChainBatch(max, max + 4 * this.options.size);
    const count = this.device.drain(batch, max);
    return Array.from({ length: count }, (_, row) => chainOf(batch, row));
  }

  /** What the driver collects now. */
  collect(max = this.options.size): { id: number; length: number }[] {
    const used = new UsedBatch(max);
    const count = this.driver.collect(used, max);
    return Array.from({ length: count }, (_, i) => ({ id: used.ids[i]!, length: used.lengths[i]! }));
  }

  #region(guestAddress: bigint, size: bigint): MemoryRegion {
    const fd = this.platform.createSharedMemory('rig', size);
    const userAddress = guestAddress + 0x7f00_0000_0000n;
    const region = MemoryRegion.map(this.platform, { guestAddress, size, userAddress, mmapOffset: 0n }, fd);
    this.platform.closeFd(fd);
    return region;
  }
}

/** One row of a batch with its segments. */
export function chainOf(batch: ChainBatch, row: number): { handle: number; buffers: Buffer[] } {
  const [handle, first, readable, writable] = batch.chains.subarray(row * 4, row * 4 + 4);
  const buffers = Array.from({ length: readable! + writable! }, (_, i) => {
    const [window, offset, length, flags] = batch.segments.subarray((first! + i) * 4, (first! + i) * 4 + 4);
    assert.is((flags! & 2) !== 0, i >= readable!, 'WRITE is kept for the writable segments alone');
    return { window: window!, offset: offset!, length: length!, writable: i >= readable! };
  });
  return { handle: handle!, buffers };
}

/** A random chain of 1 to `longest` buffers in the rig's data regions. */
export function randomChain(random: Random, rig: Rig, longest: number): Buffer[] {
  const length = 1 + random.below(random.chance(2) ? Math.min(3, longest) : longest);
  const readable = random.below(length + 1);
  return Array.from({ length }, (_, i) => {
    const bytes = 1 + random.below(!random.chance(5) ? 600 : 70_000);
    return {
      window: random.pick(rig.dataWindows),
      offset: random.below(DATA_BYTES - bytes + 1),
      length: bytes,
      writable: i >= readable,
    };
  });
}

export function writableBytes(buffers: readonly Buffer[]): number {
  return buffers.reduce((sum, buffer) => sum + (buffer.writable ? buffer.length : 0), 0);
}
