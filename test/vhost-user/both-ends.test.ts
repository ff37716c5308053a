/** Our back-end's devices and our front-end, over the platform of tests and over Linux. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DeviceHost, DeviceQueue, FrontendServices, VirtioDevice } from '../../runtime/device/index.js';
import { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import type { Platform, SocketStream } from '../../runtime/platform/platform.js';
import { serveDevice, type VhostUserBackend } from '../../runtime/vhost-user/backend/server.js';
import type { HostNotifier } from '../../runtime/vhost-user/frontend/host-notifiers.js';
import { SharedObjectRegistry } from '../../runtime/vhost-user/frontend/shared-objects.js';
import type { ShmemMapping } from '../../runtime/vhost-user/frontend/shmem-table.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';

const test = suite('both ends');

const PAGE = 0x1000n;

/** A device that shares whatever a test has it share. */
class SharingDevice implements VirtioDevice {
  readonly deviceId = 4;
  readonly features = 0n;
  readonly queueCount = 1;
  readonly hostNotifiers = true;
  readonly sharedMemory = [{ id: 2, size: 16n * PAGE }];
  readonly objects = new Map<string, number>();
  frontend: FrontendServices | null = null;

  attach(host: DeviceHost): void {
    this.frontend = host.frontend;
  }
  serveQueue(_: DeviceQueue): void {}
  sharedObject(uuid: Uint8Array): number | null {
    return this.objects.get(String(uuid)) ?? null;
  }
}

interface World {
  readonly platform: Platform;
  readonly device: SharingDevice;
  readonly backend: VhostUserBackend;
  readonly driver: VirtioDriver;
  readonly log: string[];
}

async function start(platform: Platform, sharedObjects: SharedObjectRegistry): Promise<World> {
  const device = new SharingDevice();
  const [mine, theirs] = platform.socketPair();
  const withProtocolFeatures = ProtocolFeature.inbandNotifications | ProtocolFeature.gpaAddresses;
  const backend = serveDevice(device, { platform, fd: theirs, withProtocolFeatures });
  const log: string[] = [];
  const driver = await VirtioDriver.start({
    platform,
    stream: platform.adoptSocket(mine) as SocketStream,
    inbandNotifications: true,
    gpaAddresses: true,
    sharedObjects,
    hostNotifiers: {
      offered: ({ ring, size }: HostNotifier) => log.push(`notifier of ring ${ring}, ${size}`),
      withdrawn: ({ ring }: HostNotifier) => log.push(`no notifier of ring ${ring}`),
    },
    shmem: {
      mapped: ({ id, offset, length }: ShmemMapping) => log.push(`mapped ${length} at ${offset} of ${id}`),
      unmapped: ({ id, offset }: ShmemMapping) => log.push(`unmapped ${offset} of ${id}`),
    },
  });
  return { platform, device, backend, driver, log };
}

async function code(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as { code: string }).code;
  }
  return 'resolved';
}

async function end(...worlds: World[]): Promise<void> {
  for (const { driver, backend } of worlds) {
    driver.close();
    await backend.finished;
  }
}

