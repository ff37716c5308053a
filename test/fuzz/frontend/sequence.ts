import { FrontendIommu } from '../../../runtime/vhost-user/frontend/iommu.js';
import { SharedObjectRegistry } from '../../../runtime/vhost-user/frontend/shared-objects.js';
import * as assert from 'uvu/assert';
import { VhostUserError } from '../../../runtime/errors.js';
import { createFakePlatform, type FakePlatform } from '../../../runtime/platform/fake.js';
import type { SocketStream } from '../../../runtime/platform/platform.js';
import { VirtioDriver } from '../../../runtime/drivers/virtio-driver.js';
import {
  type FrontendRequestName,
  frontendRequests,
} from '../../../generated/vhost-user/frontend-requests.js';
import { until, turn } from '../../support/raw-frontend.js';
import { randomRecord } from '../../support/model-values.js';
import type { Random } from '../../support/random.js';
import { count } from '../kind.js';
import { checkOwnError } from '../messages/own-errors.js';
import { payloadFields } from '../messages/fields.js';
import { BadBackend } from './bad-backend.js';

const { lookup, structs } = payloadFields('vhost-user/frontend-requests');
const names = Object.keys(frontendRequests) as FrontendRequestName[];
const PATH = '/fuzz.sock';

/** A driver, and the back-ends that it has to do with. */
export class FrontendSequence {
  readonly #random: Random;
  readonly #platform: FakePlatform;
  readonly #reached: Record<string, number>;
  readonly #listens: boolean;
  #backend: BadBackend | null = null;
  #sent = 0;
  /** No back-end comes any more. */
  #over = false;
  #connections = 0;
  /** Calls whose promises have not settled yet. */
  #open = 0;

  private constructor(random: Random, reached: Record<string, number>) {
    this.#random = random;
    this.#reached = reached;
    this.#listens = random.chance(4);
    this.#platform = createFakePlatform({ receiveLimit: random.chance(8) ? 1 + random.below(20) : Infinity });
  }

  /** Resolves with how many messages the back-ends sent. */
  static async play(random: Random, reached: Record<string, number>): Promise<number> {
    const sequence = new FrontendSequence(random, reached);
    await sequence.#run();
    return sequence.#sent;
  }

