/** What a back-end lends to the driver and to other back-ends, against a back-end driven by hand. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SharedMemory } from '../../../runtime/memory/shared-memory.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/platform/fake.js';
import type { SocketStream } from '../../../runtime/platform/platform.js';
import { Frontend, type FrontendOptions } from '../../../runtime/vhost-user/frontend/frontend.js';
import type { HostNotifier } from '../../../runtime/vhost-user/frontend/host-notifiers.js';
import {
  MAX_SHARED_OBJECTS,
  SharedObjectRegistry,
} from '../../../runtime/vhost-user/frontend/shared-objects.js';
import { MAX_SHMEM_MAPPINGS, type ShmemMapping } from '../../../runtime/vhost-user/frontend/shmem-table.js';
import type { FrontendRequestName } from '../../../generated/vhost-user/frontend-requests.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { type RawAnswer, RawBackend } from '../../support/raw-backend.js';
import { bytes, NO_FD, Protocol, RawFrontend, turns, u64Of, until } from '../../support/raw-frontend.js';

const test = suite('what a back-end lends');

const PROTOCOL =
  Protocol.mq |
  Protocol.replyAck |
  Protocol.backendReq |
  Protocol.backendSendFd |
  Protocol.resetDevice |
  Protocol.status |
  Protocol.hostNotifier |
  Protocol.sharedObject |
  Protocol.shmem;

interface World {
  readonly platform: FakePlatform;
  readonly backend: RawBackend;
  readonly frontend: Frontend;
  /** The back-end's end of its channel. */
  readonly back: RawFrontend;
  /** An fd to send along. */
  readonly fd: number;
}

/** The reply to GET_SHMEM_CONFIG. */
function config(regions: Record<number, bigint>, count = Object.keys(regions).length): Uint8Array {
  return bytes(count, 0, ...Array.from({ length: 256 }, (_, id) => regions[id] ?? 0n));
}

const ANSWERS: Partial<Record<FrontendRequestName, RawAnswer>> = {
  getProtocolFeatures: bytes(PROTOCOL),
  getShmemConfig: config({ 0: 0x4000n, 7: 0x1_0000n }),
};

async function connect(platform: FakePlatform, memory: SharedMemory, options: Partial<FrontendOptions>) {
  const { backend, stream } = RawBackend.pair(platform, ANSWERS);
  const features = { supported: VirtioFeature.version1 };
  const frontend = await Frontend.attach({ platform, memory, features, stream, queues: 2, ...options });
  const [fd] = backend.last('setBackendReqFd').fds.splice(0);
  const back = new RawFrontend(platform, platform.adoptSocket(fd!) as SocketStream);
  return { backend, frontend, back };
}

async function session(
  options: Partial<FrontendOptions>,
  use: (world: World) => Promise<void>,
): Promise<void> {
  const platform = createFakePlatform();
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const fd = platform.createSharedMemory('file', 0x1_0000n);
  const world = { platform, fd, ...(await connect(platform, memory, options)) };
  await use(world);
  world.frontend.close();
  memory[Symbol.dispose]();
  await until(() => world.backend.hungUp, 'the front-end hangs up');
  world.backend.close();
  world.back.close();
  platform.closeFd(fd);
  assert.equal(platform.openFds, [], 'nothing stays open');
}

function map(id: number, shmOffset: bigint, length: bigint, fdOffset = 0n, flags = 1n): Uint8Array {
  return bytes(id, 0, fdOffset, shmOffset, length, flags);
}

const MAP = 9;
const UNMAP = 10;

test('each feature is accepted where an option asks for it', async () => {
  const bits = Protocol.hostNotifier | Protocol.sharedObject | Protocol.shmem;
  for (const [options, expected] of [
    [{}, 0n],
    [{ hostNotifiers: {} }, Protocol.hostNotifier],
    [{ shmem: {} }, Protocol.shmem],
    [{ sharedObjects: new SharedObjectRegistry() }, Protocol.sharedObject],
  ] as const) {
    await session(options, async ({ frontend, backend }) => {
      assert.is(frontend.negotiated.protocol & bits, expected);
      assert.is(backend.names.includes('getShmemConfig'), expected === Protocol.shmem);
    });
  }
});

