import { VhostError, VirtqueueError } from '../errors.js';
import type { QueueHost } from '../device/queue-host.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { AddressRange, Removed } from '../memory/iotlb.js';
import type { DeviceVirtqueue, VirtqueueAreas, VirtqueueState } from '../virtqueue/device-virtqueue.js';
import { initialVirtqueueState } from '../virtqueue/start.js';
import type { VringAddress } from '../../generated/vhost-user/payloads.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import type { OwnedFd } from './fd-bundle.js';
import { type TranslatedRing, whenDone } from './iommu.js';
import { asVirtqueueError, LiveRing } from './live-ring.js';
import { areasOf, checkAlignment, liesIn, unmapped } from './ring-areas.js';
import { decodeBase, encodeBase } from './vring-base.js';
import type { VringContext } from './vring-context.js';
import { startVringVirtqueue } from './vring-virtqueue.js';
import { VringKick } from './vring-kick.js';
import { VringSignals } from './vring-signals.js';

/** Largest queue of a device that states none. */
const DEFAULT_MAX_SIZE = 1024;

/**
 * One ring as the conversation sees it. It exists from its first mention, since front-ends name rings before they
 * negotiate anything (QEMU sends SET_VRING_CALL right after GET_FEATURES). Two independent bits rule it:
 *
 *       SET_VRING_KICK, VRING_KICK      SET_VRING_ENABLE 1, or SET_FEATURES without bit 30
 *   stopped ─────────────────▶ started       disabled ──────────────▶ enabled
 *           ◀───────────────── drained                ◀────────────── 0
 *             GET_VRING_BASE, reset; what describes a disabled ring anew
 *
 * A started ring is live, i.e. has a virtqueue and a QueueHost, once its size, its addresses and the memory they lie in
 * are there, in whatever order they come. A live ring whose memory is taken away stays closed until it is there again.
 * The device is given the ring when it is live and enabled. A disabled ring leaves its chains alone, unless its device has
 * them discarded.
 */
export class Vring implements TranslatedRing {
  readonly index: number;
  readonly #context: VringContext;
  #size = 0;
  #addresses: VringAddress | null = null;
  /** Wire form; null when nobody said where the ring stands. */
  #base: number | null = null;
  /** Where a reset found the ring, for a GET_VRING_BASE that comes late. */
  #baseBeforeReset: number | null = null;
  #started = false;
  #enabled: boolean;
  readonly #kick: VringKick;
  readonly #signals: VringSignals;
  #live: LiveRing | null = null;
  /** Why the ring was not started although it was asked to. */
  #refused: VirtqueueError | null = null;

  constructor(index: number, context: VringContext, enabled: boolean) {
    this.index = index;
    this.#context = context;
    this.#kick = new VringKick(context.platform, () => this.host?.kick());
    this.#signals = new VringSignals(index, context);
    this.#enabled = enabled;
  }