  async #run(): Promise<void> {
    const random = this.#random;
    let driver: VirtioDriver | null = null;
    const started = this.#start();
    this.#watch('start', started);
    started.then(
      (each) => (driver = each),
      () => undefined,
    );
    for (let step = 0; step < 40 + random.below(80); step++) {
      await this.#turn();
      if (driver !== null) this.#use(driver);
      if (this.#backend?.closed === true && !this.#reconnect()) break;
    }
    this.#over = true;
    this.#leave();
    // A driver that still starts is told by the end of its back-end; one that waits for another one is closed here.
    for (let i = 0; driver === null && this.#open > 0 && i < 200; i++) await turn();
    (driver as VirtioDriver | null)?.close();
    await until(() => this.#open === 0, 'every call settles');
    (driver as VirtioDriver | null)?.close();
    await turn();
    await turn();
    assert.equal(this.#platform.openFds, [], 'open fds');
    assert.is(this.#platform.mappingCount, 0, 'mappings');
  }

  #start(): Promise<VirtioDriver> {
    const random = this.#random;
    const options = {
      platform: this.#platform,
      format: random.pick(['split', 'any'] as const),
      queues: 1 + random.below(3),
      queueSize: random.pick([2, 8, 16]),
      inOrder: random.chance(3),
      eventIdx: random.chance(2),
      order: random.pick(['virtio-user', 'qemu'] as const),
      memory: { size: 1 << 16, regions: random.pick([1, 1, 2, 4]) },
      withoutCall: random.chance(6),
      memoryTable: random.chance(3),
      inbandNotifications: random.chance(5),
      gpaAddresses: random.chance(4),
      ...(random.chance(4) ? { iommu: new FrontendIommu() } : {}),
      ...(random.chance(2) ? { shmem: {} } : {}),
      ...(random.chance(2) ? { hostNotifiers: {} } : {}),
      ...(random.chance(2) ? { sharedObjects: new SharedObjectRegistry() } : {}),
    };
    this.#connections = 1;
    if (this.#listens) {
      const driver = VirtioDriver.start({ ...options, path: PATH, listen: true });
      this.#connect();
      return driver;
    }
    const [mine, theirs] = this.#platform.socketPair();
    this.#backend = this.#serve(this.#platform.adoptSocket(mine) as SocketStream);
    return VirtioDriver.start({ ...options, stream: this.#platform.adoptSocket(theirs) as SocketStream });
  }

  #serve(stream: SocketStream): BadBackend {
    return new BadBackend(this.#platform, stream, this.#random);
  }

  /** Another back-end takes the place of one that is gone. False when none does. */
  #reconnect(): boolean {
    if (!this.#listens || this.#connections >= 3) return false;
    this.#connections++;
    this.#connect();
    return true;
  }

  #connect(): void {
    this.#leave();
    this.#backend = null;
    this.#platform.connect(PATH).then(
      (stream) => {
        if (this.#over) stream.close();
        else this.#backend = this.#serve(stream);
      },
      // The front-end has given up.
      () => undefined,
    );
  }

  #leave(): void {
    this.#backend?.close();
    this.#sent += this.#backend?.sent ?? 0;
    if (this.#backend !== null) this.#backend.sent = 0;
  }

  async #turn(): Promise<void> {
    this.#backend?.step();
    await turn();
  }

  /** Something that a driver does. */
  #use(driver: VirtioDriver): void {
    const random = this.#random;
    if (this.#open > 30 || random.chance(3)) return;
    const queue = random.pick(driver.queues);
    switch (random.below(12)) {
      case 0:
        return this.#watch('readConfig', driver.frontend.readConfig(1 + random.below(60), random.below(4)));
      case 1:
        return this.#watch('writeConfig', driver.frontend.writeConfig(random.below(8), random.bytes(2)));
      case 2:
        return this.#watch('addMemory', driver.addMemory(4096));
      case 3:
        return this.#watch(
          'stop',
          driver.stopRings().then(() => driver.resumeRings()),
        );
      case 4:
        return this.#watch('enable', driver.frontend.enableVring(queue!.index, random.chance(2)));
      case 5:
        if (random.chance(4)) this.#watch('reset', driver.frontend.resetDevice());
        return undefined;
      case 6: {
        const name = random.pick(names);
        return this.#watch('request', driver.frontend.request(name, this.#payload(name) as never));
      }
      case 7:
        return this.#scribble(driver, queue!.index);
      default:
        return this.#watch('transfer', queue!.transfer([random.bytes(8)], [1 + random.below(64)]));
    }
  }

  #payload(name: FrontendRequestName): unknown {
    const row = frontendRequests[name];
    if (row.payload === null) return undefined;
    const struct = structs.get(name);
    return struct === undefined
      ? BigInt(this.#random.below(3))
      : randomRecord(lookup, struct, {}, this.#random);
  }

  /** The back-end writes into what the device owns of a ring. */
  #scribble(driver: VirtioDriver, index: number): void {
    const random = this.#random;
    const areas = driver.frontend.vring(index)?.setup?.areas;
    if (areas === undefined) return;
    const { window, offset } = random.pick(
      driver.format === 'packed' ? [areas.device, areas.descriptor] : [areas.device],
    );
    const memory = this.#platform.windows.u8[window]!;
    for (let n = 1 + random.below(3); n > 0; n--)
      memory[offset + random.below(20)] = random.below(random.pick([4, 256]));
    driver.queues[index]?.notify();
  }

  /** What rejects does so with one of our errors; what never settles is found at the end. */
  #watch(what: string, promise: Promise<unknown>): void {
    this.#open++;
    promise.then(
      () => {
        this.#open--;
        count(this.#reached, `${what}: done`);
      },
      (error: unknown) => {
        this.#open--;
        checkOwnError(error);
        assert.instance(error, VhostUserError);
        count(this.#reached, `${what}: ${(error as VhostUserError).code}`);
      },
    );
  }
}
