import { type PacketBurst, PacketColumn } from './port.js';

export const FLOW_SLOTS = 4096;
const SLOTS = FLOW_SLOTS;

/**
 * Remembers on which pair of queues a flow is sent, so that what comes back for it is received there (virtio 1.4,
 * 5.1.6.5.6: automatic receive steering). Both directions of a flow have the same hash; flows that share one share a pair.
 */
export class FlowTable {
  readonly #pairs = new Uint16Array(SLOTS);

  /** The packet at column `at` was sent on `pair`. */
  learn(burst: PacketBurst, at: number, windows: readonly Uint8Array[], pair: number): void {
    this.#pairs[slotOf(burst, at, windows)] = pair;
  }

  /** The pair for the packet at column `at`. */
  pairOf(burst: PacketBurst, at: number, windows: readonly Uint8Array[]): number {
    return this.#pairs[slotOf(burst, at, windows)]!;
  }

  /** The pair of each slot. */
  save(): number[] {
    return [...this.#pairs];
  }

  /** `pairs` has an entry for each slot. */
  load(pairs: readonly number[]): void {
    this.#pairs.set(pairs);
  }

  clear(): void {
    this.#pairs.fill(0);
  }
}

/** Bytes that the hash looks at; a packet whose first segment is shorter has slot 0. */
const LOOKED_AT = 58;

function slotOf(burst: PacketBurst, at: number, windows: readonly Uint8Array[]): number {
  const segment = burst.packets[at + PacketColumn.firstSegment]! * 4;
  const { segments } = burst;
  const bytes = windows[segments[segment]!]!;
  const length = segments[segment + 2]!;
  let l3 = segments[segment + 1]! + 14;
  const end = l3 - 14 + length;
  if (length < 34) return 0;
  let type = (bytes[l3 - 2]! << 8) | bytes[l3 - 1]!;
  if (type === 0x8100) {
    type = (bytes[l3 + 2]! << 8) | bytes[l3 + 3]!;
    l3 += 4;
  }
  let hash = 0;
  let l4: number;
  let protocol: number;
  if (type === 0x0800 && l3 + 20 <= end) {
    for (let i = 0; i < 4; i++) hash = (hash << 8) | (bytes[l3 + 12 + i]! ^ bytes[l3 + 16 + i]!);
    l4 = l3 + (bytes[l3]! & 15) * 4;
    protocol = bytes[l3 + 9]!;
  } else if (type === 0x86dd && length >= LOOKED_AT && l3 + 40 <= end) {
    for (let i = 0; i < 16; i++) hash = Math.imul(hash, 31) + (bytes[l3 + 8 + i]! ^ bytes[l3 + 24 + i]!);
    l4 = l3 + 40;
    protocol = bytes[l3 + 6]!;
  } else {
    return 0;
  }
  // TCP and UDP have their ports first.
  if ((protocol === 6 || protocol === 17) && l4 + 4 <= end) {
    hash ^= ((bytes[l4]! ^ bytes[l4 + 2]!) << 8) | (bytes[l4 + 1]! ^ bytes[l4 + 3]!);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b);
  return (hash ^ (hash >>> 15)) & (SLOTS - 1);
}
