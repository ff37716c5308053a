import { GuestMemoryError, VhostError, VirtqueueError } from '../errors.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { Access, type AddressRange, Iotlb, type Removed } from '../memory/iotlb.js';
import type { WindowTable } from '../platform/platform.js';
import { WINDOW_STRIDE } from '../platform/platform.js';
import { AddressMap } from '../virtqueue/address-map.js';
import type { MemoryPlace } from '../virtqueue/device-virtqueue.js';
import type { Fault, Translation } from '../virtqueue/translation.js';
import { type IotlbMessage, IotlbPermission, IotlbType } from '../../generated/vhost-user/payloads.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import type { NegotiatedFeatures } from './negotiated-features.js';

/** A ring as far as translations matter to it; `Vring` is one. */
export interface TranslatedRing {
  readonly index: number;
  /** What the ring waited for may be there. */
  translated(): void;
  /** What the ring waited for will never be there. */
  untranslatable(error: VirtqueueError): void;
  /** Whether one of its areas lies there. */
  liesIn(range: AddressRange): boolean;
  /** Translations went out of the table. Resolves when the ring and its chains use nothing of them; null when they do not now. */
  withdraw(removed: Removed): Promise<unknown> | null;
}

export interface IommuOptions {
  readonly windows: WindowTable;
  readonly features: NegotiatedFeatures;
  readonly rings: () => Iterable<TranslatedRing>;
  /** Sends BACKEND_IOTLB_MSG, and gives the promise of its acknowledgement; null while there is no channel for it. */
  readonly send: (message: IotlbMessage) => Promise<unknown> | null;
  readonly log: (level: 'warn' | 'debug', message: string, fields: Record<string, unknown>) => void;
  /** Entries of the IOTLB at most. */
  readonly limit?: number;
}

/** A translation that rings wait for. */
interface Miss {
  readonly fault: Fault;
  readonly rings: Set<TranslatedRing>;
  asked: boolean;
}

/** What is asked for once; an answer may cover more or less. */
const PAGE = 4096;
const REFUSED = 1n;
/** Answers that are remembered. Beyond that a page that was granted for one way of access is not asked for the other again. */
const SETTLED_MAX = 65_536;

/**
 * A session's side of the IOTLB protocol, in force while ACCESS_PLATFORM is negotiated. Addresses in descriptors and of rings
 * are I/O virtual ones then, and mean what the front-end's updates say.
 *
 *   ring ──missing──▶ miss, once a page ──back-end channel──▶ front-end ──update──▶ table ──▶ ring goes on
 *                                                             front-end ──invalidate──▶ out of the table at once,
 *                       answered when every chain in flight that lies there is completed, and rings there are unbound
 *
 * What is asked for stays asked until an update covers it, is asked again over a new channel, and breaks the rings that
 * wait for it when the front-end refuses. A session waits for its own device alone before it answers: no translation is
 * needed to complete a chain that is in flight.
 */
export class SessionIommu {
  readonly #options: IommuOptions;
  readonly #iotlb: Iotlb;
  #map: AddressMap;
  #mapped: Iotlb['runs'];
  /** By page, twice, plus one for writing. */
  readonly #misses = new Map<number, Miss>();
  /** Questions that were answered, by the same keys, as long as what came for them is there. */
  readonly #settled = new Set<number>();

  constructor(options: IommuOptions) {
    this.#options = options;
    this.#iotlb = new Iotlb(options.limit);
    this.#mapped = this.#iotlb.runs;
    this.#map = AddressMap.ofTranslations(this.#mapped, options.windows);
  }

  /** Whether addresses are I/O virtual ones. */
  get active(): boolean {
    return this.#options.features.has(VirtioFeature.accessPlatform);
  }

  /** What a ring goes by. */
  translation(ring: TranslatedRing): Translation {
    const current = (): AddressMap => {
      const { runs } = this.#iotlb;
      if (runs !== this.#mapped) {
        this.#mapped = runs;
        this.#map = AddressMap.ofTranslations(runs, this.#options.windows);
      }
      return this.#map;
    };
    return {
      get map() {
        return current();
      },
      missed: (faults) => this.#missed(ring, faults),
      mayGrant: (fault) => this.#mayGrant(fault),
      denied: (fault) => this.#denied(fault),
    };
  }

