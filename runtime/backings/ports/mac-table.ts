const WAYS = 4;
/** Seconds after which an address that nobody used is forgotten, as in IEEE 802.1Q. */
const AGE_MAX = 300;

/**
 * Which port an address was seen on last. Bounded: an address that finds its row full takes the place of the one that was
 * not seen for longest. Addresses are (high 16 bits, low 32 bits).
 */
export class MacTable {
  readonly #rows: number;
  readonly #high: Int32Array;
  readonly #low: Int32Array;
  readonly #port: Int32Array;
  readonly #seen: Float64Array;

  /** `rows`: a power of two; four addresses each. */
  constructor(rows = 1024) {
    this.#rows = rows;
    this.#high = new Int32Array(rows * WAYS);
    this.#low = new Int32Array(rows * WAYS);
    this.#port = new Int32Array(rows * WAYS).fill(-1);
    this.#seen = new Float64Array(rows * WAYS);
  }

  /** Notes that the address is on `port`. `now` in seconds. */
  learn(high: number, low: number, port: number, now: number): void {
    const first = this.#first(high, low);
    let place = first;
    for (let i = first; i < first + WAYS; i++) {
      if (this.#high[i] === high && this.#low[i] === low && this.#port[i]! >= 0) {
        place = i;
        break;
      }
      if (this.#port[i]! < 0) this.#seen[i] = -Infinity;
      if (this.#seen[i]! < this.#seen[place]!) place = i;
    }
    this.#high[place] = high;
    this.#low[place] = low;
    this.#port[place] = port;
    this.#seen[place] = now;
  }

  /** The port of an address; -1 when it is not known or was not seen for too long. */
  find(high: number, low: number, now: number): number {
    const first = this.#first(high, low);
    for (let i = first; i < first + WAYS; i++) {
      if (this.#high[i] === high && this.#low[i] === low && this.#port[i]! >= 0) {
        return now - this.#seen[i]! <= AGE_MAX ? this.#port[i]! : -1;
      }
    }
    return -1;
  }

  /** Forgets everything that was seen on a port. */
  forget(port: number): void {
    for (let i = 0; i < this.#port.length; i++) if (this.#port[i] === port) this.#port[i] = -1;
  }

  #first(high: number, low: number): number {
    const hash = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b);
    return ((hash ^ (hash >>> 15)) & (this.#rows - 1)) * WAYS;
  }
}