// --- shared memory regions

test('files are mapped into regions: told, listed with an open fd, and unmapped as a whole', async () => {
  const log: string[] = [];
  const note = (what: string) => (mapping: ShmemMapping) =>
    log.push(`${what} ${mapping.id} ${mapping.offset}`);
  await session(
    { shmem: { mapped: note('map'), unmapped: note('unmap') } },
    async ({ frontend, back, fd, platform }) => {
      const { shmem } = frontend.loans;
      assert.equal(
        [...shmem!.regions],
        [
          [0, 0x4000n],
          [7, 0x1_0000n],
        ],
      );
      assert.is(await back.acknowledged(MAP, map(7, 0x2000n, 0x3000n, 0x1000n), [fd]), 0n);
      const [mapping] = shmem!.mappings;
      assert.equal(
        { ...mapping, fd: platform.fileIdentity(mapping!.fd) },
        {
          id: 7,
          offset: 0x2000n,
          length: 0x3000n,
          fd: platform.fileIdentity(fd),
          fdOffset: 0x1000n,
          writable: true,
        },
      );
      assert.is(
        await back.acknowledged(UNMAP, map(7, 0x2000n, 0x3000n, 0x99n, 0n)),
        0n,
        'the file does not matter',
      );
      assert.equal(shmem!.mappings, []);
      assert.equal(log, ['map 7 8192', 'unmap 7 8192']);
    },
  );
});

test('a mapping that overlaps another is refused, one that touches it is not; other regions do not matter', async () => {
  await session({ shmem: {} }, async ({ frontend, back, fd }) => {
    assert.is(await back.acknowledged(MAP, map(7, 0x2000n, 0x2000n), [fd]), 0n);
    for (const [offset, length] of [
      [0x2000n, 0x2000n],
      [0x1000n, 0x2000n],
      [0x3000n, 0x2000n],
      [0x0n, 0x8000n],
      [0x2000n, 0x1000n],
    ] as const) {
      assert.is(await back.acknowledged(MAP, map(7, offset, length), [fd]), 1n, `${length} at ${offset}`);
    }
    assert.is(await back.acknowledged(MAP, map(7, 0x1000n, 0x1000n), [fd]), 0n);
    assert.is(await back.acknowledged(MAP, map(7, 0x4000n, 0x1000n), [fd]), 0n);
    assert.is(await back.acknowledged(MAP, map(0, 0x2000n, 0x2000n), [fd]), 0n);
    assert.is(frontend.loans.shmem!.mappings.length, 4);
  });
});

test('only exactly what was mapped is unmapped', async () => {
  await session({ shmem: {} }, async ({ frontend, back, fd }) => {
    assert.is(await back.acknowledged(MAP, map(7, 0x2000n, 0x2000n), [fd]), 0n);
    for (const [id, offset, length] of [
      [7, 0x2000n, 0x1000n],
      [7, 0x3000n, 0x1000n],
      [7, 0x2000n, 0x3000n],
      [0, 0x2000n, 0x2000n],
      [8, 0x2000n, 0x2000n],
    ] as const) {
      assert.is(
        await back.acknowledged(UNMAP, map(id, offset, length)),
        1n,
        `${length} at ${offset} of ${id}`,
      );
    }
    assert.is(frontend.loans.shmem!.mappings.length, 1);
    assert.is(await back.acknowledged(UNMAP, map(7, 0x2000n, 0x2000n)), 0n);
    assert.is(await back.acknowledged(UNMAP, map(7, 0x2000n, 0x2000n)), 1n, 'gone already');
  });
});