  get started(): boolean {
    return this.#started;
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** The ring's queue while it is live. */
  get host(): QueueHost | null {
    return this.#live?.host ?? null;
  }

  get broken(): VirtqueueError | null {
    return this.host?.broken ?? this.#refused;
  }

  /** SET_VRING_NUM. */
  setSize(size: number): void {
    this.#mustNotRun('its size');
    const { device, maxSize } = this.#context;
    const limit = Math.min(device.maxQueueSize ?? DEFAULT_MAX_SIZE, maxSize);
    if (size < 1 || size > limit) throw this.#payload(`a size from 1 to ${limit}`, String(size));
    this.#size = size;
    this.#goLive(false);
  }

  /**
   * SET_VRING_ADDR. While the ring runs this moves it: QEMU sends the same addresses again with another log flag when a
   * migration starts or ends. Addresses that are not aligned are refused whatever the ring does, and those before stay.
   */
  setAddresses(addresses: VringAddress): void {
    checkAlignment(addresses, this.#format());
    const before = this.#addresses;
    this.#addresses = addresses;
    if (this.#live === null) {
      this.#goLive(false);
      return;
    }
    // Only how it is logged: chains that are in flight are to be logged like this as well.
    if (this.#live.relog(addresses)) return;
    const memory = this.#context.memory.current;
    if (memory !== null && !this.#context.iommu.active && this.#areas(memory) === null) {
      this.#addresses = before;
      throw unmapped(addresses, this.#size);
    }
    this.memoryChanged();
  }

  /** SET_VRING_BASE. */
  setBase(base: number): void {
    this.#mustNotRun('its base');
    // Before SET_FEATURES the format is not known; it is decoded again when the ring starts.
    if (this.#context.features.accepted !== 0n) decodeBase(this.#format(), base);
    this.#base = base;
    this.#baseBeforeReset = null;
  }

  /**
   * SET_VRING_KICK: starts the ring. Without an fd the ring is looked at again and again, also where kicks come in-band: there
   * the message is not needed at all, "it may however still be used ... to enable polling" (vhost-user, SET_VRING_KICK).
   */
  setKick(kick: OwnedFd | null): void {
    this.#start(kick, kick === null);
  }

  /** VRING_KICK: starts the ring if that was not done before, and kicks it. */
  kickInband(): void {
    if (!this.#started) this.#start(null, false);
    else this.host?.kick();
  }

  #start(kick: OwnedFd | null, polled: boolean): void {
    this.#kick.replace(kick, polled);
    const wasStarted = this.#started;
    this.#started = true;
    this.#refused = null;
    try {
      this.#goLive(true);
    } catch (error) {
      if (!wasStarted) this.#started = false;
      this.#kick.close();
      throw error;
    }
    // A replaced fd may have carried a kick that nobody will read.
    const { host } = this;
    if (wasStarted && host !== null) {
      this.#watchKick(host);
      host.resume();
    }
  }

  /** SET_VRING_CALL. The new fd is signalled once: what was completed before it came must not wait for the next call. */
  setCall(call: OwnedFd | null): void {
    this.#signals.replace('call', call);
    if (call !== null) this.#signals.signal('call');
  }

  /** SET_VRING_ERR. */
  setErr(err: OwnedFd | null): void {
    this.#signals.replace('err', err);
  }

  setEnabled(enabled: boolean): void {
    this.#enabled = enabled;
    if (enabled) this.host?.enable();
    else this.host?.disable();
  }

  /** Resolves when the disabled ring has no chain in flight. */
  async idle(): Promise<void> {
    const { host } = this;
    if (host !== null) await new Promise<void>((resolve) => host.whenIdle(resolve));
  }

  /** A driver makes the ring anew without anybody having stopped it: whatever it was before is over. */
  async abandon(): Promise<void> {
    await this.stop();
    this.#base = this.#baseBeforeReset = null;
  }

  /** Stops the ring once every chain in flight is completed, and gives its position in wire form. */
  async stop(): Promise<number> {
    return this.#stop(({ host }) => host.stop());
  }

  /**
   * GET_VRING_BASE_SKIP_DRAIN: stops the ring with chains in flight, which stay in the in-flight region for whoever starts it
   * next. The reply promises that nothing is written any more, to guest memory or to a disk: the next holder does the chains
   * again and goes on, and a write that ends later would undo what came after. A device says so for chains that it can let
   * go of; for one that cannot, e.g. since the kernel has its writes, and for a ring without a region, this is `stop`.
   */
  async park(): Promise<number> {
    return this.#stop(({ host, lets }) => (host.tracked && lets ? host.park() : host.stop()));
  }

  async #stop(end: (live: LiveRing) => VirtqueueState | Promise<VirtqueueState>): Promise<number> {
    this.#started = false;
    this.#refused = null;
    this.#kick.close();
    const live = this.#live;
    if (live !== null) {
      const state = await end(live);
      if (this.#live === live) {
        this.#base = encodeBase(state);
        this.#live = null;
        live.leave();
      }
    }
    this.#context.iommu.forget(this);
    return this.#base ?? this.#baseBeforeReset ?? encodeBase(initialVirtqueueState(this.#format()));
  }

  /**
   * Stops the ring as `stop` does; it starts afresh. Call and err fds stay. Where it stood can still be asked for: QEMU 7
   * sets the status to 0 whenever it stops a device, and only then asks for the bases, with which it goes on later. So chains
   * that nobody has completed stay in the in-flight region as well; a driver that starts over makes its ring anew, which tells.
   */
  async reset(): Promise<void> {
    this.#baseBeforeReset = await this.stop();
    this.#base = null;
    this.#enabled = false;
  }

  /** The memory table changed, or the ring's place in it. */
  memoryChanged(): void {
    if (this.#live !== null) {
      this.#rebind(this.#live);
      return;
    }
    try {
      this.#goLive(false);
    } catch (error) {
      this.#faulty(asVirtqueueError(this.index, error));
    }
  }

  // --- behind an IOMMU

  translated(): void {
    if (this.#live?.bound === true) this.#live.host.translated();
    else this.memoryChanged();
  }

  untranslatable(error: VirtqueueError): void {
    if (this.#live === null) this.#faulty(error);
    else this.#live.host.break(error);
  }

  liesIn(range: AddressRange): boolean {
    if (this.#live === null || this.#addresses === null) return false;
    return liesIn(this.#addresses, this.#format(), this.#size, range);
  }

  withdraw({ ranges, places }: Removed): Promise<unknown> | null {
    const live = this.#live;
    if (live === null) return null;
    const { host } = live;
    if (!live.bound || !ranges.some((range) => this.liesIn(range))) {
      return whenDone((done) => host.whenUnused(places, done));
    }
    // The last completion runs this at once, before anybody is told of it.
    this.#rebind(live);
    return whenDone((done) => host.whenUnused(null, done));
  }

  /** LOG_ALL came or went. Resolves when whatever is written from then on is logged, or nothing is. */
  loggingChanged(): Promise<void> {
    return this.#live?.loggingChanged() ?? Promise.resolve();
  }

  /** The connection ends: closes everything at once. Memory is held on until no chain in flight lies in it. */
  close(): void {
    this.#started = false;
    this.#kick.close();
    this.#signals.close();
    const live = this.#live;
    this.#live = null;
    live?.leave();
    this.#context.iommu.forget(this);
  }

  // --- inside

  /** Makes a started ring live if everything is there. `demand`: its addresses must lie in memory if there is any. */
  #goLive(demand: boolean): void {
    const { device, leftovers } = this.#context;
    const memory = this.#context.memory.current;
    const addresses = this.#addresses;
    if (!this.#started || this.#live !== null) return;
    if (this.#size === 0 || addresses === null || memory === null) return;
    const { iommu } = this.#context;
    const areas = iommu.active ? this.#translatedAreas(memory) : this.#areas(memory);
    if (areas === null) {
      if (demand && !iommu.active) throw unmapped(addresses, this.#size);
      return;
    }
    let virtqueue: DeviceVirtqueue;
    try {
      const { index } = this;
      const base = this.#base;
      virtqueue = startVringVirtqueue(this.#context, {
        index,
        size: this.#size,
        memory,
        areas,
        base,
        ...(iommu.active ? { translation: iommu.translation(this) } : {}),
      });
    } catch (error) {
      this.#refuse(error);
      return;
    }
    const live = new LiveRing(this.#context, {
      virtqueue,
      memory,
      areas,
      addresses,
      call: () => this.#signals.signal('call'),
      onBroken: (error) => {
        this.#signals.signal('err');
        this.#context.onBroken(this, error);
      },
    });
    this.#live = live;
    const { host } = live;
    live.setLog();
    this.#baseBeforeReset = null;
    try {
      this.#watchKick(host);
    } catch (error) {
      this.#live = null;
      live.leave();
      throw error;
    }
    if (virtqueue.parked > 0) leftovers.resuming(device, (cause) => host.fail(cause));
    if (leftovers.any) {
      host.hold(true);
      leftovers.whenNone(() => host.hold(false));
    }
    if (this.#enabled) host.enable();
  }

  /** The in-flight region contradicts itself: nobody can say which chains are done, so the ring must not run. */
  #refuse(error: unknown): void {
    if (!(error instanceof VirtqueueError) || error.code !== 'ERR_VIRTQ_INFLIGHT') throw error;
    this.#kick.close();
    this.#faulty(error);
  }

  /** Has the live ring moved to where it lies now, once it is quiet. */
  #rebind(live: LiveRing): void {
    live.host.whenQuiet(() => live.rebind(this.#addresses!, (memory) => this.#areas(memory)));
  }

  #format(): 'split' | 'packed' {
    return this.#context.features.has(VirtioFeature.ringPacked) ? 'packed' : 'split';
  }

  /** Where the ring's areas are; null when one does not lie in one region, or translations are missing that were asked for. */
  #areas(memory: GuestMemory): VirtqueueAreas | null {
    const { iommu } = this.#context;
    return areasOf(this.#addresses!, this.#format(), this.#size, (address, length, access) =>
      iommu.active ? iommu.place(this, address, length, access) : memory.translateUser(address, length),
    );
  }

  /** The same for a ring that starts: what the driver may not use as a ring is its own fault, not the front-end's. */
  #translatedAreas(memory: GuestMemory): VirtqueueAreas | null {
    try {
      return this.#areas(memory);
    } catch (error) {
      this.#faulty(asVirtqueueError(this.index, error));
      return null;
    }
  }

  /** Nobody asked for this ring now, or what is wrong with it is not the request's fault: the ring is not served. */
  #faulty(error: VirtqueueError): void {
    this.#started = false;
    this.#refused = error;
    this.#signals.signal('err');
    this.#context.onBroken(this, error);
  }

  #watchKick(host: QueueHost): void {
    host.polled = this.#kick.polled;
    this.#kick.watch();
  }

  #mustNotRun(what: string): void {
    if (this.#live === null) return;
    throw new VhostError('ERR_VHOST_STATE', `ring ${this.index} runs: ${what} cannot change`);
  }

  #payload(expected: string, got: string): VhostError {
    return new VhostError('ERR_VHOST_PAYLOAD', `ring ${this.index}: expected ${expected}, got ${got}`);
  }
}