  /**
   * Where a ring's area lies. Null when translations of it are missing, which are asked for. Throws VirtqueueError when it
   * may not be used so, or is not contiguous in memory, which a ring has to be.
   */
  place(ring: TranslatedRing, iova: bigint, length: number, access: number): MemoryPlace | null {
    const start = Number(iova);
    const name = `ring area of ${length} bytes at IOVA 0x${iova.toString(16)}`;
    if (iova + BigInt(length) > 2n ** 53n) {
      throw new VirtqueueError('ERR_VIRTQ_CONFIGURATION', ring.index, `${name}: it ends beyond 2^53`);
    }
    const write = (access & Access.write) !== 0;
    const faults: Fault[] = [];
    let place = -1;
    for (let at = start; at < start + length;) {
      const run = this.#iotlb.find(at);
      if (run === null) {
        faults.push({ address: at, write });
        at = (Math.floor(at / PAGE) + 1) * PAGE;
        continue;
      }
      if ((run.permission & access) !== access) {
        if (this.#mayGrant({ address: at, write })) {
          faults.push({ address: at, write });
          at = (Math.floor(at / PAGE) + 1) * PAGE;
          continue;
        }
        this.#denied({ address: at, write });
        throw new VirtqueueError('ERR_VIRTQ_CONFIGURATION', ring.index, `${name}: it may not be used so`);
      }
      const here = run.window * WINDOW_STRIDE + run.offset + (at - run.start);
      if (place < 0) place = here - (at - start);
      if (faults.length === 0 && here !== place + (at - start)) {
        const what = `${name}: it is scattered in memory, which is not supported`;
        throw new VirtqueueError('ERR_VIRTQ_CONFIGURATION', ring.index, what);
      }
      at = run.end;
    }
    if (faults.length > 0) {
      this.#missed(ring, faults);
      return null;
    }
    return { window: Math.floor(place / WINDOW_STRIDE), offset: place % WINDOW_STRIDE };
  }

  /** IOTLB_MSG. Gives what is answered: 0 for success. */
  receive(message: IotlbMessage): bigint | Promise<bigint> {
    const { iova, size, userAddress, permission, type } = message;
    try {
      switch (type) {
        case IotlbType.update: {
          if ((permission & ~Access.readWrite) !== 0) {
            throw new VhostError('ERR_VHOST_PAYLOAD', `an update with permission ${permission}`);
          }
          const pinned = (range: AddressRange) => this.#ringLiesIn(range);
          const removed = this.#iotlb.update(iova, size, userAddress, permission, pinned);
          const [start, end] = [Number(iova), Number(iova + size)];
          this.#unsettle(removed, start, end);
          const answer = this.#withdraw(removed);
          this.#answered(start, end, permission);
          return answer;
        }
        case IotlbType.invalidate: {
          const removed = this.#iotlb.invalidate(iova, size);
          this.#unsettle(removed, 0, 0);
          return this.#withdraw(removed);
        }
        default:
          // Misses and failures are the back-end's to send. Batches are the kernel's: the text does not know them, and
          // without them each update counts at once.
          throw new VhostError('ERR_VHOST_PAYLOAD', `an IOTLB message of type ${type}`);
      }
    } catch (error) {
      if (!(error instanceof GuestMemoryError || error instanceof VhostError)) throw error;
      this.#options.log('warn', `VHOST_USER_IOTLB_MSG: ${error.message}`, { code: error.code, error });
      return REFUSED;
    }
  }

  /** The memory map changed. Rings are told by the session, which has them bound anew. */
  memoryChanged(memory: GuestMemory | null): void {
    this.#iotlb.setMemory(memory);
  }

  /** Forgets every translation; no ring runs. */
  flush(): void {
    this.#iotlb.flush();
    this.#misses.clear();
    this.#settled.clear();
  }

  /** There is a channel, another than before: what is missing is asked for. */
  channelOpened(): void {
    for (const miss of this.#misses.values()) miss.asked = false;
    this.#ask();
  }

  /** The ring waits for nothing any more. */
  forget(ring: TranslatedRing): void {
    for (const [key, miss] of this.#misses) {
      if (miss.rings.delete(ring) && miss.rings.size === 0) this.#misses.delete(key);
    }
  }

  #ringLiesIn(range: AddressRange): boolean {
    for (const ring of this.#options.rings()) if (ring.liesIn(range)) return true;
    return false;
  }

  /** Answers when no ring uses what was taken out. */
  #withdraw(removed: Removed): bigint | Promise<bigint> {
    if (removed.ranges.length === 0) return 0n;
    const waits: Promise<unknown>[] = [];
    for (const ring of this.#options.rings()) {
      const wait = ring.withdraw(removed);
      if (wait !== null) waits.push(wait);
    }
    return waits.length === 0 ? 0n : Promise.all(waits).then(() => 0n);
  }

  // --- misses

