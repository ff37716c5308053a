import type { ChainBuilder, DescriptorCopy } from '../chain-builder.js';
import { INDIRECT, NEXT, WRITE } from './layout.js';
import { readSplitDescriptor, TableReader } from '../indirect-table.js';

/** What the walk of a direct chain needs of the ring. */
export interface SplitChainSource {
  /** The descriptor table as words. */
  readonly descriptors: Int32Array;
  readonly size: number;
  /** Longest chain through an indirect table; at least `size`. */
  readonly chainLimit: number;
  readonly indirect: boolean;
}

/**
 * Walks one chain by the letter of virtio 1.4, 2.7.5, and adds its buffers to `chain`. Throws what is wrong with it.
 *
 * A direct chain holds at most `size` buffers. By the text so does one through an indirect table (2.7.5.3.1), but Linux
 * bounds tables by the device type's own limit alone (seg_max of a disk), so they may hold `chainLimit` buffers.
 */
export function walkSplitChain(source: SplitChainSource, head: number, chain: ChainBuilder): void {
  const { descriptors, size } = source;
  const descriptor: DescriptorCopy = { address: 0, length: 0, flags: 0, tail: 0 };
  let budget = size;
  for (let index = head; ; index = descriptor.tail) {
    if (index >= size) {
      throw chain.error(
        'ERR_VIRTQ_CHAIN',
        `next names descriptor ${index}, the table has ${size} (head ${head})`,
      );
    }
    readSplitDescriptor(descriptors, index, descriptor);
    if ((descriptor.flags & INDIRECT) !== 0) {
      if (!source.indirect)
        throw chain.error('ERR_VIRTQ_INDIRECT', 'indirect descriptors were not negotiated');
      walkIndirect(descriptor, source.chainLimit, budget + source.chainLimit - size, chain);
      return;
    }
    if (budget-- === 0) throw tooLong(chain, size, head);
    chain.add(descriptor.address, descriptor.length, descriptor.flags & WRITE);
    if ((descriptor.flags & NEXT) === 0) return;
  }
}

function walkIndirect(pointer: DescriptorCopy, limit: number, budget: number, chain: ChainBuilder): void {
  if ((pointer.flags & NEXT) !== 0) {
    throw chain.error('ERR_VIRTQ_INDIRECT', 'a descriptor has both INDIRECT and NEXT set');
  }
  const table = new TableReader(pointer, limit, chain, readSplitDescriptor);
  const descriptor: DescriptorCopy = { address: 0, length: 0, flags: 0, tail: 0 };
  for (let index = 0; ; index = descriptor.tail) {
    if (index >= table.entries) {
      throw chain.error(
        'ERR_VIRTQ_INDIRECT',
        `next names entry ${index}, the indirect table has ${table.entries}`,
      );
    }
    if (budget-- === 0) {
      throw chain.error(
        'ERR_VIRTQ_CHAIN',
        `a chain through an indirect table loops or holds over ${limit} descriptors`,
      );
    }
    table.read(index, descriptor);
    if ((descriptor.flags & INDIRECT) !== 0) {
      throw chain.error('ERR_VIRTQ_INDIRECT', 'an indirect table names another indirect table');
    }
    chain.add(descriptor.address, descriptor.length, descriptor.flags & WRITE);
    if ((descriptor.flags & NEXT) === 0) return;
  }
}

function tooLong(chain: ChainBuilder, size: number, head: number): Error {
  return chain.error(
    'ERR_VIRTQ_CHAIN',
    `the chain of head ${head} loops or holds over ${size} descriptors, the ring's size`,
  );
}
