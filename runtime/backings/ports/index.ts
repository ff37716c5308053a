/** Ports of network cards, public as `vhost-user/backings/ports`. */
export { EchoPort } from './echo.js';
export { PlatformPacketMemory } from './packet-memory.js';
export { PcapPort } from './pcap.js';
export { SinkPort } from './sink.js';
export { type SourceOptions, SourcePort } from './source.js';
export { Switch } from './switch.js';
export { TapPort } from './tap.js';
