/** In what order a front-end speaks, and what it accepts. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SharedMemory } from '../../../runtime/memory/shared-memory.js';
import { createFakePlatform } from '../../../runtime/platform/fake.js';
import { acceptFeatures } from '../../../runtime/vhost-user/frontend/feature-filter.js';
import { Frontend, type FrontendOptions } from '../../../runtime/vhost-user/frontend/frontend.js';
import type { VhostUserError } from '../../../runtime/errors.js';
import type { FrontendRequestName } from '../../../generated/vhost-user/frontend-requests.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { NetFeature, netFeatureTable } from '../../../generated/virtio/devices/net/features.js';
import { type RawAnswer, RawBackend } from '../../support/raw-backend.js';
import { bytes, NO_FD, Protocol, PROTOCOL_FEATURES, turns, VERSION_1 } from '../../support/raw-frontend.js';

const test = suite('front-end negotiation');

type Answers = Partial<Record<FrontendRequestName, RawAnswer>>;

async function speak(
  answers: Answers,
  options: Partial<FrontendOptions>,
  use: (frontend: Frontend, backend: RawBackend) => Promise<void> | void,
): Promise<void> {
  const platform = createFakePlatform();
  const { backend, stream } = RawBackend.pair(platform, answers);
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const features = { supported: VirtioFeature.version1 };
  const frontend = await Frontend.attach({ platform, memory, features, stream, ...options });
  await use(frontend, backend);
  frontend.close();
  memory[Symbol.dispose]();
  await backend.untilHungUp();
  backend.close();
  assert.equal(platform.openFds, []);
}

/** Starts two rings in the first bytes of memory. */
async function startTwo(frontend: Frontend): Promise<void> {
  const place = frontend.memory.allocate(4096, 4096);
  const at = (offset: number) => ({ window: place.window, offset: place.offset + offset });
  await frontend.startVrings(
    [0, 1].map((index) => ({
      index,
      size: 8,
      base: index,
      areas: {
        descriptor: at(index * 1024),
        driver: at(index * 1024 + 256),
        device: at(index * 1024 + 512),
      },
    })),
  );
}

const FULL = bytes(
  Protocol.mq |
    Protocol.replyAck |
    Protocol.backendReq |
    Protocol.config |
    Protocol.configureMemSlots |
    Protocol.status,
);

const ring = ['setVringNum!', 'setVringBase!', 'setVringAddr!', 'setVringErr!', 'setVringKick!'];

test('the order of virtio-user: owner first, a call fd before all else of a ring, its kick fd last', async () => {
  await speak({ getProtocolFeatures: FULL }, { queues: 2 }, async (frontend, backend) => {
    await startTwo(frontend);
    assert.equal(backend.names, [
      'setOwner',
      'getFeatures',
      'getProtocolFeatures',
      'setProtocolFeatures',
      'getQueueNum',
      'getMaxMemSlots',
      'setBackendReqFd!',
      'setVringCall!',
      'setVringCall!',
      'setFeatures!',
      'setStatus!',
      'getStatus',
      'addMemReg!',
      'setVringCall!',
      ...ring,
      'setVringCall!',
      ...ring,
      'setVringEnable!',
      'setVringEnable!',
      'setStatus!',
    ]);
    assert.equal(backend.last('setStatus').payload, bytes(0xfn), 'DRIVER_OK comes last');
    assert.equal(backend.last('setVringBase').payload, bytes(1, 1));
  });
});

test('trap 14: the order of QEMU, which sends call fds before SET_FEATURES and again after the kick fd', async () => {
  await speak({}, { queues: 2, order: 'qemu' }, async (frontend, backend) => {
    await startTwo(frontend);
    assert.equal(backend.names, [
      'getFeatures',
      'getProtocolFeatures',
      'setProtocolFeatures',
      'getQueueNum',
      'setOwner!',
      'setVringCall!',
      'setVringCall!',
      'setFeatures!',
      'setMemTable!',
      ...ring,
      'setVringCall!',
      ...ring,
      'setVringCall!',
      'setVringEnable!',
      'setVringEnable!',
    ]);
  });
});

test('a back-end without protocol features is asked for none, and its rings are not enabled', async () => {
  await speak({ getFeatures: bytes(VERSION_1) }, {}, async (frontend, backend) => {
    await startTwo(frontend);
    assert.is(frontend.negotiated.queueCount, null);
    await frontend.enableVring(0, false);
    await turns(20);
    assert.equal(backend.names.slice(0, 5), [
      'setOwner',
      'getFeatures',
      'setVringCall',
      'setFeatures',
      'setMemTable',
    ]);
    assert.not(backend.names.includes('setVringEnable'));
    assert.not(backend.names.includes('getProtocolFeatures'));
  });
});

