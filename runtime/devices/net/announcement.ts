import { ALL_ROWS, PACKET_STRIDE, PacketBurst, PacketColumn, type PacketMemory } from './port.js';

/** The shortest Ethernet frame without its checksum. */
const LENGTH = 60;
const ETHERTYPE_RARP = 0x8035;

/**
 * Has the network learn where an address is now: a reverse ARP request from it to everybody (RFC 903), which nobody answers.
 */
export function sendAnnouncement(
  memory: PacketMemory,
  mac: Uint8Array,
  send: (burst: PacketBurst, rows: Int32Array) => void,
): void {
  const region = memory.allocate(4096);
  try {
    const frame = memory.u8[region.window]!;
    frame.fill(0xff, 0, 6);
    frame.set(mac, 6);
    frame.set([ETHERTYPE_RARP >> 8, ETHERTYPE_RARP & 0xff], 12);
    // Ethernet, IPv4, lengths of their addresses, operation 3: request reverse.
    frame.set([0, 1, 8, 0, 6, 4, 0, 3], 14);
    frame.set(mac, 22);
    frame.set(mac, 32);
    const burst = new PacketBurst(1, Int32Array.of(region.window, 0, LENGTH, 0));
    burst.packets[PacketColumn.segments] = 1;
    burst.packets[PacketColumn.length] = LENGTH;
    burst.count = burst.packets.length / PACKET_STRIDE;
    send(burst, ALL_ROWS);
  } finally {
    region.release();
  }
}
