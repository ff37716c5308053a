import { OFFLOADS } from '../../devices/net/offloads.js';
import {
  ALL_ROWS,
  type NetPort,
  type PacketBurst,
  type PacketMemory,
  type PacketReceiver,
} from '../../devices/net/port.js';

/** Gives every packet back as it came, on the pair on which it came. Sending stops while the driver has no buffers. */
export class EchoPort implements NetPort {
  readonly memory: PacketMemory;
  readonly offloads = OFFLOADS.sent | OFFLOADS.received;
  readonly pairs = 128;
  readonly up = true;
  #receiver: PacketReceiver | null = null;
  /** By pair: whether it waits to send. */
  readonly #blocked: boolean[] = [];

  constructor(memory: PacketMemory) {
    this.memory = memory;
  }

  connect(receiver: PacketReceiver): void {
    this.#receiver = receiver;
  }

  transmit(burst: PacketBurst, first: number, count: number, pair: number): number {
    const rows = first === 0 ? ALL_ROWS : ALL_ROWS.subarray(first);
    const end = first + this.#receiver!.offer(burst, rows, count - first, pair);
    this.#blocked[pair] = end < count;
    return end;
  }

  /** A pair that receives nothing itself waits for the buffers of another. */
  receiveReady(): void {
    this.#blocked.forEach((blocked, pair) => {
      if (blocked) this.#receiver!.transmitReady(pair);
    });
  }

  close(): void {}
}
