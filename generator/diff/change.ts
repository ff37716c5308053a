/** One difference between two models that peers or users of the generated code can notice. */
export interface Change {
  /** True when a peer or a program that was right before is wrong now. */
  readonly breaking: boolean;
  /** `vhost-user/payloads memory-region.size`. */
  readonly place: string;
  readonly message: string;
}

/** Collects changes of one file. */
export class Changes {
  readonly list: Change[] = [];
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  breaking(place: string | null, message: string): void {
    this.#add(true, place, message);
  }

  compatible(place: string | null, message: string): void {
    this.#add(false, place, message);
  }

  /** Reports `before` -> `after` when they differ; `isBreaking` judges. */
  value<Value>(place: string, what: string, before: Value, after: Value, isBreaking = true): void {
    const [old, now] = [show(before), show(after)];
    if (old !== now) this.#add(isBreaking, place, `${what} was ${old}, is ${now}`);
  }

  #add(breaking: boolean, place: string | null, message: string): void {
    this.list.push({ breaking, place: place === null ? this.#file : `${this.#file} ${place}`, message });
  }
}

export function formatChange(change: Change): string {
  return `${change.breaking ? 'breaking  ' : 'compatible'} ${change.place}: ${change.message}`;
}

/** Pairs the elements of two lists by a key: in both, only before, only after. */
export function pair<Element, Key>(
  before: readonly Element[],
  after: readonly Element[],
  keyOf: (element: Element) => Key,
): { both: (readonly [Element, Element])[]; removed: Element[]; added: Element[] } {
  const old = new Map(before.map((element) => [keyOf(element), element]));
  const now = new Map(after.map((element) => [keyOf(element), element]));
  return {
    both: [...old].filter(([key]) => now.has(key)).map(([key, element]) => [element, now.get(key)!] as const),
    removed: [...old].filter(([key]) => !now.has(key)).map(([, element]) => element),
    added: [...now].filter(([key]) => !old.has(key)).map(([, element]) => element),
  };
}

/** Members of `after` that are not in `before`. */
export function newIn(before: readonly string[], after: readonly string[]): string[] {
  return after.filter((each) => !before.includes(each));
}

function show(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