for (const [where, create] of [
  ['in memory', createFakePlatform],
  ['on Linux', createLinuxPlatform],
] as const) {
  test(`${where}: a device maps a file into shared memory, where its driver reads and writes it`, async () => {
    const platform = create();
    const world = await start(platform, new SharedObjectRegistry());
    const { device, driver, log } = world;
    const { frontend } = device;
    const fd = platform.createSharedMemory('file', 4n * PAGE);
    const own = platform.map(fd, 0n, 4n * PAGE);
    const bytes = platform.windows.u8[own.firstWindow]!;
    bytes[Number(PAGE)] = 42;

    const range = { id: 2, offset: 8n * PAGE, length: 2n * PAGE };
    await frontend!.mapSharedMemory(range, { fd, offset: PAGE, writable: true });
    platform.closeFd(fd);
    const { shmem } = driver.frontend.loans;
    const [mapping] = shmem!.mappings;
    const theirs = platform.map(mapping!.fd, mapping!.fdOffset, mapping!.length);
    const seen = platform.windows.u8[theirs.firstWindow]!;
    assert.is(seen[0], 42);
    seen[1] = 7;
    assert.is(bytes[Number(PAGE) + 1], 7);
    theirs.unmap();

    const again = frontend!.mapSharedMemory(range, { fd: mapping!.fd, offset: 0n, writable: false });
    assert.is(await code(again), 'ERR_VHOST_REFUSED', 'something is there');
    assert.is(await code(frontend!.unmapSharedMemory({ ...range, length: PAGE })), 'ERR_VHOST_REFUSED');
    await frontend!.unmapSharedMemory(range);
    assert.equal(log, ['mapped 8192 at 32768 of 2', 'unmapped 32768 of 2']);
    own.unmap();
    await end(world);
  });

  test(`${where}: devices share objects with one another, and a reset drops what one has mapped`, async () => {
    const platform = create();
    const registry = new SharedObjectRegistry();
    const one = await start(platform, registry);
    const two = await start(platform, registry);
    const uuid = new Uint8Array(16).fill(5);
    const fd = platform.createSharedMemory('object', PAGE);
    one.device.objects.set(String(uuid), fd);

    assert.is(await two.device.frontend!.lookUpSharedObject(uuid), null);
    await one.device.frontend!.addSharedObject(uuid);
    assert.is(await code(two.device.frontend!.addSharedObject(uuid)), 'ERR_VHOST_REFUSED');
    assert.is(await code(two.device.frontend!.removeSharedObject(uuid)), 'ERR_VHOST_REFUSED');
    for (const { device } of [one, two]) {
      const found = await device.frontend!.lookUpSharedObject(uuid);
      assert.is(platform.fileIdentity(found!), platform.fileIdentity(fd));
      platform.closeFd(found!);
    }
    await two.device.frontend!.mapSharedMemory(
      { id: 2, offset: 0n, length: PAGE },
      { fd, offset: 0n, writable: true },
    );
    await two.driver.frontend.resetDevice();
    assert.equal(two.log, ['mapped 4096 at 0 of 2', 'unmapped 0 of 2']);
    await one.device.frontend!.removeSharedObject(uuid);
    assert.equal(registry.uuids, []);
    platform.closeFd(fd);
    await end(one, two);
  });

  test(`${where}: who waits for a queue while its driver is closed is told so`, async () => {
    const world = await start(create(), new SharedObjectRegistry());
    const [queue] = world.driver.queues;
    const waiting = code(queue!.called());
    world.driver.close();
    assert.is(await waiting, 'ERR_VHOST_DISCONNECTED');
    await end(world);
  });

  test(`${where}: a host notifier comes, goes with its ring, and is withdrawn`, async () => {
    const platform = create();
    const world = await start(platform, new SharedObjectRegistry());
    const { device, driver, log } = world;
    const fd = platform.createSharedMemory('doorbell', PAGE);
    const area = { fd, offset: 0n, size: PAGE };
    await device.frontend!.offerHostNotifier(0, area);
    await driver.stopRings();
    assert.is(await code(device.frontend!.offerHostNotifier(0, area)), 'ERR_VHOST_STATE', 'suspended');
    await driver.resumeRings();
    await device.frontend!.offerHostNotifier(0, area);
    await device.frontend!.withdrawHostNotifier(0);
    platform.closeFd(fd);
    assert.equal(log, [
      'notifier of ring 0, 4096',
      'no notifier of ring 0',
      'notifier of ring 0, 4096',
      'no notifier of ring 0',
    ]);
    await end(world);
  });

  test(`${where}: ten thousand look-ups and mappings leave nothing behind`, async () => {
    const platform = create();
    const world = await start(platform, new SharedObjectRegistry());
    const { frontend, objects } = world.device;
    const uuid = new Uint8Array(16).fill(5);
    const fd = platform.createSharedMemory('object', PAGE);
    objects.set(String(uuid), fd);
    await frontend!.addSharedObject(uuid);
    const range = { id: 2, offset: 0n, length: PAGE };
    for (let i = 0; i < 2500; i++) {
      const [found] = await Promise.all([
        frontend!.lookUpSharedObject(uuid),
        frontend!.mapSharedMemory(range, { fd, offset: 0n, writable: true }),
        frontend!.unmapSharedMemory(range),
      ]);
      // Numbers of open files are small as long as none leaks.
      if (where === 'on Linux') assert.ok(found! < 200, `fd ${found}`);
      platform.closeFd(found!);
    }
    platform.closeFd(fd);
    await end(world);
  });
}

test('RARP and MTU: what the device cannot have is refused by name', async () => {
  const platform = createFakePlatform();
  const seen: string[] = [];
  const device: VirtioDevice = {
    deviceId: 1,
    features: 0n,
    queueCount: 1,
    serveQueue: () => undefined,
    announce: (mac) => void seen.push(Buffer.from(mac).toString('hex')),
    setMtu: (mtu) => mtu >= 68 && mtu <= 9000,
  };
  const [mine, theirs] = platform.socketPair();
  const backend = serveDevice(device, { platform, fd: theirs });
  const driver = await VirtioDriver.start({
    platform,
    stream: platform.adoptSocket(mine) as SocketStream,
  });
  const { frontend } = driver;
  await frontend.sendRarp(Uint8Array.of(2, 0, 0, 0, 0, 9));
  assert.equal(seen, ['020000000009']);
  assert.is(await code(frontend.sendRarp(new Uint8Array(6))), 'ERR_VHOST_REFUSED');
  await frontend.setMtu(1500);
  for (const mtu of [0, 67, 9001, 65536]) {
    assert.is(await code(frontend.setMtu(mtu)), 'ERR_VHOST_REFUSED', `${mtu}`);
  }
  await frontend.setMtu(9000);
  driver.close();
  await backend.finished;
});

test.run();