test('ranges outside of their region, without pages or with overflows are answered with a failure, and their fds closed', async () => {
  await session({ shmem: {} }, async ({ frontend, back, fd, platform }) => {
    await turns(2);
    const before = platform.openFdCount;
    for (const payload of [
      map(1, 0n, 0x1000n),
      map(255, 0n, 0x1000n),
      map(0, 0n, 0x5000n),
      map(0, 0x4000n, 0x1000n),
      map(0, 0n, 0n),
      map(0, 0x800n, 0x1000n),
      map(0, 0n, 0x1800n),
      map(0, (1n << 64n) - 0x1000n, 0x1000n),
      map(0, 0x1000n, (1n << 64n) - 0x1000n),
      map(0, 0n, 0x1000n, (1n << 63n) - 0x1000n),
      map(0, 0n, 0x1000n, 0x10n),
      map(0, 0n, 0x1000n, 0n, 2n),
      map(0, 0n, 0x1000n, 0n, 1n << 63n),
    ]) {
      assert.is(await back.acknowledged(MAP, payload, [fd]), 1n, Buffer.from(payload).toString('hex'));
    }
    assert.is(await back.acknowledged(MAP, map(0, 0n, 0x1000n)), 1n, 'no fd');
    assert.is(await back.acknowledged(MAP, map(0, 0n, 0x1000n), [fd, fd]), 1n, 'two fds');
    assert.is(await back.acknowledged(UNMAP, map(0, 0n, 0x1000n), [fd]), 1n, 'an fd where none belongs');
    assert.is(platform.openFdCount, before);
    assert.is(await back.acknowledged(MAP, map(0, 0n, 0x1000n), [fd]), 0n, 'the channel goes on');
    assert.is(frontend.loans.shmem!.mappings.length, 1);
  });
});

test('a back-end cannot hold more mappings, and with them fds, than there may be', async () => {
  await session({ shmem: {} }, async ({ frontend, back, fd }) => {
    // The configured regions are too small for so many pages.
    frontend.loans.shmem!.configure({
      count: 1,
      sizes: Array.from({ length: 256 }, (_, id) =>
        id === 0 ? BigInt(MAX_SHMEM_MAPPINGS + 1) * 0x1000n : 0n,
      ),
    });
    for (let i = 0; i < MAX_SHMEM_MAPPINGS; i++) {
      assert.is(await back.acknowledged(MAP, map(0, BigInt(i) * 0x1000n, 0x1000n), [fd]), 0n);
    }
    assert.is(await back.acknowledged(MAP, map(0, BigInt(MAX_SHMEM_MAPPINGS) * 0x1000n, 0x1000n), [fd]), 1n);
    assert.is(await back.acknowledged(UNMAP, map(0, 0n, 0x1000n)), 0n);
    assert.is(await back.acknowledged(MAP, map(0, BigInt(MAX_SHMEM_MAPPINGS) * 0x1000n, 0x1000n), [fd]), 0n);
  });
});

test('a handler that throws refuses the mapping', async () => {
  const shmem = {
    mapped: () => {
      throw new Error('no room');
    },
  };
  await session({ shmem }, async ({ frontend, back, fd }) => {
    assert.is(await back.acknowledged(MAP, map(0, 0n, 0x1000n), [fd]), 1n);
    assert.equal(frontend.loans.shmem!.mappings, []);
  });
});

for (const [what, reset] of [
  ['RESET_DEVICE', (frontend: Frontend) => frontend.resetDevice()],
  ['status 0', (frontend: Frontend) => frontend.request('setStatus', 0n)],
] as const) {
  test(`${what} drops mappings and host notifiers, and keeps objects`, async () => {
    const gone: string[] = [];
    const options = {
      shmem: { unmapped: ({ id }: ShmemMapping) => gone.push(`region ${id}`) },
      hostNotifiers: { withdrawn: ({ ring }: HostNotifier) => gone.push(`ring ${ring}`) },
      sharedObjects: new SharedObjectRegistry(),
    };
    await session(options, async ({ frontend, back, fd }) => {
      assert.is(await back.acknowledged(MAP, map(7, 0n, 0x1000n), [fd]), 0n);
      assert.is(await back.acknowledged(3, bytes(1n, 0x1000n, 0n), [fd]), 0n);
      assert.is(await back.acknowledged(6, new Uint8Array(16).fill(1)), 0n);
      await reset(frontend);
      assert.equal(gone, ['ring 1', 'region 7']);
      assert.is(options.sharedObjects.uuids.length, 1);
    });
  });
}

