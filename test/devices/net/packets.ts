import type { NetHeader } from '../../../generated/virtio/devices/net/layouts.js';
import { PLAIN } from './harness.js';

/**
 * A packet as a driver with checksum offload sends it: the transport checksum is the pseudo-header's sum. With `gsoSize` it
 * is to be cut. TCP flags are CWR, ACK, PSH and FIN; the sequence number and the identification are about to wrap.
 */
export function ipPacket({
  version,
  protocol,
  payload,
  gsoSize = 0,
  vlan = false,
}: {
  version: 4 | 6;
  protocol: 'tcp' | 'udp';
  payload: number;
  gsoSize?: number;
  vlan?: boolean;
}): { bytes: Uint8Array; header: NetHeader } {
  const l3 = vlan ? 18 : 14;
  const l4 = l3 + (version === 4 ? 20 : 40);
  const transport = (protocol === 'tcp' ? 20 : 8) + payload;
  const bytes = new Uint8Array(l4 + transport);
  const view = new DataView(bytes.buffer);
  bytes.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
  if (vlan) view.setUint32(12, 0x8100_0007);
  view.setUint16(l3 - 2, version === 4 ? 0x0800 : 0x86dd);
  const number = protocol === 'tcp' ? 6 : 17;
  if (version === 4) {
    bytes.set([0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], l3);
    view.setUint16(l3 + 2, 20 + transport);
    view.setUint16(l3 + 10, ~sum(bytes.subarray(l3, l4)) & 0xffff);
  } else {
    bytes.set([0x60, 0, 0, 0, 0, 0, number, 64, 0xfd], l3);
    view.setUint16(l3 + 4, transport);
    bytes[l3 + 23] = 1;
    bytes[l3 + 24] = 0xfd;
    bytes[l3 + 39] = 2;
  }
  view.setUint16(l4, 40_000);
  view.setUint16(l4 + 2, 80);
  if (protocol === 'tcp') {
    view.setUint32(l4 + 4, 0xffff_ff00);
    view.setUint16(l4 + 12, 0x5099);
  } else {
    view.setUint16(l4 + 4, transport);
  }
  for (let i = bytes.byteLength - payload; i < bytes.byteLength; i++) bytes[i] = i * 13 + (i >> 8);
  const csumOffset = protocol === 'tcp' ? 16 : 6;
  view.setUint16(l4 + csumOffset, pseudoSum(bytes, l3, version, number, transport));
  const gsoType = gsoSize === 0 ? 0 : version === 4 ? 1 : 4;
  return {
    bytes,
    header: { ...PLAIN, flags: 1, gsoType, hdrLen: l4 + 20, gsoSize, csumStart: l4, csumOffset },
  };
}

/** Whether every length and checksum of an IP packet is right. */
export function checkPacket(bytes: Uint8Array): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const l3 = view.getUint16(12) === 0x8100 ? 18 : 14;
  const version = bytes[l3]! >> 4;
  const l4 = l3 + (version === 4 ? 20 : 40);
  const transport = bytes.byteLength - l4;
  if (version === 4) {
    if (view.getUint16(l3 + 2) !== 20 + transport || sum(bytes.subarray(l3, l4)) !== 0xffff) return false;
  } else if (view.getUint16(l3 + 4) !== transport) {
    return false;
  }
  const number = bytes[l3 + (version === 4 ? 9 : 6)]!;
  const total = sum(bytes.subarray(l4)) + pseudoSum(bytes, l3, version, number, transport);
  return (total & 0xffff) + (total >>> 16) === 0xffff;
}

function pseudoSum(bytes: Uint8Array, l3: number, version: number, protocol: number, length: number): number {
  const addresses = version === 4 ? bytes.subarray(l3 + 12, l3 + 20) : bytes.subarray(l3 + 8, l3 + 40);
  let total = sum(addresses) + protocol + length;
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

function sum(bytes: Uint8Array): number {
  let total = 0;
  for (let i = 0; i < bytes.byteLength; i++) total += i % 2 === 0 ? bytes[i]! * 256 : bytes[i]!;
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 65536);
  return total;
}
