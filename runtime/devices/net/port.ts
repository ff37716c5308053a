/**
 * Packets on their way, as rows of two tables; none costs an object. Whoever makes a burst keeps it and uses it again.
 *
 *   packets   Int32, stride 6:  word 0 | word 1 | word 2 | first segment | segments | length in bytes
 *   segments  Int32, stride 4:  window | offset | length | unused
 *
 * The words are the packet's header (virtio 1.4, 5.1.6) without num-buffers, little-endian:
 *
 *   word 0    flags u8 | gso-type u8 | hdr-len u16
 *   word 1    gso-size u16 | csum-start u16
 *   word 2    csum-offset u16 | 0
 *
 * The bytes lie in windows of the platform and are the packet alone. They may be guest memory, which the guest can change
 * at any time: read a value once.
 */
export class PacketBurst {
  readonly capacity: number;
  readonly packets: Int32Array;
  readonly segments: Int32Array;
  count = 0;

  /** `segments`: a table to share, e.g. that of the ChainBatch that the packets came in. */
  constructor(capacity: number, segments: Int32Array) {
    this.capacity = capacity;
    this.packets = new Int32Array(capacity * PACKET_STRIDE);
    this.segments = segments;
  }
}

export const PACKET_STRIDE = 6;
/** Columns of a row of `packets` behind the three header words. */
export const PacketColumn = { firstSegment: 3, segments: 4, length: 5 } as const;

/** Most packets that a port is given, and may give, at once. */
export const BURST_MAX = 256;
/** Bytes of the longest packet: 65535 of IPv6 payload, its header, Ethernet's and two VLAN tags (virtio 1.4, 5.1.6.3). */
export const PACKET_MAX = 65_535 + 40 + 14 + 8;
/** Bytes of an Ethernet header: a shorter packet is none. */
export const ETHERNET_HEADER = 14;

/** 0, 1, 2, …: the rows of a whole burst. */
export const ALL_ROWS: Int32Array = Int32Array.from({ length: BURST_MAX }, (_, row) => row);

/** Memory that packets may lie in beside that of guests, and the way to move them in bulk. */
export interface PacketMemory {
  /** Views of all mapped memory, indexed by window. */
  readonly u8: readonly Uint8Array[];
  readonly u32: readonly Uint32Array[];
  /**
   * Copies from window to window: entries of (from window, from offset, to window, to offset, length, bytes in front of the
   * copy, three words that hold these bytes). One table for the whole process: whoever writes entries runs them before anyone
   * else has a turn.
   */
  readonly copies: { readonly capacity: number; readonly entries: Int32Array; run(count: number): void };
  /** Zeroed memory, which takes nothing before it is written. Throws when there is none. */
  allocate(bytes: number): PacketRegion;
}

export interface PacketRegion {
  readonly window: number;
  readonly length: number;
  release(): void;
}

/** Where a network card is plugged in. A port belongs to one device. */
export interface NetPort {
  readonly memory: PacketMemory;
  /**
   * Offload bits of NetFeature that the device may offer. The `host` ones and CSUM: the port takes such packets. The `guest`
   * ones: the port may give them.
   */
  readonly offloads: bigint;
  /** Queue pairs that it serves at most. */
  readonly pairs: number;
  /** Whether the link is up. */
  readonly up: boolean;
  /** Called once, before anything else. */
  connect(receiver: PacketReceiver): void;
  /** The driver takes packets with these offloads; called again when it changes its mind, with 0n when it is gone. */
  setOffloads?(features: bigint): void;
  /**
   * Sends packets `first` to `count` - 1 of the burst, which came in on queue pair `pair`. Their bytes are used before this
   * returns. Gives the row at which it stopped: less than `count` means that it can take no more now and will call
   * `receiver.transmitReady(pair)`.
   */
  transmit(burst: PacketBurst, first: number, count: number, pair: number): number;
  /**
   * The pair has begun or ceased to receive, or nothing waits for its buffers any more. May be called more often than that. The
   * port may give packets before it returns.
   */
  receiveReady?(pair: number): void;
  close(): void;
}

/** What a port sees of its device. */
export interface PacketReceiver {
  /** The device's address, null when it has none of its own. */
  readonly mac: Uint8Array | null;
  /**
   * Hands over the rows `rows[0]` to `rows[count - 1]` of a burst, for queue pair `pair`, or for the pair that their flow
   * belongs to when it is -1. Their bytes are used before this returns. What cannot be kept is dropped and counted.
   */
  deliver(burst: PacketBurst, rows: Int32Array, count: number, pair: number): void;
  /**
   * As `deliver`, but what there are no buffers for stays with the port. Gives how many rows are done with; when that is less
   * than `count`, the port's `receiveReady` is called as soon as there are buffers.
   */
  offer(burst: PacketBurst, rows: Int32Array, count: number, pair: number): number;
  /** Packets that wait for buffers on this pair; -1 when nothing receives on it. */
  waiting(pair: number): number;
  /** The port takes packets again. */
  transmitReady(pair: number): void;
  /** `up` of the port has changed. */
  linkChanged(): void;
  /** The port cannot do what it is for any more; said once, for the log. */
  failed(cause: unknown): void;
}