for (const [what, request, reset] of [
  ['RESET_DEVICE', 'resetDevice', (frontend: Frontend) => frontend.resetDevice()],
  ['status 0', 'setStatus', (frontend: Frontend) => frontend.request('setStatus', 0n)],
] as const) {
  test(`${what}: what was mapped before the answer, and is read after it, does not stay`, async () => {
    const log: string[] = [];
    const options = {
      shmem: {
        mapped: ({ id }: ShmemMapping) => log.push(`mapped ${id}`),
        unmapped: ({ id }: ShmemMapping) => log.push(`unmapped ${id}`),
      },
      hostNotifiers: {
        offered: ({ ring }: HostNotifier) => log.push(`offered ${ring}`),
        withdrawn: ({ ring }: HostNotifier) => log.push(`withdrawn ${ring}`),
      },
    };
    await session(options, async ({ frontend, backend, back, fd }) => {
      const pages = 15;
      backend.answers[request] = (seen, self) => {
        // The front-end looks at the answer first, and there is more in the other socket than it reads ahead.
        self.reply(seen.name, bytes(0n));
        for (let i = 0; i < pages; i++) back.send(MAP, map(7, BigInt(i) * 0x1000n, 0x1000n), { fds: [fd] });
        back.send(3, bytes(1n, 0x1000n, 0n), { fds: [fd] });
      };
      await reset(frontend);
      await turns(20);
      assert.equal(frontend.loans.shmem!.mappings, []);
      assert.equal(frontend.loans.notifiers!.notifiers, []);
      assert.equal(log, [
        ...Array.from({ length: pages }, () => 'mapped 7'),
        'offered 1',
        'withdrawn 1',
        ...Array.from({ length: pages }, () => 'unmapped 7'),
      ]);
      assert.is(await back.acknowledged(MAP, map(7, 0n, 0x1000n), [fd]), 0n, 'later ones are mapped');
      assert.is(frontend.loans.shmem!.mappings.length, 1);
    });
  });
}

test('a handler that resets the device waits neither for itself nor for what came behind it', async () => {
  const handlers = { backendShmemUnmap: (frontend: Frontend) => frontend.resetDevice() };
  await session({ shmem: {}, handlers }, async ({ frontend, back, backend, fd }) => {
    assert.is(await back.acknowledged(MAP, map(7, 0n, 0x1000n), [fd]), 0n);
    assert.is(await back.acknowledged(UNMAP, map(7, 0n, 0x1000n)), 0n);
    assert.ok(backend.names.includes('resetDevice!'));
    assert.equal(frontend.loans.shmem!.mappings, []);
  });
});

test('a back-end that goes takes everything with it', async () => {
  const gone: string[] = [];
  const options = {
    shmem: { unmapped: ({ id }: ShmemMapping) => gone.push(`region ${id}`) },
    hostNotifiers: { withdrawn: ({ ring }: HostNotifier) => gone.push(`ring ${ring}`) },
    sharedObjects: new SharedObjectRegistry(),
  };
  await session(options, async ({ frontend, back, backend, fd }) => {
    assert.is(await back.acknowledged(MAP, map(7, 0n, 0x1000n), [fd]), 0n);
    assert.is(await back.acknowledged(3, bytes(1n, 0x1000n, 0n), [fd]), 0n);
    assert.is(await back.acknowledged(6, new Uint8Array(16).fill(1)), 0n);
    backend.close();
    backend.hungUp = true;
    await frontend.ended;
    assert.equal(gone, ['ring 1', 'region 7']);
    assert.equal(options.sharedObjects.uuids, []);
  });
});