  #missed(ring: TranslatedRing, faults: readonly Fault[]): void {
    for (const fault of faults) {
      const key = Math.floor(fault.address / PAGE) * 2 + (fault.write ? 1 : 0);
      const miss = this.#misses.get(key);
      if (miss === undefined) this.#misses.set(key, { fault, rings: new Set([ring]), asked: false });
      else miss.rings.add(ring);
    }
    this.#ask();
  }

  /** Asks for what was not asked for yet. */
  #ask(): void {
    for (const [key, miss] of this.#misses) {
      if (miss.asked) continue;
      const answer = this.#options.send(iotlbMessage(miss.fault, IotlbType.miss));
      if (answer === null) return;
      miss.asked = true;
      answer.then(
        // One that was not sent because too many were unanswered may be now.
        () => this.#ask(),
        (error: unknown) => this.#unanswered(key, miss, error),
      );
    }
  }

  /** The front-end did not take the question. */
  #unanswered(key: number, miss: Miss, error: unknown): void {
    if (this.#misses.get(key) !== miss) return;
    if (!(error instanceof VhostError && error.code === 'ERR_VHOST_REFUSED')) {
      // The channel is gone, say: asked again over the next one.
      miss.asked = false;
      return;
    }
    this.#misses.delete(key);
    const { address, write } = miss.fault;
    const what = `IOVA 0x${address.toString(16)} is not mapped for ${write ? 'writing' : 'reading'}: the front-end refused`;
    for (const ring of miss.rings) {
      this.forget(ring);
      ring.untranslatable(new VirtqueueError('ERR_VIRTQ_ADDRESS', ring.index, what, { cause: error }));
    }
  }

  /**
   * A ring goes on when nothing that it waits for is missing any more. An update that does not allow what was asked for
   * answers it with no, unless it answers the other question about that page: front-ends may grant reading first.
   */
  #answered(start: number, end: number, permission: number): void {
    const rings = new Set<TranslatedRing>();
    const asked = new Set(this.#misses.keys());
    for (const [key, { fault, rings: waiting }] of this.#misses) {
      if (fault.address < start || fault.address >= end) continue;
      const other = fault.write ? key - 1 : key + 1;
      if (!grants(permission, fault) && asked.has(other) && grants(permission, { write: !fault.write }))
        continue;
      this.#misses.delete(key);
      if (this.#settled.size >= SETTLED_MAX) this.#settled.clear();
      this.#settled.add(key);
      for (const ring of waiting) rings.add(ring);
    }
    for (const miss of this.#misses.values()) for (const ring of miss.rings) rings.delete(ring);
    for (const ring of rings) ring.translated();
  }

  /** See Translation.mayGrant. */
  #mayGrant({ address, write }: Fault): boolean {
    const key = Math.floor(address / PAGE) * 2 + (write ? 1 : 0);
    return this.#settled.has(write ? key - 1 : key + 1) && !this.#settled.has(key);
  }

  /** Forgets the answers about what went out of the table, other than the pages from `start` to `end` that came again. */
  #unsettle({ ranges }: Removed, start: number, end: number): void {
    const settled = this.#settled;
    for (const range of ranges) {
      const first = Math.floor(range.start / PAGE);
      const last = Math.ceil(range.end / PAGE) - 1;
      const gone = (page: number): boolean =>
        page >= first && page <= last && ((page + 1) * PAGE <= start || page * PAGE >= end);
      if (last - first >= settled.size) {
        for (const key of settled) if (gone(Math.floor(key / 2))) settled.delete(key);
        continue;
      }
      for (let page = first; page <= last; page++) {
        if (!gone(page)) continue;
        settled.delete(page * 2);
        settled.delete(page * 2 + 1);
      }
    }
  }

  /** Tells the front-end; QEMU 7 knows no such message and says so. */
  #denied(fault: Fault): void {
    this.#options
      .send(iotlbMessage(fault, IotlbType.accessFail))
      ?.catch((error: unknown) =>
        this.#options.log('debug', 'the front-end took no notice of a refused access', { error }),
      );
  }
}

/** A promise of `done` being called; null when `start` has called it already. */
export function whenDone(start: (done: () => void) => void): Promise<void> | null {
  let finished = false;
  const promise = new Promise<void>((resolve) =>
    start(() => {
      finished = true;
      resolve();
    }),
  );
  return finished ? null : promise;
}

function grants(permission: number, { write }: { readonly write: boolean }): boolean {
  return (permission & (write ? Access.write : Access.read)) !== 0;
}

function iotlbMessage({ address, write }: Fault, type: IotlbType): IotlbMessage {
  const permission = write ? IotlbPermission.write : IotlbPermission.read;
  return { iova: BigInt(address), size: 0n, userAddress: 0n, permission, type };
}