test('protocol features are offered ∩ served, with what lacks its needs taken out', async () => {
  const offered =
    ProtocolFeature.backendSendFd |
    ProtocolFeature.hostNotifier |
    ProtocolFeature.xenMmap |
    ProtocolFeature.mq;
  await speak({ getProtocolFeatures: bytes(offered) }, {}, (frontend, backend) => {
    assert.is(frontend.negotiated.protocol, ProtocolFeature.mq);
    assert.equal(backend.last('setProtocolFeatures').payload, bytes(ProtocolFeature.mq));
    assert.is(frontend.negotiated.offeredProtocol, offered);
  });
});

test('the driver gets offered ∩ supported, with dependencies closed', () => {
  const offered =
    VERSION_1 | PROTOCOL_FEATURES | NetFeature.guestTso4 | NetFeature.guestCsum | NetFeature.hostTso4;
  const filter = {
    supported: VERSION_1 | NetFeature.guestTso4 | NetFeature.hostTso4 | NetFeature.csum,
    table: netFeatureTable,
  };
  // GUEST_TSO4 needs GUEST_CSUM, which the driver does not support; HOST_TSO4 needs CSUM, which is not offered.
  assert.equal(acceptFeatures(offered, filter), {
    driver: VERSION_1,
    backend: VERSION_1 | PROTOCOL_FEATURES,
  });
  const more = { ...filter, supported: filter.supported | NetFeature.guestCsum };
  assert.is(acceptFeatures(offered, more).driver, VERSION_1 | NetFeature.guestTso4 | NetFeature.guestCsum);
});

test('with a control queue of its own the front-end gives the driver what hangs on it, and tells the back-end of none', () => {
  const control =
    NetFeature.ctrlVq | NetFeature.ctrlRx | NetFeature.ctrlVlan | NetFeature.ctrlMacAddr | NetFeature.mac;
  const filter = {
    supported: VERSION_1 | control | NetFeature.mq | NetFeature.status,
    provided: control | NetFeature.status,
    withheld: NetFeature.mac | NetFeature.ctrlVq | NetFeature.status,
    table: netFeatureTable,
  };
  const offered = VERSION_1 | PROTOCOL_FEATURES | NetFeature.mq | NetFeature.ctrlVq | NetFeature.ctrlRx;
  assert.equal(acceptFeatures(offered, filter), {
    driver: VERSION_1 | control | NetFeature.mq | NetFeature.status,
    backend: VERSION_1 | PROTOCOL_FEATURES | NetFeature.mq | NetFeature.ctrlRx,
  });
  // Without the control queue everything that needs it goes.
  const without = { ...filter, supported: filter.supported & ~NetFeature.ctrlVq };
  assert.is(acceptFeatures(offered, without).driver, VERSION_1 | NetFeature.mac | NetFeature.status);
});

test('a device that takes FEATURES_OK back is refused, and nothing stays open', async () => {
  const platform = createFakePlatform();
  const { backend, stream } = RawBackend.pair(platform, { getProtocolFeatures: FULL, getStatus: bytes(3n) });
  using memory = new SharedMemory(platform, { size: 4096 });
  const features = { supported: VirtioFeature.version1 };
  const error = await Frontend.attach({ platform, memory, features, stream }).catch(
    (reason: unknown) => reason,
  );
  assert.is((error as VhostUserError).code, 'ERR_VHOST_REFUSED');
  assert.match((error as Error).message, /0x3 without FEATURES_OK/);
  await backend.untilHungUp();
  backend.close();
  assert.is(platform.openFdCount, 1, 'the memory');
});

test('without eventfds the no-fd bit is sent, and the rings are polled', async () => {
  await speak({}, { withoutKick: true, withoutCall: true }, async (frontend, backend) => {
    await startTwo(frontend);
    for (const name of ['setVringKick', 'setVringCall'] as const) {
      assert.equal(backend.last(name).payload, bytes(1n | NO_FD));
      assert.equal(backend.last(name).fds, []);
    }
    frontend.kick(0);
  });
});

test('in-band notifications replace the eventfds, kicks and calls are messages', async () => {
  const protocol =
    ProtocolFeature.replyAck | ProtocolFeature.backendReq | ProtocolFeature.inbandNotifications;
  const answers = { getProtocolFeatures: bytes(protocol) };
  await speak(answers, { inbandNotifications: true }, async (frontend, backend) => {
    await startTwo(frontend);
    await turns(5);
    // Two start the rings, two kick them.
    assert.equal(
      backend.names.filter((name) => name.startsWith('vring')),
      ['vringKick!', 'vringKick!', 'vringKick!', 'vringKick!'],
    );
    frontend.kick(1);
    await turns(5);
    assert.equal(backend.last('vringKick').payload, bytes(1, 0));
    for (const name of ['setVringKick!', 'setVringCall!', 'setVringErr!']) {
      assert.not(backend.names.includes(name), name);
    }
  });
});