for (const [what, reply] of [
  ['a count that is not that of its regions', config({ 0: 0x1000n, 3: 0x1000n }, 4)],
  ['a count of slots instead of regions', config({ 0: 0x1000n, 3: 0x1000n }, 1)],
  ['a region of half a page', config({ 0: 0x800n })],
  ['a region larger than any file', config({ 0: 1n << 63n })],
] as const) {
  test(`a configuration with ${what} ends the negotiation`, async () => {
    const platform = createFakePlatform();
    const { backend, stream } = RawBackend.pair(platform, { ...ANSWERS, getShmemConfig: reply });
    const memory = new SharedMemory(platform, { size: 1 << 16 });
    const features = { supported: VirtioFeature.version1 };
    const error: unknown = await Frontend.attach({ platform, memory, features, stream, shmem: {} }).catch(
      (reason: unknown) => reason,
    );
    assert.is((error as { code: string }).code, 'ERR_VHOST_REPLY');
    await backend.untilHungUp();
    backend.close();
    memory[Symbol.dispose]();
    assert.equal(platform.openFds, []);
  });
}

// --- host notifiers

test('a host notifier is offered, replaced, withdrawn, and gone with its ring', async () => {
  const log: string[] = [];
  const hostNotifiers = {
    offered: ({ ring, offset }: HostNotifier) => log.push(`offered ${ring} ${offset}`),
    withdrawn: ({ ring, offset }: HostNotifier) => log.push(`withdrawn ${ring} ${offset}`),
  };
  await session({ hostNotifiers }, async ({ frontend, back, fd }) => {
    const { notifiers } = frontend.loans;
    assert.is(await back.acknowledged(3, bytes(1n, 0x1000n, 0x2000n), [fd]), 0n);
    assert.is(await back.acknowledged(3, bytes(1n, 0x1000n, 0x3000n), [fd]), 0n);
    assert.is(notifiers!.notifiers.length, 1);
    assert.is(await back.acknowledged(3, bytes(1n | NO_FD, 0n, 0n)), 0n);
    assert.is(await back.acknowledged(3, bytes(1n | NO_FD, 0n, 0n)), 0n, 'there is none: nothing to do');
    assert.is(await back.acknowledged(3, bytes(0n, 0x1000n, 0x4000n), [fd]), 0n);
    await frontend.stopVrings([0]);
    assert.equal(log, [
      'offered 1 8192',
      'withdrawn 1 8192',
      'offered 1 12288',
      'withdrawn 1 12288',
      'offered 0 16384',
      'withdrawn 0 16384',
    ]);
  });
});

test('a host notifier that cannot be one is refused, and its fds closed', async () => {
  await session({ hostNotifiers: {} }, async ({ frontend, back, fd, platform }) => {
    await turns(2);
    const before = platform.openFdCount;
    for (const [payload, fds] of [
      [bytes(9n, 0x1000n, 0n), [fd]],
      [bytes(0x200n, 0x1000n, 0n), [fd]],
      [bytes(1n << 32n, 0x1000n, 0n), [fd]],
      [bytes(0n, 0x1000n, 0n), []],
      [bytes(NO_FD, 0x1000n, 0n), [fd]],
      [bytes(0n, 0n, 0n), [fd]],
      [bytes(0n, 0x800n, 0n), [fd]],
      [bytes(0n, 0x1000n, 1n), [fd]],
      [bytes(0n, 0x1000n, (1n << 64n) - 0x1000n), [fd]],
      [bytes(0n, 0x1000n, 0n), [fd, fd]],
    ] as const) {
      assert.is(await back.acknowledged(3, payload, fds), 1n, Buffer.from(payload).toString('hex'));
    }
    assert.is(platform.openFdCount, before);
    assert.equal(frontend.loans.notifiers!.notifiers, []);
  });
});

// --- shared objects

