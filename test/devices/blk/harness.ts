import { NO_FRONTEND_SERVICES } from '../../../runtime/device/frontend-services.js';
import { BlockDevice, type BlockDeviceOptions } from '../../../runtime/devices/blk/index.js';
import { createFakePlatform, type FakeImage, type FakeImageOptions } from '../../../runtime/platform/fake.js';
import { FakeDeviceQueue, type OfferedChain } from '../../support/fake-device-queue.js';
import { Random } from '../../support/random.js';

export const SECTOR = 512;

/** A disk on an image in memory, with one queue that the test drives. */
export class Disk {
  readonly image: FakeImage;
  readonly device: BlockDevice;
  readonly queue: FakeDeviceQueue;
  readonly logged: string[] = [];
  configurationChanges = 0;
  readonly #platform = createFakePlatform();

  constructor({
    content = new Uint8Array(64 * SECTOR) as Uint8Array,
    image = {} as FakeImageOptions,
    readOnly = false,
    options = {} as BlockDeviceOptions,
  } = {}) {
    this.image = this.#platform.addFile('/image', content, image);
    const file = this.#platform.openFile('/image', { readOnly });
    this.device = new BlockDevice(file, options);
    this.queue = this.addQueue();
    this.device.attach({
      frontend: NO_FRONTEND_SERVICES,
      configurationChanged: () => this.configurationChanges++,
      log: (level, message) => this.logged.push(`${level}: ${message}`),
    });
    this.device.setFeatures(this.device.features);
  }

  addQueue(index = 0): FakeDeviceQueue {
    return new FakeDeviceQueue(this.#platform, { index });
  }

  serve(queue = this.queue): void {
    this.device.serveQueue(queue);
  }

  /** Offers a request in the usual layout: header, data, status. */
  offer(request: Request, queue = this.queue): OfferedChain {
    return layouts.usual!(queue, request);
  }

  /** Offers a request, serves it and waits for its end. */
  async run(request: Request, layout: Layout = layouts.usual!): Promise<Outcome> {
    const chain = layout(this.queue, request);
    this.serve();
    while (chain.written === null) await new Promise(setImmediate);
    return outcomeOf(chain);
  }
}

export interface Request {
  readonly type: number;
  readonly sector?: number | bigint;
  /** What follows the header. */
  readonly data?: Uint8Array;
  /** Bytes of room in front of the status. */
  readonly room?: number;
}

export interface Outcome {
  readonly status: number;
  readonly written: number;
  /** The writable bytes in front of the status. */
  readonly answer: Uint8Array;
}

export function outcomeOf(chain: OfferedChain): Outcome {
  const { answer } = chain;
  return {
    status: answer[answer.byteLength - 1]!,
    written: chain.written!,
    answer: answer.subarray(0, -1),
  };
}

export function header({ type, sector = 0 }: Request): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  // Must be ignored.
  view.setUint32(4, 0xdeadbeef, true);
  view.setBigUint64(8, BigInt(sector), true);
  return bytes;
}

/** Ranges of DISCARD and WRITE_ZEROES. */
export function ranges(...list: [sector: number | bigint, sectors: number, flags?: number][]): Uint8Array {
  const bytes = new Uint8Array(list.length * 16);
  const view = new DataView(bytes.buffer);
  list.forEach(([sector, sectors, flags = 0], i) => {
    view.setBigUint64(i * 16, BigInt(sector), true);
    view.setUint32(i * 16 + 8, sectors, true);
    view.setUint32(i * 16 + 12, flags, true);
  });
  return bytes;
}

/** Different bytes in every sector. */
export function pattern(sectors: number, seed = 1): Uint8Array {
  return new Random(seed).bytes(sectors * SECTOR);
}

/** How a driver lays a request out over descriptors. */
export type Layout = (queue: FakeDeviceQueue, request: Request) => OfferedChain;

const whole = (request: Request): Uint8Array => {
  const data = request.data ?? new Uint8Array(0);
  const bytes = new Uint8Array(16 + data.byteLength);
  bytes.set(header(request));
  bytes.set(data, 16);
  return bytes;
};

const cutAt =
  (size: (total: number) => number[], align = 1): Layout =>
  (queue, request) => {
    const sent = whole(request);
    let at = 0;
    return queue.offer(
      size(sent.byteLength).map((length) => sent.subarray(at, (at += length))),
      size((request.room ?? 0) + 1),
      align,
    );
  };

const pieces =
  (...sizes: number[]) =>
  (total: number): number[] => {
    const list: number[] = [];
    let left = total;
    for (const size of sizes) {
      list.push(Math.min(size, left));
      left -= Math.min(size, left);
    }
    return left > 0 ? [...list, left] : list;
  };

export const layouts: Record<string, Layout> = {
  usual: (queue, request) =>
    queue.offer([header(request), request.data ?? new Uint8Array(0)], [request.room ?? 0, 1], 16),
  'usual at odd addresses': (queue, request) =>
    queue.offer([header(request), request.data ?? new Uint8Array(0)], [request.room ?? 0, 1]),
  'header and data in one descriptor, data and status in one': cutAt((total) => [total], 16),
  'one descriptor each at odd addresses': cutAt((total) => [total]),
  'header cut in two': cutAt(pieces(7, 9)),
  'header cut in its sector': cutAt(pieces(8, 4, 4)),
  'header with a part of the data': cutAt(pieces(20), 4),
  'descriptors of one byte': cutAt((total) => new Array<number>(total).fill(1)),
  'descriptors of 3 bytes': cutAt((total) =>
    Array.from({ length: Math.ceil(total / 3) }, (_, i) => Math.min(3, total - i * 3)),
  ),
};

/** A layout drawn from `random`. */
export function randomLayout(random: Random): Layout {
  return cutAt((total) => random.cut(total), random.pick([1, 4, 16]));
}
