/**
 * Packets in guest memory, as rows of two tables; none costs an object. Whoever makes a table uses it again and again.
 *
 *   packets   Int32, stride 6:  word 0 | word 1 | word 2 | first segment | segments | length in bytes
 *   segments  Int32, stride 4:  window | offset | length | buffer
 *
 * The words are the packet's header (virtio 1.4, 5.1.6), little-endian: flags u8, gso-type u8, hdr-len u16 | gso-size u16,
 * csum-start u16 | csum-offset u16, num-buffers u16. Segments hold the packet alone, in windows of the platform. `buffer`
 * is the client's own.
 */
export class PacketTable {
  readonly capacity: number;
  readonly segmentCapacity: number;
  readonly packets: Int32Array;
  readonly segments: Int32Array;
  /** Rows filled. */
  count = 0;
  segmentCount = 0;

  /** A received packet takes more than one segment only with mergeable buffers. */
  constructor(capacity: number, segmentCapacity: number = capacity) {
    this.capacity = capacity;
    this.segmentCapacity = segmentCapacity;
    this.packets = new Int32Array(capacity * PACKET_STRIDE);
    this.segments = new Int32Array(segmentCapacity * 4);
  }

  clear(): void {
    this.count = this.segmentCount = 0;
  }
}

export const PACKET_STRIDE = 6;
/** Columns of a row of `packets` behind the three header words. */
export const PacketField = { firstSegment: 3, segments: 4, length: 5 } as const;
