import * as assert from 'uvu/assert';
import { EchoPort } from '../../../runtime/backings/ports/echo.js';
import { PlatformPacketMemory } from '../../../runtime/backings/ports/packet-memory.js';
import { NullBacking } from '../../../runtime/backings/null.js';
import { RamBacking } from '../../../runtime/backings/ram.js';
import {
  ChainBatch,
  type DeviceConfiguration,
  type DeviceQueue,
  type VirtioDevice,
} from '../../../runtime/device/index.js';
import { BlockDevice } from '../../../runtime/devices/blk/index.js';
import { EntropyDevice } from '../../../runtime/devices/entropy/index.js';
import { NetDevice } from '../../../runtime/devices/net/index.js';
import type { SharedMemoryDeclaration } from '../../../runtime/device/virtio-device.js';
import type { Platform } from '../../../runtime/platform/platform.js';
import type { Random } from '../../support/random.js';
import { OrderedFailure } from './own-errors.js';

/** A device that is served, and how to be rid of it. */
export interface FuzzedDevice {
  readonly name: string;
  readonly device: VirtioDevice;
  /** Completes what it still holds, some of it or all. */
  finish(): void;
  close(): Promise<void> | void;
}

/** Looks at every segment that it is given, keeps chains for a while, and fails now and then. */
class CheckingDevice implements VirtioDevice {
  readonly deviceId = 4;
  readonly features = 0n;
  readonly queueCount = 4;
  readonly maxQueueSize = 256;
  readonly config: DeviceConfiguration = {
    size: 20,
    read: () => new Uint8Array(20),
    write: (offset, bytes) => offset >= 4 && offset + bytes.byteLength <= 20,
  };
  /** Objects and memory to share; absent in half of the devices. */
  readonly sharedMemory?: readonly SharedMemoryDeclaration[];
  readonly hostNotifiers?: boolean;
  readonly sharedObject?: (uuid: Uint8Array) => number | null;
  readonly #random: Random;
  readonly #batch = new ChainBatch(16, 1024);
  readonly #held: { queue: DeviceQueue; handle: number; writable: number }[] = [];
  /** Handles that each queue has given and not had back. */
  readonly #out = new WeakMap<DeviceQueue, Set<number>>();

  constructor(random: Random) {
    this.#random = random;
    if (random.chance(2)) return;
    this.hostNotifiers = true;
    this.sharedMemory = [{ id: 1, size: 0x1000n }];
    this.sharedObject = () => null;
  }

  serveQueue(queue: DeviceQueue): void {
    if (this.#random.chance(200)) throw new OrderedFailure('the device fails');
    for (;;) {
      const count = queue.drain(this.#batch, 1 + this.#random.below(16));
      if (count === 0) break;
      for (let row = 0; row < count; row++) this.#take(queue, row);
    }
    if (this.#random.chance(300)) queue.fail(new OrderedFailure('the device gives a queue up'));
  }

  /** Completes some of what is held. */
  finish(all: boolean): void {
    for (const { queue, handle, writable } of this.#held.splice(0)) {
      if (!all && this.#random.chance(3)) this.#held.push({ queue, handle, writable });
      else this.#complete(queue, handle, writable);
      queue.commit();
    }
  }

  #take(queue: DeviceQueue, row: number): void {
    const { chains, segments } = this.#batch;
    const [handle, first, readable, writable] = chains.subarray(row * 4, row * 4 + 4);
    let out = this.#out.get(queue);
    if (out === undefined) this.#out.set(queue, (out = new Set()));
    assert.ok(handle! >= 0 && handle! < queue.size && !out.has(handle!), `handle ${handle} was given twice`);
    out.add(handle!);
    let room = 0;
    for (let i = first!; i < first! + readable! + writable!; i++) {
      const [window, offset, length] = segments.subarray(i * 4, i * 4 + 3);
      const bytes = queue.u8[window!];
      // A mapping that lost its file is empty.
      const end = bytes?.byteLength ?? -1;
      assert.ok(offset! >= 0 && length! > 0, `segment at ${offset}, ${length} bytes`);
      assert.ok(offset! + length! <= end, `a segment ends at ${offset! + length!}, its window at ${end}`);
      if (i < first! + readable!) continue;
      room += length!;
      bytes!.fill(0xa5, offset, offset! + Math.min(length!, 64));
    }
    if (this.#random.chance(4)) this.#held.push({ queue, handle: handle!, writable: room });
    else this.#complete(queue, handle!, room);
  }

  #complete(queue: DeviceQueue, handle: number, writable: number): void {
    this.#out.get(queue)!.delete(handle);
    queue.complete(handle, this.#random.below(Math.min(writable, 0x1000) + 1));
  }
}

/** Draws a device. */
export function drawDevice(random: Random, platform: Platform): FuzzedDevice {
  switch (random.below(8)) {
    case 0: {
      const size = BigInt(random.pick([512, 4096, 0x4000]));
      const backing = new RamBacking(platform, size, { readOnly: random.chance(5) });
      const device = new BlockDevice(backing, { queueCount: 4, queueSize: 256 });
      return { name: 'block', device, finish: () => undefined, close: () => backing.close() };
    }
    case 1: {
      const device = new BlockDevice(new NullBacking(0x1_0000n), { queueCount: 4, queueSize: 256 });
      return { name: 'block', device, finish: () => undefined, close: () => undefined };
    }
    case 2: {
      const device = new NetDevice(new EchoPort(new PlatformPacketMemory(platform)), {
        queuePairs: 2,
        queueSize: 256,
      });
      return { name: 'net', device, finish: () => undefined, close: () => undefined };
    }
    case 3:
      return {
        name: 'entropy',
        device: new EntropyDevice(),
        finish: () => undefined,
        close: () => undefined,
      };
    default: {
      const device = new CheckingDevice(random);
      const finish = () => device.finish(false);
      return { name: 'checking', device, finish, close: () => device.finish(true) };
    }
  }
}
