import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { serve, type VhostUserError } from '../../runtime/index.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { RecordingDevice } from '../support/conversation.js';
import {
  bytes,
  encodeMessage,
  NO_FD,
  PROTOCOL_FEATURES,
  Protocol,
  Request,
  VERSION_1,
} from '../support/raw-frontend.js';

/** Ten thousand front-ends, over real sockets with real memory: what is open at the end is what was open at the start. */
const test = suite('endurance');

const CYCLES = 10_000;
const WARM_UP = 100;
const SIZE = 0x10000;

const platform = createLinuxPlatform();
const folder = mkdtempSync(join(tmpdir(), 'vhost-user-endurance-'));
const path = join(folder, 'device.sock');
const memory = platform.createSharedMemory('endurance', BigInt(SIZE));
const events = [platform.createEventFd(), platform.createEventFd()] as const;

const region = bytes(0n, BigInt(SIZE), 0x7000_0000n, 0n);
const message = (request: number, payload: Uint8Array = bytes(), flags = 1) =>
  encodeMessage(request, payload, flags);

/** From negotiation to a running ring; each part goes in one write with its fds. */
const script: { data: Uint8Array; fds: readonly number[] }[] = [
  { data: bytes(message(Request.getFeatures), message(Request.getProtocolFeatures)), fds: [] },
  {
    data: bytes(
      message(
        Request.setProtocolFeatures,
        bytes(Protocol.replyAck | Protocol.mq | Protocol.configureMemSlots),
      ),
      message(Request.setOwner),
      message(Request.setFeatures, bytes(VERSION_1 | PROTOCOL_FEATURES)),
    ),
    fds: [],
  },
  { data: message(Request.setMemTable, bytes(1, 0, region)), fds: [memory] },
  {
    data: bytes(
      message(Request.setVringNum, bytes(0, 16)),
      message(Request.setVringBase, bytes(0, 0)),
      message(Request.setVringAddr, bytes(0, 0, 0x7000_1000n, 0x7000_1400n, 0x7000_1200n, 0n)),
    ),
    fds: [],
  },
  { data: message(Request.setVringErr, bytes(NO_FD)), fds: [] },
  { data: message(Request.setVringCall, bytes(0n)), fds: [events[1]] },
  { data: message(Request.setVringKick, bytes(0n)), fds: [events[0]] },
  { data: message(Request.setVringEnable, bytes(0, 1), 9), fds: [] },
];

function openFds(): number {
  return readdirSync('/proc/self/fd').length;
}

function sharedMappings(): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('endurance')).length;
}

test(`${CYCLES} connections, a third of them broken off inside a message, leave no fd and no mapping`, async () => {
  const device = new RecordingDevice();
  const backend = serve(device, { socketPath: path, platform, spinMicroseconds: 0 });
  let ended: (reason: VhostUserError | null) => void = () => undefined;
  backend.on('sessionEnd', (_, reason) => ended(reason));
  let broken = 0;
  const cycle = async (i: number): Promise<void> => {
    const end = new Promise<VhostUserError | null>((resolve) => (ended = resolve));
    using stream = await platform.connect(path);
    const breakOff = i % 3 === 0;
    // Somewhere in the script, another place each time.
    const last = breakOff ? i % script.length : script.length;
    for (const { data, fds } of script.slice(0, last)) assert.is(stream.send(data, fds), data.byteLength);
    if (breakOff) {
      const { data, fds } = script[last]!;
      const inside = 1 + (i % (data.byteLength - 1));
      assert.is(stream.send(data.subarray(0, inside), fds), inside);
    } else {
      await replies(stream, 3);
    }
    stream.close();
    const reason = await end;
    if (reason !== null) broken++;
    if (!breakOff) assert.is(reason, null);
  };
  for (let i = 0; i < WARM_UP; i++) await cycle(i);
  const before = [openFds(), sharedMappings()];
  for (let i = 0; i < CYCLES; i++) await cycle(i);
  assert.equal([openFds(), sharedMappings()], before);
  assert.ok(broken > CYCLES / 4, `${broken} sessions ended inside a message`);
  assert.ok(device.events.filter((event) => event === 'start 0').length >= (CYCLES * 2) / 3 - 1);
  backend.close();
  await backend.finished;
});

/** Reads so many whole messages. */
function replies(stream: Awaited<ReturnType<typeof platform.connect>>, count: number): Promise<void> {
  const into = new Uint8Array(256);
  let filled = 0;
  return new Promise((resolve, reject) => {
    stream.onReadable(() => {
      const got = stream.receive(into.subarray(filled), []);
      if (got === 0) reject(new Error('the back-end hung up'));
      if (got > 0) filled += got;
      // Every reply here is a header and one u64.
      if (filled < count * 20) return;
      stream.onReadable(null);
      resolve();
    });
  });
}

test.after(() => {
  for (const fd of [memory, ...events]) platform.closeFd(fd);
  rmSync(folder, { recursive: true, force: true });
});

test.run();
