/**
 * The tables that a drain fills: one row a chain, one row a segment. Nothing is allocated per chain. Devices read the
 * tables directly; `DescriptorChain` (chain.ts) is the comfortable view of one row.
 *
 *   chains    Int32, stride 4:  handle | first segment | readable segments | writable segments
 *   segments  Int32, stride 4:  window | offset        | length            | descriptor flags (only WRITE is kept)
 *
 * A chain's segments lie together, readable ones first. (window, offset) index the platform's WindowTable. A buffer
 * that crosses a region or is longer than SEGMENT_MAX takes several segments; zero-length descriptors take none.
 * The handle is a number that names the chain until it is completed (split: head index; packed: buffer id).
 * `written` is the device's: bytes written into the chain, reported by `pushBatch`.
 */
export class ChainBatch {
  readonly chainCapacity: number;
  readonly segmentCapacity: number;
  readonly chains: Int32Array;
  readonly segments: Int32Array;
  readonly written: Uint32Array;
  /** Rows filled by the last drain. */
  count = 0;

  /** `segmentCapacity` bounds one chain as well: a chain with more segments breaks its queue. */
  constructor(chainCapacity: number, segmentCapacity: number) {
    this.chainCapacity = chainCapacity;
    this.segmentCapacity = segmentCapacity;
    this.chains = new Int32Array(chainCapacity * 4);
    this.segments = new Int32Array(segmentCapacity * 4);
    this.written = new Uint32Array(chainCapacity);
  }
}
