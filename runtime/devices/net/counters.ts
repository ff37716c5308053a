/** What became of the packets of a device, since it was made. */
export interface NetCounters {
  /** Given to the port, and their bytes. */
  transmitted: number;
  transmittedBytes: number;
  /** Chains too short for a header and an Ethernet header, too long, or with a header that does not fit the packet. */
  transmitMalformed: number;
  /** Sent while the link was down. */
  transmitLinkDown: number;
  /** Given to the driver, and their bytes. */
  received: number;
  receivedBytes: number;
  /** Too long for the driver's buffers or for the MTU. */
  receiveOversize: number;
  /** There was neither a buffer nor room to wait for one. */
  receiveOverrun: number;
  /** No queue took them: not started, disabled, or the link was down. */
  receiveUnwanted: number;
  /** Buffers without room for a header, given back empty. */
  receiveBadBuffers: number;
  /** Packets whose checksum was completed, and packets that were cut, because the driver does not do it. */
  softwareChecksums: number;
  softwareSegmented: number;
  /** Packets to be cut that cannot be. */
  receiveUnsegmentable: number;
}

export function newCounters(): NetCounters {
  return {
    transmitted: 0,
    transmittedBytes: 0,
    transmitMalformed: 0,
    transmitLinkDown: 0,
    received: 0,
    receivedBytes: 0,
    receiveOversize: 0,
    receiveOverrun: 0,
    receiveUnwanted: 0,
    receiveBadBuffers: 0,
    softwareChecksums: 0,
    softwareSegmented: 0,
    receiveUnsegmentable: 0,
  };
}
