import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import {
  ALL_PROTOCOL,
  Conversation,
  memoryTable,
  RecordingDevice,
  SharedGuest,
  USER,
} from '../support/conversation.js';
import {
  bytes,
  encodeMessage,
  PROTOCOL_FEATURES,
  RawFrontend,
  Request,
  turns,
  VERSION_1,
} from '../support/raw-frontend.js';
import { Random } from '../support/random.js';

const test = suite('a front-end that is not to be trusted');

interface Piece {
  readonly data: Uint8Array;
  readonly fds: readonly number[];
}

/** A whole conversation up to a running ring with a chain in it, message by message. */
function conversation(guest: SharedGuest, frontend: RawFrontend): { pieces: Piece[]; close: () => void } {
  const [kick, call] = [frontend.eventFd(), frontend.eventFd()];
  const message = (request: number, payload: Uint8Array = bytes(), ...fds: number[]): Piece => ({
    data: encodeMessage(request, payload, 1),
    fds,
  });
  const address = (offset: number): bigint => BigInt(USER + offset);
  return {
    pieces: [
      message(Request.getFeatures),
      message(Request.getProtocolFeatures),
      message(Request.setProtocolFeatures, bytes(ALL_PROTOCOL)),
      message(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES)),
      message(Request.setMemTable, memoryTable(guest), guest.fd),
      message(Request.setVringNum, bytes(0, 16)),
      message(Request.setVringBase, bytes(0, 0)),
      message(Request.setVringAddr, bytes(0, 0, address(0x1000), address(0x1400), address(0x1200), 0n)),
      message(Request.setVringCall, bytes(0n), call.fd),
      message(Request.setVringKick, bytes(0n), kick.fd),
      message(Request.setVringEnable, bytes(0, 1)),
      message(Request.getVringBase, bytes(0, 0)),
      message(Request.getStatus),
    ],
    close: () => {
      kick.close();
      call.close();
    },
  };
}

test('a conversation broken off at any byte leaves no fd and no mapping behind', async () => {
  const platform = createFakePlatform();
  const total = measure(platform);
  for (let length = 0; length <= total; length++) {
    const talk = Conversation.open({ platform });
    const guest = new SharedGuest(platform);
    const { pieces, close } = conversation(guest, talk.frontend);
    let left = length;
    for (const { data, fds } of pieces) {
      if (left === 0) break;
      const part = data.subarray(0, left);
      talk.frontend.sendBytes(part, fds);
      left -= part.byteLength;
    }
    if (length % 3 > 0) await turns(length % 7);
    await talk.close();
    close();
    guest.close();
    assert.is(platform.openFdCount, 0, `fds after ${length} bytes`);
    assert.is(platform.mappingCount, 0, `mappings after ${length} bytes`);
  }
});

function measure(platform: ReturnType<typeof createFakePlatform>): number {
  const talk = Conversation.open({ platform });
  const guest = new SharedGuest(platform);
  const { pieces, close } = conversation(guest, talk.frontend);
  const total = pieces.reduce((sum, { data }) => sum + data.byteLength, 0);
  talk.frontend.close();
  talk.backend.close();
  close();
  guest.close();
  return total;
}

for (let seed = 1; seed <= 60; seed++) {
  test(`seed ${seed}: random messages end in answers or a reason, never in a crash or a leak`, async () => {
    const random = new Random(seed);
    const platform = createFakePlatform({ receiveLimit: random.chance(3) ? 1 + random.below(20) : Infinity });
    const device = new RecordingDevice();
    const talk = Conversation.open({ platform, device });
    const guest = new SharedGuest(platform);
    const { pieces, close } = conversation(guest, talk.frontend);
    const event = platform.createEventFd();
    const [socket, other] = platform.socketPair();
    const anyFd = (): number => random.pick([guest.fd, event, other]);
    const loot: number[] = [];
    try {
      for (let i = 0; i < 150 && talk.reasons.length === 0; i++) {
        const piece = random.pick(pieces);
        const data = Uint8Array.from(piece.data);
        // Half of them are legal, so that the talk gets somewhere; the others are bent in one place.
        if (random.chance(2)) data[4] = 9;
        const bent = random.chance(4);
        if (bent && random.chance(2)) data[0] = random.below(50);
        else if (bent) data[12 + random.below(Math.max(1, data.byteLength - 12))] = random.below(256);
        else if (random.chance(20)) data[random.below(data.byteLength)] = random.below(256);
        const fds = random.chance(12) ? Array.from({ length: random.below(4) }, anyFd) : piece.fds;
        if (talk.frontend.stream.send(data, fds) < 0) break;
        if (random.chance(3))
          new Uint8Array(guest.view(0x1000, 0x600).buffer).set(
            random.bytes(64),
            0x1000 + random.below(0x5c0),
          );
        if (random.chance(3)) platform.signalEventFd(event);
        await turns(random.below(4));
        const into = new Uint8Array(4096);
        while (talk.frontend.stream.receive(into, loot) > 0);
        for (const fd of loot.splice(0)) platform.closeFd(fd);
      }
    } catch (error) {
      // The back-end hung up meanwhile.
      if (!['EPIPE', 'ECONNRESET'].includes((error as { errno?: string }).errno ?? '')) throw error;
    }
    await talk.close();
    assert.ok(talk.reasons.length === 1);
    close();
    platform.closeFd(event);
    platform.closeFd(socket);
    platform.closeFd(other);
    guest.close();
    await turns(3);
    assert.equal(platform.openFds, []);
    assert.is(platform.mappingCount, 0);
  });
}

test.run();
