/** What belongs to a test and ends with it, the last first. Node 20 has no AsyncDisposableStack. */
export class Belongings implements AsyncDisposable {
  readonly #all: (Disposable | AsyncDisposable)[] = [];

  /** Keeps one more and gives it back. */
  keep<Item extends Disposable | AsyncDisposable>(item: Item): Item {
    this.#all.push(item);
    return item;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let item = this.#all.pop(); item !== undefined; item = this.#all.pop()) {
      if (Symbol.asyncDispose in item) await item[Symbol.asyncDispose]();
      else item[Symbol.dispose]();
    }
  }
}
