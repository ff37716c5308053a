/** Saving and loading a device's state on a back-end that leaves the channel as it likes. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { VhostUserError } from '../../../runtime/errors.js';
import { SharedMemory } from '../../../runtime/memory/shared-memory.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/platform/fake.js';
import { createLinuxPlatform } from '../../../runtime/platform/linux.js';
import type { Platform } from '../../../runtime/platform/platform.js';
import { loadDeviceState, saveDeviceState } from '../../../runtime/vhost-user/frontend/device-state.js';
import { Frontend } from '../../../runtime/vhost-user/frontend/frontend.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { RawBackend } from '../../support/raw-backend.js';
import { bytes, turns, until } from '../../support/raw-frontend.js';

const test = suite("a front-end's device state");

/** Its own end of the channel stays, as the flag for no fd says. */
const YOURS = 0x100n;
/** More than a socket takes without being read. */
const STATE = new Uint8Array(8 << 20);

interface World {
  readonly backend: RawBackend;
  readonly frontend: Frontend;
}

/** With a back-end that takes the channel, and neither reads nor writes nor closes it. */
async function withSilentChannel(
  use: (world: World) => Promise<void>,
  platform: Platform = createFakePlatform(),
): Promise<void> {
  const { backend, stream } = RawBackend.pair(platform as FakePlatform, {
    getProtocolFeatures: bytes(ProtocolFeature.replyAck | ProtocolFeature.deviceState),
    setDeviceStateFd: bytes(YOURS),
    checkDeviceState: bytes(0n),
  });
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const features = { supported: VirtioFeature.version1 };
  const frontend = await Frontend.attach({ platform, memory, features, stream });
  await use({ backend, frontend });
  frontend.close();
  memory[Symbol.dispose]();
  backend.close();
  await turns(5);
  if ('openFds' in platform) assert.equal(platform.openFds, [], 'nothing stays open');
}

for (const [what, transfer] of [
  ['saving', (frontend: Frontend, signal?: AbortSignal) => saveDeviceState(frontend, signal && { signal })],
  [
    'loading',
    (frontend: Frontend, signal?: AbortSignal) => loadDeviceState(frontend, STATE, signal && { signal }),
  ],
] as const) {
  const failure = (frontend: Frontend, signal?: AbortSignal): Promise<unknown> =>
    Promise.resolve(transfer(frontend, signal)).catch((error: unknown) => error);

  test(`${what} ends with the conversation, although the channel stays open`, async () => {
    await withSilentChannel(async ({ backend, frontend }) => {
      const failed = failure(frontend);
      await until(() => backend.names.includes('setDeviceStateFd'), 'the channel is there');
      await turns(5);
      backend.stream.close();
      assert.is(((await failed) as VhostUserError).code, 'ERR_VHOST_DISCONNECTED');
    });
  });

  test(`${what} ends with the conversation, although that ends together with the answer`, async () => {
    await withSilentChannel(async ({ backend, frontend }) => {
      backend.answers.setDeviceStateFd = () => {
        backend.reply('setDeviceStateFd', bytes(YOURS));
        backend.stream.close();
      };
      assert.is(((await failure(frontend)) as VhostUserError).code, 'ERR_VHOST_DISCONNECTED');
    });
  });

  for (const [name, create] of [
    ['fake', createFakePlatform],
    ['linux', createLinuxPlatform],
  ] as const) {
    test(`${name}: ${what} ends with the signal's own reason, and the conversation goes on`, async () => {
      await withSilentChannel(async ({ backend, frontend }) => {
        const abort = new AbortController();
        const failed = failure(frontend, abort.signal);
        await until(() => backend.names.includes('setDeviceStateFd'), 'the channel is there');
        await turns(5);
        const reason = new Error('no more');
        abort.abort(reason);
        assert.is(await failed, reason);
        assert.ok(frontend.connected);
      }, create());
    });
  }
}

test.run();
