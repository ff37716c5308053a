import type { PacketMemory, PacketRegion } from '../../devices/net/port.js';
import type { CopyTable, Platform } from '../../platform/platform.js';

/** Packets in the platform's windows. */
export class PlatformPacketMemory implements PacketMemory {
  readonly u8: readonly Uint8Array[];
  readonly u32: readonly Uint32Array[];
  readonly copies: CopyTable;
  readonly #platform: Platform;

  constructor(platform: Platform) {
    this.#platform = platform;
    this.u8 = platform.windows.u8;
    this.u32 = platform.windows.u32;
    this.copies = platform.copies;
  }

  allocate(bytes: number): PacketRegion {
    const fd = this.#platform.createSharedMemory('vhost-user-net', BigInt(bytes));
    try {
      const mapping = this.#platform.map(fd, 0n, BigInt(bytes));
      return { window: mapping.firstWindow, length: bytes, release: () => mapping.unmap() };
    } finally {
      this.#platform.closeFd(fd);
    }
  }
}
