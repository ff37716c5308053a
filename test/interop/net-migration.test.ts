/**
 * A guest moves from one QEMU to another, each on a socket of its own of a switch, while a third machine talks to it. The switch
 * learns where its address is now from the announcement that QEMU has the back-end make.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Belongings } from '../support/guest/belongings.js';
import { startDaemon } from '../support/guest/daemon.js';
import { Guest } from '../support/guest/guest.js';
import { LiveMigration } from '../support/guest/migration.js';
import {
  acceptedFeatures,
  bootWithCard,
  ipAddress,
  networkBits,
  networkCard,
  ping,
  transfer,
} from '../support/guest/network.js';
import { TemporaryFolder } from '../support/guest/processes.js';

for (const ring of ['split', 'packed'] as const) {
  test(`${ring}: a guest moves from one port of a switch to another and is reached there`, async () => {
    await using belongings = new Belongings();
    const folder = belongings.keep(new TemporaryFolder());
    const [from, to, other] = ['a', 'b', 'c'].map((name) => folder.file(name)) as [string, string, string];
    belongings.keep(
      await startDaemon('vhost-user-net', other, [
        `--socket-path=${from}`,
        `--socket-path=${to}`,
        '--port=switch',
      ]),
    );
    const card = { number: 1, properties: [`packed=${ring === 'packed' ? 'on' : 'off'}`] };
    const source = belongings.keep(await bootWithCard(from, card));
    const peer = belongings.keep(await bootWithCard(other, { number: 2 }));
    const target = belongings.keep(await Guest.boot({ devices: networkCard(to, card), incoming: true }));
    assert.is((await acceptedFeatures(source))(networkBits.packed), ring === 'packed');
    await ping(peer, ipAddress(1));

    using migration = await LiveMigration.begin(source, target);
    // What it receives and sends meanwhile lies in memory that was sent before.
    await transfer(peer, source, ipAddress(1), 4);
    await transfer(source, peer, ipAddress(2), 4);
    await migration.finish();

    await ping(peer, ipAddress(1));
    await transfer(peer, target, ipAddress(1), 4);
    await transfer(target, peer, ipAddress(2), 4);
    await target.powerOff();
  });
}

test.run();
