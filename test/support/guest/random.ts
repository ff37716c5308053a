/** A seeded generator (xorshift32): the same numbers on every run. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }

  /** An integer in [0, below). */
  below(below: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % below;
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i + 4 <= length; i += 4) bytes.writeUInt32LE(this.below(2 ** 32), i);
    return bytes;
  }
}
