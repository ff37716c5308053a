import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import {
  ALL_PROTOCOL,
  Conversation,
  memoryTable,
  RecordingDevice,
  SharedGuest,
  singleRegion,
  vringAddress,
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
import { RawSplitRing, WRITE } from '../support/raw-rings.js';

const test = suite('a front-end that is not to be trusted');

interface Piece {
  readonly data: Uint8Array;
  readonly fds: readonly number[];
}

/** A whole conversation up to a running ring with a chain in it, message by message. */
function conversation(guest: SharedGuest, frontend: RawFrontend) {
  const [kick, call] = [frontend.eventFd(), frontend.eventFd()];
  const message = (request: number, payload: Uint8Array = bytes(), ...fds: number[]): Piece => ({
    data: encodeMessage(request, payload, 1),
    fds,
  });
  const ring = new RawSplitRing(guest, 16);
  return {
    ring,
    kick,
    pieces: [
      message(Request.getFeatures),
      message(Request.getProtocolFeatures),
      message(Request.setProtocolFeatures, bytes(ALL_PROTOCOL)),
      message(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES)),
      message(Request.setMemTable, memoryTable(guest), guest.fd),
      message(Request.setVringNum, bytes(0, 16)),
      message(Request.setVringBase, bytes(0, 0)),
      message(Request.setVringAddr, vringAddress(0, ring)),
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

/** Requests that a running session may get beyond those that started it. */
function moreRequests(guest: SharedGuest, kick: number, channel: number): Piece[] {
  const message = (request: number, payload: Uint8Array, ...fds: number[]): Piece => ({
    data: encodeMessage(request, payload, 1),
    fds,
  });
  return [
    message(Request.setMemTable, bytes(0, 0)),
    message(Request.addMemReg, singleRegion(guest), guest.fd),
    message(Request.remMemReg, singleRegion(guest), guest.fd),
    message(Request.addMemReg, bytes(0n)),
    message(Request.getConfig, bytes(0, 4, 0, 0)),
    message(Request.setConfig, bytes(4, 4, 0, 7)),
    message(Request.setStatus, bytes(15n)),
    message(Request.setStatus, bytes(0n)),
    message(Request.resetDevice, bytes()),
    message(Request.resetOwner, bytes()),
    message(Request.setVringKick, bytes(0x100n)),
    message(Request.setVringKick, bytes(1n), kick),
    message(Request.setVringEnable, bytes(0, 0)),
    message(Request.setBackendReqFd, bytes(), channel),
    message(Request.getVringBase, bytes(1, 0)),
  ];
}

let survived = 0;
let served = 0;

for (let seed = 1; seed <= 100; seed++) {
  test(`seed ${seed}: random messages end in answers or a reason, never in a crash or a leak`, async () => {
    const random = new Random(seed);
    const platform = createFakePlatform({ receiveLimit: random.chance(3) ? 1 + random.below(20) : Infinity });
    const device = new RecordingDevice();
    const talk = Conversation.open({ platform, device });
    const guest = new SharedGuest(platform);
    const { pieces, ring, kick, close } = conversation(guest, talk.frontend);
    const event = platform.createEventFd();
    const [socket, other] = platform.socketPair();
    const more = moreRequests(guest, event, other);
    const loot: number[] = [];
    const send = (data: Uint8Array, fds: readonly number[]): void => {
      if (talk.frontend.stream.send(data, fds) < 0) throw new Error('the back-end does not read');
    };
    // As after a reboot of the guest: stop the ring, clear it, say everything again.
    const begin = async (): Promise<void> => {
      for (const { data, fds } of [pieces.at(-2)!, ...pieces.slice(0, -2)]) {
        const acknowledged = Uint8Array.from(data);
        acknowledged[4] = 9;
        send(acknowledged, fds);
      }
      const area = guest.view(0x1000, 0x400);
      new Uint8Array(area.buffer, area.byteOffset, area.byteLength).fill(0);
      await turns(20);
    };
    const step = async (): Promise<void> => {
      const piece = random.pick(random.chance(2) ? pieces : more);
      const data = Uint8Array.from(piece.data);
      // An acknowledgement keeps the talk going where the request is refused.
      if (!random.chance(80)) data[4] = 9;
      if (random.chance(6)) data[12 + random.below(Math.max(1, data.byteLength - 12))] = random.below(256);
      else if (random.chance(50)) data[0] = random.below(50);
      else if (random.chance(150)) data[random.below(data.byteLength)] = random.below(256);
      const stray = random.chance(80);
      send(data, stray ? [random.pick([guest.fd, event, other])] : piece.fds);
      if (random.chance(3)) {
        ring.chain(
          [3, 7],
          [
            { address: 0x1_0000, length: 10 },
            { address: 0x2_0000, length: 99, flags: WRITE },
          ],
        );
        ring.offer(3);
        kick.signal();
      }
      if (random.chance(60)) guest.view(0x1000 + random.below(0x400), 1).setUint8(0, random.below(256));
      device.hold = random.chance(3);
      if (random.chance(2)) device.finish();
      if (random.chance(3)) platform.signalEventFd(event);
      await turns(random.below(4));
      const into = new Uint8Array(4096);
      while (talk.frontend.stream.receive(into, loot) > 0);
      for (const fd of loot.splice(0)) platform.closeFd(fd);
    };
    let steps = 0;
    try {
      for (; steps < 300 && talk.reasons.length === 0; steps++) {
        if (steps % 10 === 0) await begin();
        await step();
      }
    } catch (error) {
      // The back-end hung up meanwhile.
      if (!['EPIPE', 'ECONNRESET'].includes((error as { errno?: string }).errno ?? '')) throw error;
    }
    survived += steps;
    served += device.served;
    await talk.close();
    // Chains that the device still holds keep their memory, and nothing else does.
    device.finish();
    assert.is(talk.reasons.length, 1);
    close();
    for (const fd of [event, socket, other]) platform.closeFd(fd);
    guest.close();
    await turns(3);
    assert.equal(platform.openFds, []);
    assert.is(platform.mappingCount, 0);
  });
}

test('the random conversations went deep enough to mean something', () => {
  assert.ok(survived > 100 * 15, `${survived} messages`);
  assert.ok(served > 100, `${served} chains`);
});

test.run();
