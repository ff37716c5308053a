import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { daemonPath, startListening } from '../support/guest/daemon.js';
import { NetworkNamespace } from '../support/guest/namespace.js';
import {
  acceptedFeatures,
  bootWithCard,
  type CardOptions,
  ipAddress,
  networkBits,
  noOffloads,
  ping,
  transfer,
} from '../support/guest/network.js';
import { type RunningProgram, TemporaryFolder } from '../support/guest/processes.js';

const HOST = 100;

/** vhost-user-net in the namespace, with a TAP device that has the host's addresses. */
async function startTap(
  namespace: NetworkNamespace,
  socket: string,
  ...args: string[]
): Promise<RunningProgram> {
  const [file, all] = namespace.command(process.execPath, [
    daemonPath('vhost-user-net'),
    `--socket-path=${socket}`,
    '--port=tap:tap0',
    ...args,
  ]);
  const daemon = await startListening('vhost-user-net', socket, file, all);
  await namespace.read(`
    echo 0 > /proc/sys/net/ipv6/conf/tap0/accept_dad
    ip link set tap0 up
    ip addr add ${ipAddress(HOST)}/24 dev tap0
    ip addr add ${ipAddress(HOST, 6)}/64 dev tap0`);
  return daemon;
}

const cards: [string, Omit<CardOptions, 'number'>, boolean][] = [
  ['split, offloads', {}, true],
  [
    'packed, 2 pairs, no offload and no mergeable buffers',
    {
      queuePairs: 2,
      properties: ['packed=on', 'mrg_rxbuf=off', ...noOffloads],
    },
    false,
  ],
];
for (const [name, card, offloads] of cards) {
  test(`${name}: a guest on a TAP device and its host reach each other`, async () => {
    using folder = new TemporaryFolder();
    using namespace = new NetworkNamespace();
    const socket = folder.file('net');
    await using daemon = await startTap(namespace, socket, `--queue-pairs=${card.queuePairs ?? 1}`);
    await using guest = await bootWithCard(socket, { ...card, number: 1 });
    const has = await acceptedFeatures(guest);
    for (const bit of [
      networkBits.csum,
      networkBits.guestCsum,
      networkBits.hostTso4,
      networkBits.guestTso4,
    ]) {
      assert.is(has(bit), offloads, `bit ${bit}`);
    }
    await ping(guest, ipAddress(HOST));
    await ping(namespace, ipAddress(1));
    await transfer(guest, namespace, ipAddress(HOST), 16);
    await transfer(namespace, guest, ipAddress(1, 6), 16);

    // The next guest on the same device takes other offloads than the one before.
    await guest.powerOff();
    const properties = offloads ? ['guest_csum=off', 'guest_tso4=off', 'guest_tso6=off'] : [];
    await using next = await bootWithCard(socket, { properties, number: 2 });
    await ping(next, ipAddress(HOST, 6));
    await transfer(namespace, next, ipAddress(2), 4);
    assert.not.match(daemon.output, /level=error/);
    assert.equal(await daemon.terminate(), { status: 0, signal: null });
  });
}

test.run();
