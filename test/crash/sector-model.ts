/**
 * What each sector of a disk may hold, while requests are under way and after any of them was lost, repeated or torn.
 *
 * Every write has a generation, a number of its own that only grows, and stamps it with the sector's number into every word
 * of every sector:
 *
 *   word   0           1        2 to 127
 *         +------------+--------+---------------------------------------------+
 *         | generation | sector | (i + mix(generation, sector)) * 0x9e3779b1  |
 *         +------------+--------+---------------------------------------------+
 *
 * so that a sector says which write it is of, and that it is whole. A sector may hold what a write left that was not
 * certainly followed by another: an acknowledged write removes everything that was acknowledged before it was issued.
 *
 * On the disk each sector is whole. A read that runs beside a zeroing of the same sector may find it half zeroed: the kernel
 * makes zeroes in another thread, and lets reads pass meanwhile.
 */
export const SECTOR = 512;
const WORDS = SECTOR / 4;

interface Candidate {
  readonly generation: number;
  /** It left zeroes, without a stamp. */
  readonly zeroes: boolean;
  /** The clock when it was acknowledged. */
  acknowledged: number;
}

/** What a read may find, fixed as far as it is when the read is issued. */
export interface Expectation {
  readonly issued: number;
  readonly sector: number;
  readonly candidates: readonly (readonly Candidate[])[];
}

export class SectorModel {
  readonly sectors: number;
  /** Counts every issue and every acknowledgement; an issue's number is its generation. */
  #clock = 1;
  readonly #candidates: Candidate[][];
  /** When zeroes were last written to the sector. */
  readonly #zeroed: Float64Array;

  /** A disk of zeroes. */
  constructor(sectors: number) {
    this.sectors = sectors;
    this.#zeroed = new Float64Array(sectors);
    this.#candidates = Array.from({ length: sectors }, () => [
      { generation: 0, zeroes: true, acknowledged: 0 },
    ]);
  }

  /** A write of `count` sectors, or of zeroes, is about to be issued. Returns its generation. */
  issue(sector: number, count: number, zeroes = false): number {
    const generation = this.#clock++;
    for (let at = sector; at < sector + count; at++) {
      this.#candidates[at]!.push({ generation, zeroes, acknowledged: Infinity });
      if (zeroes) this.#zeroed[at] = generation;
    }
    return generation;
  }

  /** The write was acknowledged. */
  acknowledge(sector: number, count: number, generation: number): void {
    const now = this.#clock++;
    for (let at = sector; at < sector + count; at++) {
      const candidates = this.#candidates[at]!;
      const own = candidates.find((each) => each.generation === generation);
      // What is under way is never removed.
      if (own?.acknowledged !== Infinity) {
        throw new Error(`write ${generation} to sector ${at} was acknowledged twice`);
      }
      own.acknowledged = now;
      this.#candidates[at] = candidates.filter((each) => each.acknowledged >= generation);
    }
  }

  /** The driver is gone, and what it had under way is done or never will be: what comes now comes after it. */
  abandon(): void {
    const now = this.#clock++;
    for (const candidates of this.#candidates) {
      for (const each of candidates) if (each.acknowledged === Infinity) each.acknowledged = now;
    }
  }

  /** A read is about to be issued. */
  expect(sector: number, count: number): Expectation {
    const candidates = this.#candidates.slice(sector, sector + count).map((each) => [...each]);
    return { issued: this.#clock++, sector, candidates };
  }

  /** Why what a read returned cannot be, or null. */
  misread({ issued, sector, candidates }: Expectation, words: Uint32Array, first = 0): string | null {
    for (const [i, may] of candidates.entries()) {
      const at = sector + i;
      const wrong = this.#judge(may, at, words, first + i * WORDS, issued);
      if (wrong !== null && !this.#halfZeroed(may, at, words, first + i * WORDS, issued))
        return `sector ${at}, read: ${wrong}`;
    }
    return null;
  }

  /** Why the whole disk cannot hold `words`, or null. Nothing may be writing to it. */
  damage(words: Uint32Array): string | null {
    if (words.length !== this.sectors * WORDS)
      return `${words.length * 4} bytes, not ${this.sectors * SECTOR}`;
    for (const [at, may] of this.#candidates.entries()) {
      const wrong = this.#judge(may, at, words, at * WORDS, Infinity);
      if (wrong !== null) return `sector ${at}, on disk: ${wrong}`;
    }
    return null;
  }

  /** Whether zeroes were under way since then, and the sector is a write that may be there, save for zeroes. */
  #halfZeroed(
    may: readonly Candidate[],
    at: number,
    words: Uint32Array,
    first: number,
    since: number,
  ): boolean {
    const zeroed = may.some((each) => each.zeroes && each.acknowledged > since);
    if (!zeroed && this.#zeroed[at]! <= since) return false;
    const fits = (generation: number): boolean => {
      const base = mix(generation, at);
      for (let i = 0; i < WORDS; i++) {
        const value = words[first + i]!;
        if (value !== 0 && value !== (i === 0 ? generation : i === 1 ? at : pattern(base, i))) return false;
      }
      return true;
    };
    if (may.some(({ generation, zeroes }) => !zeroes && fits(generation))) return true;
    for (let later = since + 1; later < this.#clock; later++) if (fits(later)) return true;
    return false;
  }

  /** `since`: generations issued later are as good. */
  #judge(
    may: readonly Candidate[],
    at: number,
    words: Uint32Array,
    first: number,
    since: number,
  ): string | null {
    const generation = words[first]!;
    const wants = (): string =>
      may
        .map(
          (each) =>
            `${each.generation}${each.zeroes ? ' (zeroes)' : ''}${each.acknowledged === Infinity ? ', under way' : ''}`,
        )
        .join(' or ');
    if (generation === 0 && words[first + 1] === 0) {
      for (let i = 2; i < WORDS; i++) if (words[first + i] !== 0) return `zeroes, but not in word ${i}`;
      if (this.#zeroed[at]! > since || may.some((each) => each.zeroes)) return null;
      return `zeroes, expected ${wants()}`;
    }
    if (words[first + 1] !== at) return `is stamped as sector ${words[first + 1]} of write ${generation}`;
    const base = mix(generation, at);
    for (let i = 2; i < WORDS; i++) {
      if (words[first + i] !== pattern(base, i)) return `write ${generation}, but not in word ${i}`;
    }
    if (may.some((each) => !each.zeroes && each.generation === generation)) return null;
    if (generation > since && generation < this.#clock) return null;
    return `write ${generation}, expected ${wants()}`;
  }
}

/** Fills `count` sectors from `words[first]` on with what write `generation` leaves there. */
export function stamp(
  words: Uint32Array,
  first: number,
  sector: number,
  count: number,
  generation: number,
): void {
  for (let at = sector; at < sector + count; at++, first += WORDS) {
    const base = mix(generation, at);
    words[first] = generation;
    words[first + 1] = at;
    for (let i = 2; i < WORDS; i++) words[first + i] = pattern(base, i);
  }
}

function mix(generation: number, sector: number): number {
  return Math.imul(generation, 0x85ebca6b) ^ Math.imul(sector, 0xc2b2ae35);
}

function pattern(base: number, i: number): number {
  return Math.imul(base + i, 0x9e3779b1) >>> 0;
}
