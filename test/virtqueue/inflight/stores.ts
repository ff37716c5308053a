import { RingArea } from '../../../runtime/virtqueue/ring-area.js';

/**
 * Every store that a device's queue makes to its ring and its in-flight region goes through views that RingArea gives
 * out. Here they are replaced by ones that tell of each store after it was made: the points at which a process can die.
 */
let listener: (() => void) | null = null;

const behind = new WeakMap<object, object>();

function watched<View extends object>(view: View): View {
  const proxy = new Proxy(view, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
    set(target, key, value) {
      Reflect.set(target, key, value, target);
      listener?.();
      return true;
    },
  });
  behind.set(proxy, view);
  return proxy;
}

/** Atomics take no proxies. */
function unwrapped(view: unknown): never {
  return (behind.get(view as object) ?? view) as never;
}

export function watchStores(): void {
  for (const name of ['u8', 'u16', 'u32', 'i32'] as const) {
    const make = RingArea.prototype[name] as () => object;
    RingArea.prototype[name] = function (this: RingArea) {
      return watched(make.call(this));
    } as never;
  }
  const { load, store } = Atomics;
  Atomics.load = ((view: unknown, index: number) => load(unwrapped(view), index)) as never;
  Atomics.store = ((view: unknown, index: number, value: number) => {
    const stored: unknown = store(unwrapped(view), index, value);
    if (behind.has(view as object)) listener?.();
    return stored;
  }) as never;
}

/** Runs `action` and calls `onStore` after each of its stores. */
export function during<Result>(onStore: (() => void) | null, action: () => Result): Result {
  const before = listener;
  listener = onStore;
  try {
    return action();
  } finally {
    listener = before;
  }
}
