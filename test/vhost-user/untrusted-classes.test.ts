/**
 * Classes of defects that implementations of this protocol have had, as far as no other test has them: the way in is closed, or
 * what comes that way does no harm. test/structure/untrusted-classes.test.ts sees to it that every class has a test.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PlatformError } from '../../runtime/errors.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { DeviceId } from '../../generated/virtio/device-ids.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import {
  ALL_PROTOCOL,
  Conversation,
  memoryTable,
  RecordingDevice,
  RunningRing,
  SharedGuest,
} from '../support/conversation.js';
import { bytes, Protocol, Request, turns, u64Of, until } from '../support/raw-frontend.js';

const classes = suite('classes of defects');

const CREATE_CRYPTO_SESSION = 26;
const SET_INFLIGHT_FD = 32;
const GPU_SET_SOCKET = 33;

/** Talks, ends both sides, and sees to it that nothing is left. */
async function talked(
  use: (talk: Conversation) => Promise<void>,
  { device = new RecordingDevice(), protocol = ALL_PROTOCOL } = {},
): Promise<void> {
  const talk = Conversation.open({ device });
  await talk.negotiate(undefined, protocol);
  await use(talk);
  await talk.close();
  await turns(3);
  assert.equal(talk.platform.openFds, []);
  assert.is(talk.platform.mappingCount, 0);
}

classes('C5: crypto sessions are never offered, and a key of any length is refused unread', async () => {
  await talked(async ({ frontend, session }) => {
    assert.is(session.features.offeredProtocol & ProtocolFeature.cryptoSession, 0n);
    for (const length of [65, 513, 0xffff_ffff]) {
      const payload = new Uint8Array(1024);
      new DataView(payload.buffer).setUint32(8, length, true);
      assert.is(await frontend.acknowledged(CREATE_CRYPTO_SESSION, payload), 1n);
    }
    assert.is(u64Of(await frontend.ask(Request.getStatus)), 0n, 'the conversation goes on');
  });
});

classes('C7: in-flight memory that is asked for 10,000 times is there once', async () => {
  await talked(
    async ({ frontend, platform }) => {
      const [fds, mappings] = [platform.openFdCount, platform.mappingCount];
      for (let i = 0; i < 10_000; i++) {
        const wanted = bytes(0n, 0n, (1 + (i % 4)) | ((1 << (i % 9)) << 16), 0);
        const reply = await frontend.ask(Request.getInflightFd, wanted);
        assert.is(reply.fds.length, 1);
        for (const fd of reply.fds) platform.closeFd(fd);
      }
      assert.is(platform.openFdCount, fds);
      assert.is(platform.mappingCount, mappings + 1);
    },
    { protocol: ALL_PROTOCOL | Protocol.inflightShmfd },
  );
});

classes('C9: in-flight memory for more queues than there are, or for none, is refused', async () => {
  await talked(
    async ({ frontend, platform }) => {
      const file = platform.createSharedMemory('inflight', 0x10_0000n);
      for (const queues of [0, 5, 257, 65535]) {
        const payload = bytes(0x10_0000n, 0n, queues | (16 << 16), 0);
        assert.is(await frontend.acknowledged(SET_INFLIGHT_FD, payload, [file]), 1n, `${queues} queues`);
        frontend.send(Request.getInflightFd, payload, { needReply: true });
        assert.equal((await frontend.receive())!.fds, [], `${queues} queues`);
      }
      assert.is(platform.mappingCount, 0);
      platform.closeFd(file);
    },
    { protocol: ALL_PROTOCOL | Protocol.inflightShmfd },
  );
});

for (const [name, request, fds] of [
  ['GET_INFLIGHT_FD', Request.getInflightFd, 1],
  ['SET_INFLIGHT_FD', SET_INFLIGHT_FD, 2],
  ['SET_INFLIGHT_FD', SET_INFLIGHT_FD, 9],
] as const) {
  classes(`C10: ${name} with ${fds} fds ends the session, and all are closed`, async () => {
    await talked(
      async (talk) => {
        const file = talk.platform.createSharedMemory('inflight', 0x1000n);
        const payload = bytes(0x1000n, 0n, 1 | (16 << 16), 0);
        talk.frontend.send(request, payload, { fds: Array.from({ length: fds }, () => file) });
        talk.platform.closeFd(file);
        assert.is((await talk.ended())!.code, 'ERR_VHOST_FDS');
      },
      { protocol: ALL_PROTOCOL | Protocol.inflightShmfd },
    );
  });
}

