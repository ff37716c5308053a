/** A small seeded generator: the same seed gives the same test. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number from 0 to `limit - 1`. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    return ((((word ^ (word >>> 14)) >>> 0) / 4294967296) * limit) | 0;
  }

  chance(oneIn: number): boolean {
    return this.below(oneIn) === 0;
  }

  pick<Item>(items: readonly Item[]): Item {
    return items[this.below(items.length)]!;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(256));
  }

  /** Cuts `length` into pieces of at least 1. */
  cut(length: number): number[] {
    const pieces: number[] = [];
    for (let left = length; left > 0;) {
      const piece = this.chance(3) ? Math.min(left, 1 + this.below(4)) : 1 + this.below(left);
      pieces.push(piece);
      left -= piece;
    }
    return pieces;
  }
}
