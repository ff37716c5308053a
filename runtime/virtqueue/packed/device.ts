import type { WindowTable } from '../../platform/platform.js';
import type { ChainBatch } from '../chain-batch.js';
import type { VirtqueueAreas, VirtqueueConfiguration, VirtqueueState } from '../device-virtqueue.js';
import { PackedInflight } from '../inflight/packed.js';
import { InflightArea } from '../inflight/region.js';
import * as memoryOrder from '../memory-order.js';
import { RingArea } from '../ring-area.js';
import * as layout from './layout.js';
import type { ChainLog } from '../virtqueue-log.js';
import { PackedNotification } from './notification.js';
import { PackedTaking } from './taking.js';

// Imported bindings cost a load and a check at every use in a hot loop; constants of this module are folded.
const WRITE = layout.WRITE;
const WRITE_WORD = layout.WRITE << 16;
const LAP_WORD = layout.LAP_WORD;
const PLAIN_STORE_RELEASES = memoryOrder.PLAIN_STORE_RELEASES;
/** The flags of what is used while the wrap counter is 1. */
const USED = layout.usedFlags(1);
/** Bytes of a descriptor and of an event suppression area. */
const DESCRIPTOR = 16;
const EVENT_SUPPRESSION = 4;

/**
 * The device's side of a packed virtqueue (virtio 1.4, 2.8).
 *
 *   descriptor ring, i32, stride 4     addr low | addr high | len | id | flags << 16
 *                    u16, stride 8     …                          6 id | 7 flags
 *
 * Two cursors go round the ring, each with a wrap counter that flips at the ring's end. Available chains are taken at
 * the first; used ones are written at the second, one element for the whole chain, which then skips the chain's slots.
 * Chains completed out of order make the second write over slots of other chains, which the driver expects. What is done
 * at the first one is in taking.ts.
 *
 *   slot     0     1     2     3     4     5     6     7        size 8, any size from 1 to 32768
 *            | used                | in flight       | free or available
 *                  last lap's here ^ nextUsed        ^ nextAvailable
 */
export class PackedDeviceVirtqueue extends PackedTaking {
  readonly format = 'packed';
  protected override readonly tracker: PackedInflight | null;
  readonly #eventIdx: boolean;
  #halves!: Uint16Array;
  #notification!: PackedNotification;
  #nextUsed = 0;
  #usedWrap: 0 | 1 = 1;
  /** The used cursor as the driver sees it; the flags of the element there are what `publish` writes. */
  #published = 0;
  #publishedWrap: 0 | 1 = 1;
  #unpublishedSlots = 0;
  #unpublishedFlags = 0;
  /** The used cursor when `needsCall` was last asked, and how many slots were published since. */
  #asked = 0;
  #slotsSinceAsked = 0;

  constructor(
    configuration: VirtqueueConfiguration,
    state: VirtqueueState & { format: 'packed' },
    windows: WindowTable,
  ) {
    super(configuration, windows);
    this.#eventIdx = configuration.eventIdx;
    this.nextAvailable = state.nextAvailable;
    this.availableWrap = state.availableWrap;
    this.#nextUsed = this.#published = this.#asked = state.nextUsed;
    this.#usedWrap = this.#publishedWrap = state.usedWrap;
    this.bind(configuration.memory, configuration.areas);
    this.tracker = this.#openRegion(configuration);
    this.trackedSlot = this.nextAvailable;
  }

  /** Puts the cursors where the region says. A base with chains in flight that the region knows nothing of stays as it is. */
  #openRegion({ inflight }: VirtqueueConfiguration): PackedInflight | null {
    if (inflight === undefined) return null;
    const { size, index } = this;
    const area = new InflightArea(this.windows, inflight, 'packed', size, index);
    const ring = { queue: index, size, descriptors: this.descriptors, halves: this.#halves };
    const base = { used: this.#nextUsed, wrap: this.#usedWrap };
    const tracker = new PackedInflight(area, ring, base);
    const { position, slotsParked } = tracker;
    if (position === base) return tracker;
    this.#nextUsed = this.#published = this.#asked = position.used;
    this.#usedWrap = this.#publishedWrap = position.wrap;
    this.nextAvailable = position.used;
    this.availableWrap = position.wrap;
    this.advance(slotsParked);
    this.slotsInFlight = slotsParked;
    return tracker;
  }

  protected override bindAreas(areas: VirtqueueAreas): readonly RingArea[] {
    const { size, windows, index } = this;
    const descriptor = new RingArea(windows, areas.descriptor, 16 * size, 16, 'descriptor ring', index);
    const driver = new RingArea(windows, areas.driver, 4, 4, 'driver event suppression', index);
    const device = new RingArea(windows, areas.device, 4, 4, 'device event suppression', index);
    this.descriptors = descriptor.i32();
    this.#halves = descriptor.u16();
    this.#notification = new PackedNotification(
      driver.i32(),
      device.i32(),
      device.u16(),
      size,
      this.#eventIdx,
    );
    return [descriptor, driver, device];
  }

