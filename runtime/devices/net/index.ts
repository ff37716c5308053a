export type { NetCounters } from './counters.js';
export { NetDevice } from './net-device.js';
export type { NetDeviceOptions } from './options.js';
export { OFFLOADS } from './offloads.js';
export {
  ALL_ROWS,
  BURST_MAX,
  ETHERNET_HEADER,
  type NetPort,
  PACKET_MAX,
  PACKET_STRIDE,
  PacketBurst,
  PacketColumn,
  type PacketMemory,
  type PacketReceiver,
  type PacketRegion,
} from './port.js';
