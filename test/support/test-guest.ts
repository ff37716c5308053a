import { GuestMemory, MemoryRegion } from '../../runtime/memory/guest-memory.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import type { VirtqueueAreas, MemoryPlace } from '../../runtime/virtqueue/device-virtqueue.js';
import { WINDOW_STRIDE } from '../../runtime/platform/platform.js';

/** Where a test's guest has memory, in guest addresses and bytes. */
export interface TestRegion {
  readonly address: number;
  readonly size: number;
}

/** A guest's memory on the fake platform, with plain access by guest address. */
export class TestGuest {
  readonly platform = createFakePlatform();
  readonly memory: GuestMemory;
  readonly #fds: number[] = [];

  constructor(regions: readonly TestRegion[] = [{ address: 0, size: 0x10_0000 }]) {
    this.memory = new GuestMemory(regions.map((region) => this.#map(region)));
  }

  get windows() {
    return this.platform.windows;
  }

  /** A second snapshot of the same memory, mapped anew. */
  mapAgain(options?: { lazy?: boolean }): GuestMemory {
    return new GuestMemory(
      this.memory.regions.map(({ description }, i) =>
        MemoryRegion.map(this.platform, description, this.#fds[i]!, options),
      ),
    );
  }

  /** Cuts the first region's file off: every mapping of it is damaged from then on. */
  truncate(): void {
    this.platform.truncateSharedMemory(this.#fds[0]!, 0);
  }

  /** Where a guest address lies. */
  place(address: number, memory = this.memory): MemoryPlace {
    const place = memory.translate(address, 1);
    if (place === null) throw new RangeError(`no memory at guest address 0x${address.toString(16)}`);
    return place;
  }

  areas(descriptor: number, driver: number, device: number, memory = this.memory): VirtqueueAreas {
    return {
      descriptor: this.place(descriptor, memory),
      driver: this.place(driver, memory),
      device: this.place(device, memory),
    };
  }

  /** Guest address of a place. */
  address(window: number, offset: number): number {
    for (const { description, mapping } of this.memory.regions) {
      const step = window - mapping.firstWindow;
      if (step < 0 || step >= mapping.windowCount) continue;
      return Number(description.guestAddress) + step * WINDOW_STRIDE + offset;
    }
    throw new RangeError(`no window ${window}`);
  }

  /** Bytes of one region. */
  bytes(address: number, length: number): Uint8Array {
    const { window, offset } = this.place(address);
    return this.windows.u8[window]!.subarray(offset, offset + length);
  }

  view(address: number, length: number): DataView {
    const bytes = this.bytes(address, length);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** Writes bytes that may cross from one region into the next. */
  write(address: number, bytes: Uint8Array): void {
    for (const [i, byte] of bytes.entries()) this.bytes(address + i, 1)[0] = byte;
  }

  #map(region: TestRegion): MemoryRegion {
    const fd = this.platform.createSharedMemory('guest', BigInt(region.size));
    this.#fds.push(fd);
    const description = {
      guestAddress: BigInt(region.address),
      size: BigInt(region.size),
      userAddress: 0x7000_0000_0000n + BigInt(region.address),
      mmapOffset: 0n,
    };
    return MemoryRegion.map(this.platform, description, fd);
  }
}