test('in-band kicks are used only where they are asked for and offered', async () => {
  const { replyAck, backendReq, inbandNotifications } = ProtocolFeature;
  const both = replyAck | backendReq;
  for (const [offered, inband] of [
    [both | inbandNotifications, false],
    [both, true],
  ] as const) {
    const options = { inbandNotifications: inband };
    await speak({ getProtocolFeatures: bytes(offered) }, options, async (frontend, backend) => {
      await startTwo(frontend);
      assert.equal(backend.last('setProtocolFeatures').payload, bytes(both));
      assert.is(backend.last('setVringKick').fds.length, 1);
      assert.not(backend.names.includes('vringKick!'));
    });
  }
});

test('a back-end that answers no in-band kick gets one more for a thousand', async () => {
  const { replyAck, backendReq, inbandNotifications } = ProtocolFeature;
  const answers = { getProtocolFeatures: bytes(replyAck | backendReq | inbandNotifications) };
  await speak(answers, { inbandNotifications: true }, async (frontend, backend) => {
    await startTwo(frontend);
    await turns(5);
    backend.answers.vringKick = null;
    const before = backend.names.length;
    for (let i = 0; i < 1000; i++) frontend.kick(0);
    await turns(5);
    assert.is(backend.names.length, before + 1);
    delete backend.answers.vringKick;
    backend.reply('vringKick', bytes(0n));
    await turns(5);
    assert.is(backend.names.length, before + 2);
  });
});

test('ring addresses are the front-end’s own, and IOVAs behind an IOMMU', async () => {
  for (const [offered, expected] of [
    [VERSION_1, 0x7e00_0000_0000n],
    [VERSION_1 | VirtioFeature.accessPlatform, 0n],
  ] as const) {
    const features = { supported: VirtioFeature.version1 | VirtioFeature.accessPlatform };
    await speak(
      { getFeatures: bytes(offered | PROTOCOL_FEATURES) },
      { features },
      async (frontend, backend) => {
        await startTwo(frontend);
        assert.equal(
          backend.last('setVringAddr').payload,
          bytes(1, 0, expected + 1024n, expected + 1536n, expected + 1280n, 0n),
        );
      },
    );
  }
});

test('guest addresses are used in every message where that is asked for and offered', async () => {
  const { replyAck, configureMemSlots, gpaAddresses } = ProtocolFeature;
  for (const [offered, asked, expected] of [
    [gpaAddresses, true, 0n],
    [gpaAddresses, false, 0x7e00_0000_0000n],
    [0n, true, 0x7e00_0000_0000n],
  ] as const) {
    for (const slots of [0n, configureMemSlots]) {
      const answers = { getProtocolFeatures: bytes(offered | replyAck | slots) };
      await speak(answers, { gpaAddresses: asked }, async (frontend, backend) => {
        await startTwo(frontend);
        const name = slots === 0n ? 'setMemTable' : 'addMemReg';
        const { payload } = backend.last(name);
        assert.equal(payload.subarray(8), bytes(0n, 65536n, expected, 0n), name);
        assert.equal(
          backend.last('setVringAddr').payload,
          bytes(1, 0, expected + 1024n, expected + 1536n, expected + 1280n, 0n),
        );
        const shared = await frontend.addMemory(65536);
        await frontend.removeMemory(shared);
        if (slots !== 0n) {
          const { guestAddress, userAddress } = shared.region.description;
          const told = expected === 0n ? guestAddress : userAddress;
          assert.equal(backend.last('remMemReg').payload.subarray(8, 32), bytes(guestAddress, 65536n, told));
        }
      });
    }
  }
});

test('a ring that the back-end does not serve is not started', async () => {
  await speak({ getQueueNum: bytes(1n) }, { queues: 2 }, async (frontend) => {
    const error = await startTwo(frontend).catch((reason: unknown) => reason);
    assert.match((error as Error).message, /ring 1: the back-end serves 1 queues/);
  });
});

test('more regions than the back-end takes are refused before they are sent', async () => {
  const platform = createFakePlatform();
  using memory = new SharedMemory(platform, { size: 9 << 12, regions: 9 });
  for (const answers of [{}, { getProtocolFeatures: FULL }]) {
    const { backend, stream } = RawBackend.pair(platform, answers);
    const features = { supported: VirtioFeature.version1 };
    const error = await Frontend.attach({ platform, memory, features, stream }).catch(
      (reason: unknown) => reason,
    );
    assert.match((error as Error).message, /memory has 9 regions, the back-end takes 8/);
    await backend.untilHungUp();
    backend.close();
  }
});

test.run();
