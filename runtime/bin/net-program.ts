import { NetDevice } from '../devices/net/index.js';
import { OptionError } from '../errors.js';
import type { Platform } from '../platform/platform.js';
import { integerOption, type OptionTable, type OptionValues } from './option-table.js';
import { PORT_HELP, portOption } from './port-option.js';
import { type OpenDevice, runProgram } from './program.js';

const options = {
  port: { value: 'PORT', help: PORT_HELP },
  mac: {
    value: 'ADDRESS',
    help: "the card's address, as 02:00:00:00:00:01; of further cards it is the next ones",
  },
  'queue-pairs': {
    value: 'N',
    help: 'pairs of receive and transmit queues offered, 1 to 128; 1 when absent',
  },
  'queue-size': { value: 'N', help: 'largest queue accepted, 2 to 32768; 1024 when absent' },
  mtu: { value: 'BYTES', help: 'largest MTU, 68 to 65535; 1500 when absent' },
} as const satisfies OptionTable;

runProgram({
  name: 'vhost-user-net',
  summary: 'Serves network cards (virtio-net) to virtual machines, one for each --socket-path.',
  capabilities: { type: 'net', features: [] },
  options,
  several: true,
  check,
});

function check(
  values: OptionValues<typeof options>,
  count: number,
): (platform: Platform, index: number) => OpenDevice {
  const queuePairs = integerOption('queue-pairs', values['queue-pairs'], [1, 128], 1);
  const makePort = portOption(values.port, count, queuePairs);
  const queueSize = integerOption('queue-size', values['queue-size'], [2, 32768], 1024);
  const mtu = integerOption('mtu', values.mtu, [68, 65535], 1500);
  const first = values.mac === undefined ? null : macOption(values.mac, count);
  return (platform, index) => {
    const mac = first === null ? null : macAfter(first, index);
    const port = makePort(platform);
    try {
      const device = new NetDevice(port, { queuePairs, queueSize, mtu, ...(mac !== null && { mac }) });
      return {
        device,
        fields: { port: values.port ?? 'switch', pairs: queuePairs },
        close: async () => port.close(),
      };
    } catch (error) {
      port.close();
      throw error;
    }
  };
}

/** The first address of `count`. */
function macOption(text: string, count: number): number {
  if (/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) {
    const number = Number.parseInt(text.replaceAll(':', ''), 16);
    const group = (Math.floor(number / 2 ** 40) & 1) !== 0;
    if (number > 0 && !group && (number % 2 ** 24) + count <= 2 ** 24) return number;
  }
  throw new OptionError('ERR_OPTION_VALUE', `--mac: "${text}" is not the address of a card`);
}

function macAfter(first: number, index: number): Uint8Array {
  const number = first + index;
  return Uint8Array.from({ length: 6 }, (_, i) => Math.floor(number / 2 ** (40 - 8 * i)) & 0xff);
}
