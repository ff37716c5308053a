/** QEMU maps what a device offers: a guest that notifies without a way through QEMU or a kick. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { setTimeout as delay } from 'node:timers/promises';
import type { DeviceHost, DeviceQueue } from '../../runtime/device/index.js';
import { EntropyDevice } from '../../runtime/devices/entropy/index.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { serveDevice } from '../../runtime/vhost-user/backend/server.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import { Guest } from '../support/guest/guest.js';
import { eventually, TemporaryFolder } from '../support/guest/processes.js';

const PAGE = 4096;
/** A guest writes the index of the queue, which is 0. */
const SILENT = 0xffff_ffff;

/** An entropy device with a doorbell: a page of memory that it looks at. */
class DoorbellDevice extends EntropyDevice {
  readonly hostNotifiers = true;
  readonly fd: number;
  readonly #bell: Uint32Array;
  readonly #timer: NodeJS.Timeout;
  #host: DeviceHost | null = null;
  queue: DeviceQueue | null = null;
  rings = 0;
  readonly answers: string[] = [];

  constructor(platform: ReturnType<typeof createLinuxPlatform>) {
    super();
    this.fd = platform.createSharedMemory('doorbell', BigInt(PAGE));
    const mapping = platform.map(this.fd, 0n, BigInt(PAGE));
    this.#bell = platform.windows.u32[mapping.firstWindow]!;
    this.#bell[0] = SILENT;
    this.#timer = setInterval(() => {
      if (this.#bell[0] === SILENT) return;
      this.#bell[0] = SILENT;
      this.rings++;
      this.queue?.resume();
    }, 1);
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  startQueue(queue: DeviceQueue): void {
    this.queue = queue;
    this.#host!.frontend.offerHostNotifier(0, { fd: this.fd, offset: 0n, size: BigInt(PAGE) })
      .then(() => this.answers.push('mapped'))
      .catch((error: Error) => this.answers.push(error.message));
  }

  stopQueue(): void {
    this.queue = null;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

test('a guest rings the doorbell of its queue instead of kicking', async () => {
  using folder = new TemporaryFolder();
  const socketPath = folder.file('rng');
  const platform = createLinuxPlatform();
  const device = new DoorbellDevice(platform);
  // QEMU accepts in-band notifications without using them: its eventfds come first.
  const withProtocolFeatures = ProtocolFeature.inbandNotifications;
  const log: string[] = [];
  const backend = serveDevice(device, {
    platform,
    socketPath,
    withProtocolFeatures,
    spinMicroseconds: 0,
    log: (level, message) => log.push(`${level} ${message}`),
  });
  try {
    await using guest = await Guest.boot({
      devices: [
        ...['-chardev', `socket,id=c0,path=${socketPath}`],
        ...['-device', 'vhost-user-rng-pci,chardev=c0,page-per-vq=on'],
      ],
    });
    // The guest does not wait for QEMU's answer to the device.
    await eventually(
      () => device.answers.length > 0,
      () => `no answer to the offer\n${log.join('\n')}`,
    );
    assert.equal(device.answers, ['mapped'], log.join('\n'));
    const { acceptedProtocol } = backend.session!.features;
    assert.ok(
      (acceptedProtocol & ProtocolFeature.inbandNotifications) !== 0n,
      'QEMU accepts what it does not know',
    );
    const read = 'dd if=/dev/hwrng bs=4k count=16 iflag=fullblock 2> /dev/null | wc -c';
    // A kick of the driver's first requests may have crossed with the mapping.
    assert.is(await guest.read(read), '65536');
    const { kicks } = device.queue!.counters;
    const rings = device.rings;
    assert.is(await guest.read(read), '65536');
    // QEMU's processor may still know the way it had before: a stray one, beside hundreds of rings.
    const strayed = device.queue!.counters.kicks - kicks;
    assert.ok(strayed <= 2, `${strayed} kicks by eventfd`);
    assert.ok(device.rings > rings + 100, `the doorbell rang ${device.rings - rings} times`);
    await guest.powerOff();
    await delay(10);
  } finally {
    backend.close();
    await backend.finished;
    // What rings on keeps the process.
    device.close();
    platform.closeFd(device.fd);
  }
});

test.run();
