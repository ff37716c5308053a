import { VhostError } from '../../runtime/errors.js';
import type { RegionDescription } from '../../runtime/memory/guest-memory.js';
import { FrontendIommu, type Translation } from '../../runtime/vhost-user/frontend/iommu.js';
import type { Random } from '../support/random.js';

const PAGE = 4096;
/** Regions lie this far apart for the device; more than any of them is long. */
const SPREAD = 2 ** 34;

/** An IOMMU that scatters regions over I/O virtual addresses, answers page by page, and takes back what it gave at random. */
export class MovingIommu extends FrontendIommu {
  readonly #random: Random;
  readonly #regions: { readonly iova: number; readonly pages: number }[];
  asked = 0;
  invalidated = 0;
  #stopped = false;

  constructor(random: Random) {
    const regions: { iova: number; pages: number }[] = [];
    const free = Array.from({ length: 32 }, (_, i) => i);
    super({
      granule: PAGE * random.pick([1, 1, 16]),
      place: ({ size }: RegionDescription) => {
        const slot = free.splice(random.below(free.length), 1)[0]!;
        // Some lie across a 4 GiB boundary.
        const distance = random.chance(3)
          ? 2 ** 32 - PAGE * (1 + random.below(100))
          : PAGE * random.below(1000);
        const iova = slot * SPREAD + distance;
        regions.push({ iova, pages: Number(size) / PAGE });
        return BigInt(iova);
      },
    });
    this.#random = random;
    this.#regions = regions;
  }

  override translate(iova: bigint, permission: number): Translation | null {
    this.asked++;
    return super.translate(iova, permission);
  }

  /** Invalidates this and that until `stop` or the end of the connection. Rejects when the back-end does not take it. */
  async move(): Promise<void> {
    while (!this.#stopped) {
      await new Promise(setImmediate);
      if (this.#regions.length === 0) continue;
      this.invalidated++;
      try {
        await this.#invalidateSome();
      } catch (error) {
        if (!(error instanceof VhostError) || error.code !== 'ERR_VHOST_DISCONNECTED') throw error;
        return;
      }
    }
  }

  #invalidateSome(): Promise<void> {
    const random = this.#random;
    if (random.chance(8)) return this.invalidate(0n, (1n << 64n) - 1n);
    const { iova, pages } = random.pick(this.#regions);
    // What is in use lies at the start of a region.
    const first = random.below(random.pick([4, 32, pages]));
    const count = 1 + random.below(Math.min(random.pick([1, 8, 64]), pages - first));
    return this.invalidate(BigInt(iova + first * PAGE), BigInt(count * PAGE));
  }

  stop(): void {
    this.#stopped = true;
  }
}
