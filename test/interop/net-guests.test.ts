import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startDaemon } from '../support/guest/daemon.js';
import type { Guest } from '../support/guest/guest.js';
import {
  acceptedFeatures,
  bootWithCard,
  type CardOptions,
  carrierIs,
  configureCard,
  ipAddress,
  networkBits,
  noOffloads,
  ping,
  transfer,
} from '../support/guest/network.js';
import { type RunningProgram, TemporaryFolder } from '../support/guest/processes.js';

/** A switch with a socket for each of two guests. */
interface Network extends AsyncDisposable {
  readonly sockets: readonly [string, string];
  daemon: RunningProgram;
}

async function startSwitch(...args: string[]): Promise<Network> {
  const folder = new TemporaryFolder();
  const sockets = [folder.file('a'), folder.file('b')] as const;
  const network: Network = {
    sockets,
    daemon: await startSwitchOn(sockets, ...args),
    async [Symbol.asyncDispose]() {
      await network.daemon[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
    },
  };
  return network;
}

function startSwitchOn(
  [first, second]: readonly [string, string],
  ...args: string[]
): Promise<RunningProgram> {
  return startDaemon('vhost-user-net', second, [`--socket-path=${first}`, '--port=switch', ...args]);
}

/** Boots guests 1 and 2 at the same time. */
async function bootBoth(
  { sockets }: Network,
  cards: readonly [Omit<CardOptions, 'number'>, Omit<CardOptions, 'number'>],
): Promise<[Guest, Guest]> {
  const booting = cards.map((card, i) => bootWithCard(sockets[i]!, { ...card, number: i + 1 }));
  const booted = await Promise.allSettled(booting);
  const failed = booted.find((result) => result.status === 'rejected');
  if (failed === undefined) return (await Promise.all(booting)) as [Guest, Guest];
  for (const result of booted) if (result.status === 'fulfilled') await result.value[Symbol.asyncDispose]();
  throw failed.reason;
}

/** What of a card is varied; every pair of values meets in at least one of the eight cards below. */
interface Varied {
  readonly packed: boolean;
  readonly mergeable: boolean;
  readonly eventIdx: boolean;
  readonly queuePairs: 1 | 2;
  readonly offloads: boolean;
}

/** Three free columns whose values follow all combinations; in a row the second guest has the opposite of the first in all. */
const rows = [0, 1, 2, 3].map((row) =>
  [row, 7 - row].map((word): Varied => {
    const [a, b, c] = [(word & 4) !== 0, (word & 2) !== 0, (word & 1) !== 0];
    const sum = Number(a) + Number(b) + Number(c);
    return { packed: a, mergeable: b, eventIdx: c, queuePairs: sum % 2 === 1 ? 2 : 1, offloads: sum > 1 };
  }),
) as unknown as readonly (readonly [Varied, Varied])[];

const onOff = (on: boolean): string => (on ? 'on' : 'off');

function describeCard({ packed, mergeable, eventIdx, queuePairs, offloads }: Varied): string {
  const format = packed ? 'packed' : 'split';
  return `${format}, mergeable ${onOff(mergeable)}, event idx ${onOff(eventIdx)}, ${queuePairs} pairs, offloads ${onOff(offloads)}`;
}

function cardOf({ packed, mergeable, eventIdx, queuePairs, offloads }: Varied): Omit<CardOptions, 'number'> {
  const properties = [
    `packed=${onOff(packed)}`,
    `mrg_rxbuf=${onOff(mergeable)}`,
    `event_idx=${onOff(eventIdx)}`,
    ...(offloads ? [] : noOffloads),
  ];
  return { properties, queuePairs };
}

for (const [number, row] of rows.entries()) {
  test(`two guests: ${describeCard(row[0])} / ${describeCard(row[1])}`, async () => {
    await using network = await startSwitch('--queue-pairs=2');
    const [first, second] = await bootBoth(network, [cardOf(row[0]), cardOf(row[1])]);
    await using _first = first;
    await using _second = second;
    for (const [i, guest] of [first, second].entries()) {
      const has = await acceptedFeatures(guest);
      const { packed, mergeable, eventIdx, queuePairs, offloads } = row[i]!;
      assert.equal(Object.fromEntries(Object.entries(networkBits).map(([name, bit]) => [name, has(bit)])), {
        csum: offloads,
        guestCsum: offloads,
        mtu: false,
        guestTso4: offloads,
        hostTso4: offloads,
        mrgRxbuf: mergeable,
        status: true,
        mq: queuePairs > 1,
        eventIdx,
        packed,
      });
      assert.is(await guest.read('ls -d /sys/class/net/eth0/queues/rx-* | wc -l'), String(queuePairs));
    }
    await ping(first, ipAddress(2));
    await ping(second, ipAddress(1, 6));
    // The rows alternate in the version of the protocol, for each of which segments are cut otherwise.
    const version = number % 2 === 0 ? 4 : 6;
    await transfer(first, second, ipAddress(2, version), 4);
    await transfer(second, first, ipAddress(1, version), 4);
    await first.powerOff();
    await second.powerOff();
    assert.equal(await network.daemon.terminate(), { status: 0, signal: null });
  });
}

for (const ring of ['split', 'packed'] as const) {
  test(`${ring}: a guest goes on while the other's link goes, while it reboots, is killed and comes again`, async () => {
    await using network = await startSwitch();
    const card = { properties: [`packed=${onOff(ring === 'packed')}`] };
    const [first, second] = await bootBoth(network, [card, card]);
    await using _first = first;
    await using _second = second;
    await transfer(first, second, ipAddress(2), ring === 'packed' ? 64 : 8);

    // What is sent all the while finds somebody who listens, nobody, or a queue that is being stopped.
    await second.read('(ping -i 0.01 -s 1000 10.0.0.1 > /dev/null 2>&1 &)');
    await first.qmp.execute('set_link', { name: 'card0', up: false });
    await carrierIs(first, false);
    await first.qmp.execute('set_link', { name: 'card0', up: true });
    await carrierIs(first, true);
    await ping(first, ipAddress(2));

    await first.reboot();
    await configureCard(first, 1);
    await ping(second, ipAddress(1));
    await transfer(second, first, ipAddress(1), 4);

    await first.qemu.terminate('SIGKILL');
    await using again = await bootWithCard(network.sockets[0], { ...card, number: 1 });
    await ping(again, ipAddress(2));
    await transfer(again, second, ipAddress(2), 4);
    assert.is(network.daemon.exit, null);
    assert.not.match(network.daemon.output, /level=error/);
  });
}

test('a switch that is stopped takes the carrier with it, and gives it back when it comes again', async () => {
  await using network = await startSwitch();
  const [first, second] = await bootBoth(network, [{}, {}]);
  await using _first = first;
  await using _second = second;
  await ping(first, ipAddress(2));
  assert.equal(await network.daemon.terminate(), { status: 0, signal: null });
  for (const guest of [first, second]) await carrierIs(guest, false);
  network.daemon = await startSwitchOn(network.sockets);
  for (const guest of [first, second]) await carrierIs(guest, true);
  await ping(first, ipAddress(2));
  await transfer(second, first, ipAddress(1), 4);
});

test('the MTU that QEMU sets reaches the driver, and packets of that size the other guest', async () => {
  await using network = await startSwitch('--mtu=9000');
  const properties = ['host_mtu=9000'];
  const cards = [{ properties }, { properties: [...properties, 'packed=on', 'mrg_rxbuf=off'] }] as const;
  const [first, second] = await bootBoth(network, cards);
  await using _first = first;
  await using _second = second;
  for (const guest of [first, second]) {
    assert.ok((await acceptedFeatures(guest))(networkBits.mtu));
    assert.is(await guest.read('cat /sys/class/net/eth0/mtu'), '9000');
  }
  // 8 bytes of ICMP and 20 of IPv4: the largest packet that is not cut.
  await ping(first, ipAddress(2), 9000 - 28);
  await ping(second, ipAddress(1), 9000 - 28);
  await transfer(first, second, ipAddress(2), 8);
});

test.run();
