import type { VirtqueueErrorCode } from '../../runtime/errors.js';
import type { TestGuest, TestRegion } from '../support/test-guest.js';

/**
 * What a driver wrote, read as the specification says and as slowly as it takes: one descriptor object after the other,
 * bigint addresses, a search through all regions for each byte range. The oracle of the malformed-ring tests.
 */

/** Bytes of one direction that lie together. */
export interface ModelRange {
  readonly address: number;
  readonly length: number;
  readonly writable: boolean;
}

export interface ModelChain {
  readonly handle: number;
  readonly ranges: readonly ModelRange[];
  /** Packed: ring slots that it takes. */
  readonly slots: number;
}

export type ModelVerdict = { readonly chain: ModelChain } | { readonly defect: VirtqueueErrorCode };

interface Descriptor {
  readonly address: bigint;
  readonly length: number;
  readonly next: boolean;
  readonly writable: boolean;
  readonly indirect: boolean;
  /** Split: next; packed: id. */
  readonly tail: number;
}

class Defect extends Error {
  readonly code: VirtqueueErrorCode;

  constructor(code: VirtqueueErrorCode) {
    super(code);
    this.code = code;
  }
}

export class RingModel {
  readonly #guest: TestGuest;
  readonly #regions: readonly TestRegion[];
  readonly #format: 'split' | 'packed';
  readonly #size: number;
  readonly #table: number;
  readonly #indirect: boolean;
  readonly #chainLimit: number;

  /** `table` is the guest address of the descriptors, `chainLimit` bounds chains through an indirect table. */
  constructor(
    guest: TestGuest,
    regions: readonly TestRegion[],
    format: 'split' | 'packed',
    size: number,
    table: number,
    indirect: boolean,
    chainLimit: number,
  ) {
    this.#guest = guest;
    this.#regions = regions;
    this.#format = format;
    this.#size = size;
    this.#table = table;
    this.#indirect = indirect;
    this.#chainLimit = Math.max(size, chainLimit);
  }