test('back-ends share objects by UUID: one owner each, looked up by all, gone with their owner', async () => {
  const platform = createFakePlatform();
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const sharedObjects = new SharedObjectRegistry();
  const one = await connect(platform, memory, { sharedObjects });
  const two = await connect(platform, memory, { sharedObjects });
  const uuid = new Uint8Array(16).fill(9);
  const object = platform.createSharedMemory('object', 4096n);
  one.backend.answers.getSharedObject = (_, backend) => backend.reply('getSharedObject', bytes(), [object]);

  assert.is(u64Of(await two.back.ask(8, uuid)), 1n, 'nobody has it');
  assert.is(await one.back.acknowledged(6, uuid), 0n);
  assert.is(await one.back.acknowledged(6, uuid), 1n, 'twice');
  assert.is(await two.back.acknowledged(6, uuid), 1n, 'another’s');
  assert.is(await two.back.acknowledged(7, uuid), 1n, 'only its owner takes it back');
  for (const { back } of [two, one]) {
    const found = await back.ask(8, uuid);
    assert.is(u64Of(found), 0n);
    assert.is(platform.fileIdentity(found.fds[0]!), platform.fileIdentity(object));
    platform.closeFd(found.fds[0]!);
  }
  assert.equal(one.backend.last('getSharedObject').payload, Buffer.from(uuid));
  // libvhost-user leaves the payload of the request in its reply; without an fd there is no object.
  one.backend.answers.getSharedObject = (seen, backend) => backend.reply('getSharedObject', seen.payload);
  const missing = await two.back.ask(8, uuid);
  assert.equal([u64Of(missing), missing.fds.length], [1n, 0]);

  assert.is(await one.back.acknowledged(7, uuid), 0n);
  assert.is(await one.back.acknowledged(7, uuid), 1n);
  assert.is(await one.back.acknowledged(6, uuid), 0n);
  one.frontend.close();
  assert.equal(sharedObjects.uuids, []);
  assert.is(await two.back.acknowledged(6, uuid), 0n, 'the name is free again');

  two.frontend.close();
  memory[Symbol.dispose]();
  platform.closeFd(object);
  for (const { back, backend } of [one, two]) {
    await until(() => backend.hungUp, 'the front-end hangs up');
    backend.close();
    back.close();
  }
  assert.equal(platform.openFds, []);
});

test('a look-up whose owner goes, or hangs up on it, finds nothing and holds up nobody', async () => {
  const platform = createFakePlatform();
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const sharedObjects = new SharedObjectRegistry();
  const one = await connect(platform, memory, { sharedObjects });
  const two = await connect(platform, memory, { sharedObjects });
  const uuid = new Uint8Array(16).fill(9);
  one.backend.answers.getSharedObject = null;
  assert.is(await one.back.acknowledged(6, uuid), 0n);
  two.back.send(8, uuid);
  await until(() => one.backend.names.includes('getSharedObject'), 'the owner is asked');
  one.backend.close();
  const reply = (await two.back.receive())!;
  assert.equal([reply.request, u64Of(reply), reply.fds.length], [8, 1n, 0]);
  assert.is(await two.back.acknowledged(6, uuid), 0n);
  one.frontend.close();
  two.frontend.close();
  memory[Symbol.dispose]();
  await until(() => two.backend.hungUp, 'the front-end hangs up');
  for (const { back, backend } of [one, two]) {
    backend.close();
    back.close();
  }
  assert.equal(platform.openFds, []);
});

test('one back-end cannot fill the registry', async () => {
  const sharedObjects = new SharedObjectRegistry();
  await session({ sharedObjects }, async ({ back, frontend }) => {
    const uuid = (i: number): Uint8Array => bytes(BigInt(i), 0n);
    for (let i = 0; i < MAX_SHARED_OBJECTS; i++) sharedObjects.add(uuid(i), frontend);
    assert.is(await back.acknowledged(6, uuid(MAX_SHARED_OBJECTS)), 1n);
    assert.is(await back.acknowledged(7, uuid(3)), 0n);
    assert.is(await back.acknowledged(6, uuid(MAX_SHARED_OBJECTS)), 0n);
  });
});

test.run();
