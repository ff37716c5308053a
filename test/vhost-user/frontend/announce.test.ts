import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SharedMemory } from '../../../runtime/memory/shared-memory.js';
import { createFakePlatform } from '../../../runtime/platform/fake.js';
import { announceMemory } from '../../../runtime/vhost-user/frontend/announce.js';
import { RequestChannel } from '../../../runtime/vhost-user/frontend/request-channel.js';
import { NegotiatedFeatures } from '../../../runtime/vhost-user/negotiated-features.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { RawBackend } from '../../support/raw-backend.js';
import { bytes, turns, until } from '../../support/raw-frontend.js';

const test = suite('memory that changes while a new back-end is told of it');

for (const slots of [true, false]) {
  test(`${slots ? 'slots' : 'a table'}: what comes is told, and what goes`, async () => {
    const platform = createFakePlatform();
    const held: (() => void)[] = [];
    // Each change waits for its answer.
    const later = (name: 'addMemReg' | 'setMemTable') => (_: unknown, self: RawBackend) =>
      void held.push(() => self.reply(name, bytes(0n)));
    const { backend, stream } = RawBackend.pair(platform, {
      addMemReg: later('addMemReg'),
      setMemTable: later('setMemTable'),
    });
    const channel = new RequestChannel(platform, stream);
    const protocol = ProtocolFeature.replyAck | ProtocolFeature.configureMemSlots;
    channel.features = new NegotiatedFeatures(0n, protocol);
    channel.features.acceptProtocol(protocol);
    using memory = new SharedMemory(platform, { size: 0x2000, regions: 2, filePerRegion: true });
    let done = false;
    const telling = announceMemory(channel, memory, slots, undefined).then(() => (done = true));
    await until(() => held.length === 1, 'the first is told');
    const [first, second] = memory.regions;
    memory.addRegion(0x1000);
    memory.removeRegion(first!);
    memory.removeRegion(second!);
    while (!done) {
      held.shift()?.();
      await turns(1);
    }
    await telling;
    const names = backend.names.map((name) => name.replace('!', ''));
    assert.equal(
      names,
      slots ? ['addMemReg', 'remMemReg', 'addMemReg'] : ['setMemTable', 'setMemTable'],
      'a region that was gone before its turn is never told',
    );
    const last = Buffer.from(backend.seen.at(-1)!.payload);
    assert.is(last.readBigUInt64LE(8), memory.regions[0]!.region.description.guestAddress);
    channel.close();
    await turns(3);
    backend.close();
  });
}

test.run();
