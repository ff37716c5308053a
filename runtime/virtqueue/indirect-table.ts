import type { ChainBuilder, DescriptorCopy } from './chain-builder.js';

const DESCRIPTOR_BYTES = 16;

/** Copies descriptor `index` out of a table of words, every word once. */
export type ReadDescriptor = (words: Int32Array, index: number, into: DescriptorCopy) => void;

/**
 * Split and packed descriptors differ in the last word alone:
 *
 *   word  0           1            2        3
 *         addr low    addr high    len      flags | next << 16      (split)
 *                                           id | flags << 16        (packed)
 */
export const readSplitDescriptor: ReadDescriptor = (words, index, into) => {
  const last = readCommon(words, index, into);
  into.flags = last & 0xffff;
  into.tail = last >>> 16;
};

export const readPackedDescriptor: ReadDescriptor = (words, index, into) => {
  const last = readCommon(words, index, into);
  into.flags = last >>> 16;
  into.tail = last & 0xffff;
};

function readCommon(words: Int32Array, index: number, into: DescriptorCopy): number {
  const p = index * 4;
  into.address = (words[p + 1]! >>> 0) * 0x1_0000_0000 + (words[p]! >>> 0);
  into.length = words[p + 2]! >>> 0;
  return words[p + 3]!;
}

/** Reads an indirect table wherever it lies: at an odd address, across windows, across regions. */
export class TableReader {
  readonly entries: number;
  readonly #address: number;
  readonly #chain: ChainBuilder;
  readonly #copy = new Int32Array(4);
  readonly #readDescriptor: ReadDescriptor;

  /** Throws ERR_VIRTQ_INDIRECT when the table is empty, broken or longer than `limit` entries (virtio 1.4, 2.7.5.3). */
  constructor(pointer: DescriptorCopy, limit: number, chain: ChainBuilder, readDescriptor: ReadDescriptor) {
    const { length } = pointer;
    if (length === 0 || length % DESCRIPTOR_BYTES !== 0 || length > limit * DESCRIPTOR_BYTES) {
      throw chain.error(
        'ERR_VIRTQ_INDIRECT',
        `an indirect table of ${length} bytes; it must hold 1 to ${limit} descriptors of ${DESCRIPTOR_BYTES} bytes`,
      );
    }
    this.entries = length / DESCRIPTOR_BYTES;
    this.#address = pointer.address;
    this.#chain = chain;
    this.#readDescriptor = readDescriptor;
  }

  read(index: number, into: DescriptorCopy): void {
    const address = this.#address + index * DESCRIPTOR_BYTES;
    const copied = this.#chain.map.copyOut(address, DESCRIPTOR_BYTES, new Uint8Array(this.#copy.buffer));
    if (copied < DESCRIPTOR_BYTES) {
      this.#chain.unreadable(
        address + copied,
        `entry ${index} of the indirect table, at guest address 0x${address.toString(16)}, lies outside guest memory`,
      );
    }
    this.#readDescriptor(this.#copy, 0, into);
  }
}
