import { EchoPort } from '../backings/ports/echo.js';
import { PlatformPacketMemory } from '../backings/ports/packet-memory.js';
import { PcapPort } from '../backings/ports/pcap.js';
import { SinkPort } from '../backings/ports/sink.js';
import { SourcePort } from '../backings/ports/source.js';
import { Switch } from '../backings/ports/switch.js';
import { TapPort } from '../backings/ports/tap.js';
import type { NetPort, PacketMemory } from '../devices/net/index.js';
import { OptionError, PlatformError } from '../errors.js';
import type { Platform } from '../platform/platform.js';
import { integerOption } from './option-table.js';

const PORTS = 'switch, tap:NAME, echo, sink, source[:BYTES] or pcap:FILE';
export const PORT_HELP = `${PORTS}; switch when absent`;

/** Makes the ports of the devices of one process. */
export type MakePort = (platform: Platform) => NetPort;

/** Reads --port for `count` devices of `pairs` queue pairs. Throws OptionError. */
export function portOption(text = 'switch', count: number, pairs: number): MakePort {
  const colon = text.indexOf(':');
  const kind = colon < 0 ? text : text.slice(0, colon);
  const argument = colon < 0 ? undefined : text.slice(colon + 1);
  const alone = (): void => {
    if (count > 1) throw new OptionError('ERR_OPTION_CONFLICT', `--port=${text} serves one --socket-path`);
  };
  const simple = (make: (memory: PacketMemory) => NetPort): MakePort => {
    if (argument !== undefined) {
      throw new OptionError('ERR_OPTION_VALUE', `--port: ${kind} takes nothing behind a colon`);
    }
    const memoryOf = oncePerPlatform();
    return (platform) => make(memoryOf(platform));
  };
  switch (kind) {
    case 'switch': {
      let network: Switch | undefined;
      return simple((memory) => (network ??= new Switch(memory)).addPort());
    }
    case 'echo':
      return simple((memory) => new EchoPort(memory));
    case 'sink':
      return simple((memory) => new SinkPort(memory));
    case 'source': {
      const length = integerOption('port', argument, [60, 1514], 60);
      return (platform) => new SourcePort(new PlatformPacketMemory(platform), { length });
    }
    case 'tap': {
      if (argument === undefined || !/^[^\s/:]{1,15}$/.test(argument)) {
        throw new OptionError('ERR_OPTION_VALUE', '--port: tap needs the name of a device, as in tap:tap0');
      }
      alone();
      return (platform) => TapPort.open(platform, new PlatformPacketMemory(platform), argument, pairs);
    }
    case 'pcap': {
      if (argument === undefined || argument === '') {
        throw new OptionError('ERR_OPTION_VALUE', '--port: pcap needs a file, as in pcap:packets.pcap');
      }
      alone();
      return (platform) => openPcap(platform, argument);
    }
    default:
      throw new OptionError('ERR_OPTION_VALUE', `--port: "${text}" is none of ${PORTS}`);
  }
}

function openPcap(platform: Platform, path: string): NetPort {
  try {
    return new PcapPort(new PlatformPacketMemory(platform), path);
  } catch (cause) {
    throw new PlatformError(
      'ERR_PLATFORM_SYSTEM_CALL',
      `${path} cannot be written: ${(cause as Error).message}`,
      {
        cause,
      },
    );
  }
}

function oncePerPlatform(): (platform: Platform) => PacketMemory {
  let memory: PacketMemory | undefined;
  return (platform) => (memory ??= new PlatformPacketMemory(platform));
}
