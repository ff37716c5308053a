import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { VhostError } from '../../../runtime/errors.js';
import { createFakePlatform } from '../../../runtime/platform/fake.js';
import type { SocketStream } from '../../../runtime/platform/platform.js';
import { InflightMemory } from '../../../runtime/vhost-user/frontend/inflight-memory.js';
import { RequestChannel } from '../../../runtime/vhost-user/frontend/request-channel.js';
import { messageChannel } from '../../../runtime/vhost-user/message-trace.js';
import { NegotiatedFeatures } from '../../../runtime/vhost-user/negotiated-features.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { RawBackend } from '../../support/raw-backend.js';
import { bytes, turns } from '../../support/raw-frontend.js';

const test = suite('in-flight memory of a front-end');

test('the fd of a reply that comes in the moment of the end is closed', async () => {
  const platform = createFakePlatform();
  const file = platform.createSharedMemory('inflight', 4096n);
  const { backend, stream } = RawBackend.pair(platform, {
    getInflightFd: ({ payload }, self) =>
      self.reply('getInflightFd', bytes(4096n, 0n, payload.subarray(16)), [file]),
  });
  const channel = new RequestChannel(platform, stream as SocketStream);
  channel.features = new NegotiatedFeatures(0n, ProtocolFeature.inflightShmfd);
  channel.features.acceptProtocol(ProtocolFeature.inflightShmfd);
  const memory = new InflightMemory(platform);
  const closes = (trace: unknown): void => {
    if ((trace as { direction: string }).direction === 'out') return;
    // After the reply was taken and before whoever waited for it goes on.
    queueMicrotask(() => {
      channel.close();
      memory[Symbol.dispose]();
    });
  };
  messageChannel.subscribe(closes);
  const error = await memory.obtain(channel, 1, 8, undefined).catch((reason: unknown) => reason);
  messageChannel.unsubscribe(closes);
  assert.is((error as VhostError).code, 'ERR_VHOST_DISCONNECTED');
  assert.not(memory.held);
  await turns(3);
  backend.close();
  platform.closeFd(file);
  assert.equal(platform.openFds, []);
});

test.run();