  /**
   * Elements behind the first unpublished one get their flags at once: the driver looks at them only after it saw the
   * first one's, which `publish` stores last, also when the batch crosses the ring's end (2.8.21).
   */
  protected override useRows(batch: ChainBatch, rows: number): number {
    const count = rows | 0;
    const size = this.size | 0;
    const book = this.book;
    const descriptors = this.descriptors;
    const chains = batch.chains;
    const written = batch.written;
    let next = this.#nextUsed | 0;
    let lapWord = this.#usedWrap === 1 ? LAP_WORD : 0;
    let unpublished = this.#unpublishedSlots | 0;
    const before = unpublished;
    let row = 0;
    for (; row < count; row = (row + 1) | 0) {
      const id = chains[row << 2]!;
      const bytes = written[row]!;
      if (id >>> 0 >= size) break;
      const taken = book[id << 1]!;
      if (taken === 0 || bytes > book[((id << 1) + 1) | 0]! >>> 0) break;
      book[id << 1] = 0;
      const word = id | (bytes === 0 ? lapWord : lapWord | WRITE_WORD);
      const p = next << 2;
      descriptors[(p + 2) | 0] = bytes;
      if (unpublished === 0) {
        this.#halves[((next << 3) + 6) | 0] = id;
        this.#unpublishedFlags = word >>> 16;
      } else {
        descriptors[(p + 3) | 0] = word;
      }
      unpublished = (unpublished + taken) | 0;
      next = (next + taken) | 0;
      if (next >= size) {
        next = (next - size) | 0;
        lapWord ^= LAP_WORD;
      }
    }
    this.#nextUsed = next;
    this.#usedWrap = lapWord === 0 ? 0 : 1;
    this.#unpublishedSlots = unpublished;
    this.slotsInFlight -= unpublished - before;
    return row;
  }

  protected override use(id: number, written: number): void {
    const taken = this.book[id * 2]!;
    const next = this.#nextUsed;
    const flags = (this.#usedWrap === 1 ? USED : 0) | (written === 0 ? 0 : WRITE);
    this.descriptors[next * 4 + 2] = written;
    if (this.#unpublishedSlots === 0) {
      this.#halves[next * 8 + 6] = id;
      this.#unpublishedFlags = flags;
    } else {
      this.descriptors[next * 4 + 3] = id | (flags << 16);
    }
    this.book[id * 2] = 0;
    this.slotsInFlight -= taken;
    this.#unpublishedSlots += taken;
    this.#nextUsed = next + taken;
    if (this.#nextUsed >= this.size) {
      this.#nextUsed -= this.size;
      this.#usedWrap = this.#usedWrap === 1 ? 0 : 1;
    }
  }

  override publish(): void {
    const slots = this.#unpublishedSlots;
    // Views of memory that was unmapped are empty.
    if (slots === 0 || this.#halves.length === 0 || (this.log !== null && this.broken !== null)) return;
    const { tracker } = this;
    if (tracker !== null) tracker.beforePublish(this.#nextUsed, this.#usedWrap);
    const flags = this.#published * 8 + 7;
    if (PLAIN_STORE_RELEASES) this.#halves[flags] = this.#unpublishedFlags;
    else Atomics.store(this.#halves, flags, this.#unpublishedFlags);
    if (tracker !== null) tracker.afterPublish(this.#nextUsed, this.#usedWrap);
    if (this.log !== null) this.#logPublished(this.log, slots);
    this.#published = this.#nextUsed;
    this.#publishedWrap = this.#usedWrap;
    this.#unpublishedSlots = 0;
    this.#slotsSinceAsked += slots;
    this.counters.publishes++;
  }

  /** `slots` descriptors from `#published` on; only the first of each chain was written, but they share pages. */
  #logPublished(log: ChainLog, slots: number): void {
    log.markSlots('descriptor', 0, DESCRIPTOR, this.size, this.#published, slots);
    this.checkLog(log);
  }

  #logNotification(log: ChainLog): void {
    log.markDevice(0, EVENT_SUPPRESSION);
    this.checkLog(log);
  }

  override needsCall(): boolean {
    const slots = this.#slotsSinceAsked;
    if (slots === 0 || this.ringLost()) return false;
    memoryOrder.fence();
    const wanted = this.#notification.wantsCall(this.#asked, this.#published, this.#publishedWrap, slots);
    this.#asked = this.#published;
    this.#slotsSinceAsked = 0;
    if (wanted) this.counters.calls++;
    return wanted;
  }

  override enableNotifications(): boolean {
    if (this.broken !== null || this.waiting || this.ringLost()) return false;
    this.#notification.enable(this.nextAvailable, this.availableWrap);
    if (this.log !== null) this.#logNotification(this.log);
    return this.headIsAvailable() || this.parked > 0;
  }

  override disableNotifications(): void {
    if (this.ringLost()) return;
    this.#notification.disable();
    if (this.log !== null) this.#logNotification(this.log);
  }

  override state(): VirtqueueState {
    return {
      format: 'packed',
      nextAvailable: this.nextAvailable,
      availableWrap: this.availableWrap,
      nextUsed: this.#published,
      usedWrap: this.#publishedWrap,
    };
  }
}