classes(
  'C17: there is no GPU: its socket is refused and closed, and no device of the package is one',
  async () => {
    await talked(async (talk) => {
      const [mine, theirs] = talk.platform.socketPair();
      assert.is(await talk.frontend.acknowledged(GPU_SET_SOCKET, bytes(), [theirs]), 1n);
      for (const fd of [mine, theirs]) talk.platform.closeFd(fd);
      assert.match(talk.logs.at(-1)!.message, 'the device is not a GPU');
      assert.is.not(talk.device.deviceId, DeviceId.gpu);
    });
  },
);

classes('C19: a device that fails with chains in its hands keeps neither chains nor memory', async () => {
  const device = new RecordingDevice();
  device.hold = true;
  await talked(
    async (talk) => {
      const guest = new SharedGuest(talk.platform);
      const ring = RunningRing.start(talk, guest);
      ring.offer();
      await until(() => device.held.length === 1, 'the device has a chain');
      device.failure = new Error('cannot go on');
      ring.offer();
      await until(() => talk.session.vring(0).broken !== null, 'the ring is latched');
      assert.is(talk.session.vring(0).broken!.code, 'ERR_VIRTQ_DEVICE');
      assert.is(ring.err.take(), 1n);
      // The other rings go on, and this one starts afresh once it was stopped.
      const other = RunningRing.start(talk, guest, { index: 1, table: false });
      device.hold = false;
      other.offer();
      await other.used(1);
      device.finish();
      assert.is(ring.ring.usedIndex, 0, 'the driver sees nothing of it');
      for (const each of [ring, other]) each.close();
      guest.close();
    },
    { device },
  );
});

classes(
  'C22: a ring index that would be negative in 32 bits is no ring, in whatever message it comes',
  async () => {
    await talked(async (talk) => {
      const { frontend } = talk;
      for (const index of [0xffff_ffff, 0x8000_0000]) {
        const state = bytes(index, 0);
        for (const request of [
          Request.setVringNum,
          Request.setVringBase,
          Request.setVringEnable,
          Request.getVringBase,
        ]) {
          frontend.send(request, state, { needReply: true });
          assert.is(u64Of((await frontend.receive())!), 1n, `request ${request}`);
        }
        const address = bytes(index, 0, 0n, 0n, 0n, 0n);
        assert.is(await frontend.acknowledged(Request.setVringAddr, address), 1n);
        const wide = bytes(BigInt(index) | 0x100n);
        for (const request of [Request.setVringKick, Request.setVringCall, Request.setVringErr]) {
          assert.is(await frontend.acknowledged(request, wide), 1n, `request ${request}`);
        }
      }
      assert.equal([...talk.session.vrings], []);
    });
  },
);

classes('C27: whatever is no plain memory file is not mapped as memory', async () => {
  await talked(async (talk) => {
    const guest = new SharedGuest(talk.platform);
    const [mine, theirs] = talk.platform.socketPair();
    const odd = [theirs, talk.platform.createEventFd(), talk.platform.createFd('pipe')];
    for (const fd of odd) {
      assert.is(await talk.frontend.acknowledged(Request.setMemTable, memoryTable(guest), [fd]), 1n);
    }
    for (const fd of [mine, ...odd]) talk.platform.closeFd(fd);
    assert.is(talk.platform.mappingCount, 1, 'the guest’s own');
    guest.close();
  });
});

classes('C27: an image that is a folder, a pipe or a character device is refused at once', () => {
  const platform = createLinuxPlatform();
  const folder = mkdtempSync(join(tmpdir(), 'vhost-user-special-'));
  try {
    mkdirSync(join(folder, 'folder'));
    writeFileSync(join(folder, 'image'), new Uint8Array(512));
    spawnSync('mkfifo', [join(folder, 'pipe')]);
    for (const path of [join(folder, 'folder'), join(folder, 'pipe'), '/dev/null', '/dev/zero']) {
      for (const readOnly of [true, false]) {
        assert.throws(
          () => platform.openFile(path, { readOnly }),
          (error: unknown) => error instanceof PlatformError && /ENOTBLK|EISDIR/.test(error.errno ?? ''),
          path,
        );
      }
    }
    platform.openFile(join(folder, 'image'), { readOnly: true }).close();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

classes.run();
