import { OFFLOADS } from '../../devices/net/offloads.js';
import type { NetPort, PacketBurst, PacketMemory, PacketReceiver } from '../../devices/net/port.js';

/** Takes everything and gives nothing: for measuring what a driver can send. */
export class SinkPort implements NetPort {
  readonly memory: PacketMemory;
  readonly offloads = OFFLOADS.sent;
  readonly pairs = 128;
  readonly up = true;

  constructor(memory: PacketMemory) {
    this.memory = memory;
  }

  connect(_receiver: PacketReceiver): void {}

  transmit(_burst: PacketBurst, _first: number, count: number): number {
    return count;
  }

  close(): void {}
}