  split(head: number, inFlight: ReadonlySet<number>): ModelVerdict {
    return verdict(() => {
      if (head >= this.#size || inFlight.has(head)) throw new Defect('ERR_VIRTQ_HEAD');
      const chain: Descriptor[] = [];
      for (let index = head; ;) {
        if (index >= this.#size) throw new Defect('ERR_VIRTQ_CHAIN');
        const descriptor = this.#ringDescriptor(index);
        if (descriptor.indirect) {
          this.#checkPointer(descriptor);
          this.#followTable(descriptor, chain);
          break;
        }
        this.#add(chain, descriptor, this.#size);
        if (!descriptor.next) break;
        index = descriptor.tail;
      }
      return { handle: head, ranges: ranges(chain), slots: 1 };
    });
  }

  packed(head: number, freeSlots: number, inFlight: ReadonlySet<number>): ModelVerdict {
    return verdict(() => {
      const chain: Descriptor[] = [];
      let slots = 0;
      let last: Descriptor;
      do {
        if (slots === freeSlots) throw new Defect('ERR_VIRTQ_CHAIN');
        last = this.#ringDescriptor((head + slots) % this.#size);
        slots++;
        if (last.indirect) {
          this.#checkPointer(last);
          const entries = last.length / 16;
          if (chain.length + entries > this.#chainLimit) throw new Defect('ERR_VIRTQ_CHAIN');
          for (let i = 0; i < entries; i++) {
            const entry = this.#tableEntry(last, i);
            if (entry.indirect) throw new Defect('ERR_VIRTQ_INDIRECT');
            this.#add(chain, entry, this.#chainLimit);
          }
          break;
        }
        this.#add(chain, last, this.#size);
      } while (last.next);
      if (last.tail >= this.#size || inFlight.has(last.tail)) throw new Defect('ERR_VIRTQ_HEAD');
      return { handle: last.tail, ranges: ranges(chain), slots };
    });
  }

  #checkPointer(pointer: Descriptor): void {
    const { length } = pointer;
    const good =
      this.#indirect && !pointer.next && length > 0 && length % 16 === 0 && length <= 16 * this.#chainLimit;
    if (!good) throw new Defect('ERR_VIRTQ_INDIRECT');
  }

  #followTable(pointer: Descriptor, chain: Descriptor[]): void {
    for (let index = 0; ;) {
      if (index >= pointer.length / 16) throw new Defect('ERR_VIRTQ_INDIRECT');
      if (chain.length === this.#chainLimit) throw new Defect('ERR_VIRTQ_CHAIN');
      const entry = this.#tableEntry(pointer, index);
      if (entry.indirect) throw new Defect('ERR_VIRTQ_INDIRECT');
      this.#add(chain, entry, this.#chainLimit);
      if (!entry.next) return;
      index = entry.tail;
    }
  }

  #add(chain: Descriptor[], descriptor: Descriptor, limit: number): void {
    if (chain.length === limit) throw new Defect('ERR_VIRTQ_CHAIN');
    if (!descriptor.writable && chain.some((before) => before.writable)) throw new Defect('ERR_VIRTQ_ORDER');
    chain.push(descriptor);
    if (chain.reduce((sum, each) => sum + each.length, 0) > 2 ** 32) throw new Defect('ERR_VIRTQ_CHAIN');
    if (!this.#isMemory(descriptor.address, descriptor.length)) throw new Defect('ERR_VIRTQ_ADDRESS');
  }

  #isMemory(address: bigint, length: number): boolean {
    if (length === 0) return true;
    const region = this.#regions.find(
      (each) => address >= BigInt(each.address) && address < BigInt(each.address + each.size),
    );
    if (region === undefined) return false;
    const end = BigInt(region.address + region.size);
    if (address + BigInt(length) <= end) return true;
    return this.#isMemory(end, length - Number(end - address));
  }

  #ringDescriptor(index: number): Descriptor {
    return this.#descriptor(this.#guest.view(this.#table + index * 16, 16));
  }

  #tableEntry(pointer: Descriptor, index: number): Descriptor {
    const address = pointer.address + BigInt(index * 16);
    if (!this.#isMemory(address, 16)) throw new Defect('ERR_VIRTQ_INDIRECT');
    const bytes = Uint8Array.from({ length: 16 }, (_, i) => this.#guest.bytes(Number(address) + i, 1)[0]!);
    return this.#descriptor(new DataView(bytes.buffer));
  }

  #descriptor(view: DataView): Descriptor {
    const [flagsAt, tailAt] = this.#format === 'split' ? [12, 14] : [14, 12];
    const flags = view.getUint16(flagsAt!, true);
    return {
      address: view.getBigUint64(0, true),
      length: view.getUint32(8, true),
      next: (flags & 1) !== 0,
      writable: (flags & 2) !== 0,
      indirect: (flags & 4) !== 0,
      tail: view.getUint16(tailAt!, true),
    };
  }
}

function verdict(read: () => ModelChain): ModelVerdict {
  try {
    return { chain: read() };
  } catch (error) {
    if (error instanceof Defect) return { defect: error.code };
    throw error;
  }
}

function ranges(chain: readonly Descriptor[]): ModelRange[] {
  return joined(
    chain.map(({ address, length, writable }) => ({ address: Number(address), length, writable })),
  );
}

/** The same bytes with neighbours joined and empty ranges left out: two ways to cut them compare equal. */
export function joined(parts: readonly ModelRange[]): ModelRange[] {
  const whole: ModelRange[] = [];
  for (const part of parts) {
    const before = whole.at(-1);
    if (part.length === 0) continue;
    if (before?.writable === part.writable && before.address + before.length === part.address) {
      whole[whole.length - 1] = { ...before, length: before.length + part.length };
    } else {
      whole.push(part);
    }
  }
  return whole;
}
