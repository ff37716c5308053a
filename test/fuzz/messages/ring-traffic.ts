import { VirtioFeature } from '../../../generated/virtio/features.js';
import type { Random } from '../../support/random.js';
import { INDIRECT, packedTable, type RawDescriptor, splitTable, WRITE } from '../../support/raw-rings.js';
import type { Plan } from './draw.js';
import type { World } from './world.js';

/** Where buffers and tables lie in guest memory, beside the far regions. */
const BUFFERS = 0xa000;
const BUFFER_BYTES = 0x6000;
const NEXT = 1;
const AVAIL = 1 << 7;
const USED = 1 << 15;

/** The driver's side of the rings of a conversation, which writes what it likes. */
export class RingTraffic {
  readonly #random: Random;
  readonly #world: World;
  readonly #plan: Plan;
  /** This driver breaks the rules of rings. */
  readonly #wild: boolean;
  /** By ring: the next slot of a packed ring, and its wrap counter. */
  readonly #cursors = new Map<number, { slot: number; wrap: 0 | 1 }>();

  constructor(random: Random, world: World, plan: Plan) {
    this.#random = random;
    this.#world = world;
    this.#plan = plan;
    this.#wild = random.chance(3);
  }

  /** One in so many, for a driver that breaks the rules. */
  #odd(oneIn: number): boolean {
    return this.#wild && this.#random.chance(oneIn);
  }

  /** The ring starts afresh. */
  clear(index: number): void {
    this.#cursors.set(index, { slot: 0, wrap: 1 });
    const view = this.#world.view(0x1000 + index * 0x2000, 0x2000);
    new Uint8Array(view.buffer, view.byteOffset, view.byteLength).fill(0);
  }

  /** Puts a few chains into a ring, or rubbish. */
  write(index: number): void {
    const random = this.#random;
    if (this.#wild && random.chance(6)) this.#garbage(index);
    for (let n = 1 + random.below(4); n > 0; n--) this.#offer(index);
  }

  #offer(index: number): void {
    const packed = (this.#plan.accepted & VirtioFeature.ringPacked) !== 0n;
    const { size } = this.#plan.rings[index]!;
    let chain = this.#chain();
    const indirect = (this.#plan.accepted & VirtioFeature.indirectDesc) !== 0n || this.#odd(40);
    if (indirect && (chain.length > size || this.#random.chance(4))) chain = [this.#indirect(packed, chain)];
    chain.length = Math.min(chain.length, size);
    if (packed) this.#offerPacked(index, chain);
    else this.#offerSplit(index, chain);
  }

  #offerSplit(index: number, chain: readonly RawDescriptor[]): void {
    const { size, descriptor, driver } = this.#plan.rings[index]!;
    const available = this.#world.view(driver, 6 + 2 * size);
    const position = available.getUint16(2, true);
    const first = (position * 3) % size;
    for (const [i, buffer] of chain.entries()) {
      const last = i === chain.length - 1;
      const next = (first + i + 1) % size;
      this.#descriptor(descriptor + ((first + i) % size) * 16, buffer, last ? 0 : NEXT, next, false);
    }
    available.setUint16(4 + 2 * (position % size), this.#odd(40) ? size : first, true);
    available.setUint16(2, position + 1, true);
  }

  #offerPacked(index: number, chain: readonly RawDescriptor[]): void {
    const { size, descriptor } = this.#plan.rings[index]!;
    const cursor = this.#cursors.get(index) ?? { slot: 0, wrap: 1 };
    for (const [i, buffer] of chain.entries()) {
      const last = i === chain.length - 1;
      const flags = (last ? 0 : NEXT) | (cursor.wrap === 1 ? AVAIL : USED);
      const id = this.#odd(40) ? size : cursor.slot;
      this.#descriptor(descriptor + cursor.slot * 16, buffer, flags, id, true);
      if (++cursor.slot < size) continue;
      cursor.slot = 0;
      cursor.wrap = cursor.wrap === 1 ? 0 : 1;
    }
    this.#cursors.set(index, cursor);
  }

  #descriptor(at: number, buffer: RawDescriptor, bits: number, tail: number, packed: boolean): void {
    const view = this.#world.view(at, 16);
    const flags = (buffer.flags ?? 0) | bits;
    view.setBigUint64(0, BigInt(buffer.address), true);
    view.setUint32(8, buffer.length, true);
    view.setUint16(packed ? 14 : 12, flags, true);
    view.setUint16(packed ? 12 : 14, tail, true);
  }

  /** Readable buffers, then writable ones; the first looks like the header of a request. */
  #chain(): RawDescriptor[] {
    const random = this.#random;
    const readable = random.below(3);
    const chain = Array.from({ length: readable + random.below(3) + (readable === 0 ? 1 : 0) }, (_, i) => ({
      address: this.#address(),
      length: random.pick([1, 12, 16, 16, 64, 512, 512, 4096, random.below(0x800)]),
      flags: i < readable ? 0 : WRITE,
    }));
    const [head] = chain;
    if (head !== undefined && head.flags === 0 && typeof head.address === 'number')
      this.#header(head.address);
    if (random.chance(2) && chain.length > 1) chain[chain.length - 1]!.length = 1;
    if (!this.#wild) for (const buffer of chain) buffer.length = Math.max(1, buffer.length);
    if (this.#odd(60)) chain[random.below(chain.length)]!.length = random.pick([0, 0x8000_0000, 0xffff_ffff]);
    return chain;
  }

  #address(): number | bigint {
    const random = this.#random;
    if (this.#odd(60)) return BigInt(random.below(0x1_0000)) << BigInt(random.below(49));
    if (random.chance(8)) return 0x1_0000 + random.below(0x3800);
    if (random.chance(8)) return 0x1_0000_0000 + random.below(0x3800);
    return BUFFERS + random.below(BUFFER_BYTES - 16);
  }

  /** A block request, or a network header. */
  #header(address: number): void {
    const random = this.#random;
    // Near the end of a region the header does not fit: what stands there will do.
    if (address > BUFFERS + BUFFER_BYTES - 16) return;
    const view = this.#world.view(address, 16);
    view.setUint32(0, random.chance(8) ? random.below(30) : random.pick([0, 1, 4, 8, 11, 13]), true);
    view.setUint32(4, 0, true);
    view.setUint32(8, random.chance(20) ? 0xffff_ffff : random.below(40), true);
    view.setUint32(12, random.chance(40) ? 0xffff_ffff : 0, true);
  }

  #indirect(packed: boolean, chain: readonly RawDescriptor[]): RawDescriptor {
    const random = this.#random;
    const table = chain.map((buffer, i) => {
      const last = i === chain.length - 1;
      return { ...buffer, flags: (buffer.flags ?? 0) | (last ? 0 : NEXT), next: last ? 0 : i + 1 };
    });
    const bytes = packed ? packedTable(table) : splitTable(table);
    const address = BUFFERS + 16 * random.below((BUFFER_BYTES - 256) / 16);
    const view = this.#world.view(address, bytes.byteLength);
    new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(bytes);
    const length = this.#odd(30) ? random.pick([0, 8, 16, 0x1_0000]) : bytes.byteLength;
    return { address, length, flags: INDIRECT };
  }

  #garbage(index: number): void {
    const random = this.#random;
    const { descriptor, driver, device, size } = this.#plan.rings[index]!;
    for (let n = 1 + random.below(8); n > 0; n--) {
      const at = random.pick([
        descriptor + random.below(16 * size),
        driver + random.below(8),
        device + random.below(8),
      ]);
      this.#world.view(at, 1).setUint8(0, random.below(256));
    }
  }
}
