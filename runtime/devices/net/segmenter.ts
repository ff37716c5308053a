import { NetGsoFlag, NetGsoType } from '../../../generated/virtio/devices/net/layouts.js';
import { addToSum, foldSum } from './checksum.js';
import { PACKET_MAX } from './port.js';

const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const TCP = 6;
const TCP_FIN_PSH = 0x09;
const TCP_CWR = 0x80;
/** Offset of the checksum in a TCP header. */
const TCP_CHECKSUM = 16;

/**
 * Cuts one TCP packet into segments with full checksums, for a driver that does not take it whole. Works on a copy of its
 * own, so that the sender cannot change it meanwhile. Used again for the next packet.
 *
 *   Ethernet | VLAN tags | IP | TCP | payload ...   ->   the same headers | gso-size bytes of payload, again and again
 *            l3               l4    header
 */
export class Segmenter {
  /** The packet to cut; fill it, then call `start`. */
  readonly packet: Uint8Array = new Uint8Array(PACKET_MAX);
  #length = 0;
  #l3 = 0;
  #l4 = 0;
  #header = 0;
  #size = 0;
  #version = 4;
  /** Payload that is out already. */
  #done = 0;
  #index = 0;

  /** Begins with a packet of `length` bytes; false when it is not what its header says. */
  start(length: number, gsoType: number, gsoSize: number, csumStart: number, csumOffset: number): boolean {
    const { packet } = this;
    this.#length = length;
    this.#l4 = csumStart;
    this.#size = gsoSize;
    this.#done = 0;
    this.#index = 0;
    const type = gsoType & ~NetGsoFlag.ecn;
    if (type !== NetGsoType.tcpv4 && type !== NetGsoType.tcpv6) return false;
    this.#version = type === NetGsoType.tcpv4 ? 4 : 6;

    let l3 = 14;
    let ethertype = u16(packet, 12);
    for (let tags = 0; tags < 2 && (ethertype === 0x8100 || ethertype === 0x88a8); tags++) {
      ethertype = u16(packet, l3 + 2);
      l3 += 4;
    }
    this.#l3 = l3;
    const minimum = this.#version === 4 ? 20 : 40;
    if (ethertype !== (this.#version === 4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6)) return false;
    if (csumOffset !== TCP_CHECKSUM || csumStart < l3 + minimum || csumStart + 20 > length) return false;
    if (packet[l3]! >> 4 !== this.#version) return false;
    if (this.#version === 4 && (packet[l3 + 9] !== TCP || (packet[l3]! & 15) * 4 !== csumStart - l3))
      return false;
    const tcpHeader = (packet[csumStart + 12]! >> 4) * 4;
    this.#header = csumStart + tcpHeader;
    return tcpHeader >= 20 && this.#header < length && gsoSize > 0;
  }

  /** Bytes of the next segment; 0 when there is none. */
  get nextLength(): number {
    const left = this.#length - this.#header - this.#done;
    return left <= 0 ? 0 : this.#header + Math.min(left, this.#size);
  }

  /** Writes the next segment, `nextLength` bytes, to `into` at `at`. */
  write(into: Uint8Array, at: number): void {
    const { packet } = this;
    const length = this.nextLength;
    const payload = length - this.#header;
    const begin = this.#header + this.#done;
    const last = begin + payload === this.#length;
    into.set(packet.subarray(0, this.#header), at);
    into.set(packet.subarray(begin, begin + payload), at + this.#header);

    const ip = at + this.#l3;
    const tcp = at + this.#l4;
    const tcpLength = length - this.#l4;
    let sum: number;
    if (this.#version === 4) {
      put16(into, ip + 2, length - this.#l3);
      put16(into, ip + 4, u16(packet, this.#l3 + 4) + this.#index);
      put16(into, ip + 10, 0);
      put16(into, ip + 10, foldSum(addToSum(into, ip, this.#l4 - this.#l3, 0)));
      sum = addToSum(into, ip + 12, 8, TCP + tcpLength);
    } else {
      put16(into, ip + 4, length - this.#l3 - 40);
      sum = addToSum(into, ip + 8, 32, TCP + tcpLength);
    }

    const sequence = (u32(packet, this.#l4 + 4) + this.#done) >>> 0;
    put16(into, tcp + 4, sequence >>> 16);
    put16(into, tcp + 6, sequence);
    // RFC 3168: CWR belongs to the first segment alone; FIN and PSH to the last.
    if (!last) into[tcp + 13]! &= ~TCP_FIN_PSH;
    if (this.#index > 0) into[tcp + 13]! &= ~TCP_CWR;
    put16(into, tcp + TCP_CHECKSUM, 0);
    put16(into, tcp + TCP_CHECKSUM, foldSum(addToSum(into, tcp, tcpLength, sum)));
    this.#done += payload;
    this.#index++;
  }
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

function u32(bytes: Uint8Array, at: number): number {
  return u16(bytes, at) * 0x10000 + u16(bytes, at + 2);
}

function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
