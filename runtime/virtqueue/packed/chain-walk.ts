import type { ChainBuilder, DescriptorCopy } from '../chain-builder.js';
import { readPackedDescriptor, TableReader } from '../indirect-table.js';
import { INDIRECT, NEXT, WRITE } from './layout.js';

/** What the walk of a chain needs of the ring. */
export interface PackedChainSource {
  /** The descriptor ring as words. */
  readonly descriptors: Int32Array;
  readonly size: number;
  /** Longest chain through an indirect table; at least `size`. */
  readonly chainLimit: number;
  /** Slots that no chain in flight holds. */
  readonly freeSlots: number;
  readonly indirect: boolean;
}

/** A walked chain's buffer id, and how many ring slots it takes. */
export interface PackedChain {
  readonly id: number;
  readonly slots: number;
}

/**
 * Walks one chain from slot `head` by the letter of virtio 1.4, 2.8.5 to 2.8.8, and adds its buffers to `chain`. Throws
 * what is wrong with it. Only the head's AVAIL and USED bits count: it is made available last. The buffer id is that of
 * the last descriptor in the ring.
 *
 * A direct chain holds at most `size` buffers, one through an indirect table `chainLimit` (see split/chain-walk.ts). A
 * pointer to a table may stand behind direct descriptors, as the split ring demands; no driver is known that does so here.
 */
export function walkPackedChain(source: PackedChainSource, head: number, chain: ChainBuilder): PackedChain {
  const { descriptors, size } = source;
  const descriptor: DescriptorCopy = { address: 0, length: 0, flags: 0, tail: 0 };
  for (let slots = 1; ; slots++) {
    if (slots > source.freeSlots) {
      throw chain.error(
        'ERR_VIRTQ_CHAIN',
        `the chain in slot ${head} takes more than the ${source.freeSlots} free slots of a ring of ${size}`,
      );
    }
    readPackedDescriptor(descriptors, (head + slots - 1) % size, descriptor);
    if ((descriptor.flags & INDIRECT) !== 0) {
      if (!source.indirect)
        throw chain.error('ERR_VIRTQ_INDIRECT', 'indirect descriptors were not negotiated');
      walkIndirect(descriptor, source.chainLimit, source.chainLimit - (slots - 1), chain);
      return { id: descriptor.tail, slots };
    }
    chain.add(descriptor.address, descriptor.length, descriptor.flags & WRITE);
    if ((descriptor.flags & NEXT) === 0) return { id: descriptor.tail, slots };
  }
}

/** Entries lie one behind the other; of their flags only WRITE counts, their ids mean nothing (2.8.8). */
function walkIndirect(pointer: DescriptorCopy, limit: number, budget: number, chain: ChainBuilder): void {
  if ((pointer.flags & NEXT) !== 0) {
    throw chain.error('ERR_VIRTQ_INDIRECT', 'a descriptor has both INDIRECT and NEXT set');
  }
  const table = new TableReader(pointer, limit, chain, readPackedDescriptor);
  if (table.entries > budget) {
    throw chain.error('ERR_VIRTQ_CHAIN', `a chain holds over ${limit} descriptors`);
  }
  const descriptor: DescriptorCopy = { address: 0, length: 0, flags: 0, tail: 0 };
  for (let index = 0; index < table.entries; index++) {
    table.read(index, descriptor);
    if ((descriptor.flags & INDIRECT) !== 0) {
      throw chain.error('ERR_VIRTQ_INDIRECT', 'an indirect table names another indirect table');
    }
    chain.add(descriptor.address, descriptor.length, descriptor.flags & WRITE);
  }
}
