/** Ended operations as a backing reports them, in two tables: one is read while the other is filled. */
export class CompletionList {
  /** Pairs (token, result), as many as the last `take` said; valid until the next one. */
  taken = new Int32Array(256);
  #filling = new Int32Array(256);
  #count = 0;

  add(token: number, result: number): void {
    if (this.#count * 2 === this.#filling.length) {
      const larger = new Int32Array(this.#filling.length * 2);
      larger.set(this.#filling);
      this.#filling = larger;
    }
    this.#filling[this.#count * 2] = token;
    this.#filling[this.#count * 2 + 1] = result;
    this.#count++;
  }

  /** Makes what was added readable and returns how many pairs it is. */
  take(): number {
    const count = this.#count;
    const taken = this.#filling;
    this.#filling = this.taken;
    this.taken = taken;
    this.#count = 0;
    return count;
  }
}
