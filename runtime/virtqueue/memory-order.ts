/**
 * How the rings order their accesses, in one place (virtio 1.4, 2.7.13.3, 2.7.14, 2.8.21).
 *
 * JavaScript has plain accesses, which order nothing, and `Atomics`, which are sequentially consistent: on arm64 a load is
 * `ldar`, a store `stlr`, and a store followed by a load keeps its order; on x86-64 a load is a plain `mov` and a store an
 * `xchg`, a full fence. V8 calls a builtin for each, some 10 ns, so the rings spend them once a batch:
 *
 *   take       load the index (split) or each head's flags (packed), branch on it, then read what it announces
 *   publish    plain stores of the used elements, then one store of the index or of the first element's flags: a release
 *   ask        after publish a full fence, then load the other side's event fields
 *   re-arm     Atomics.store the own event fields, then Atomics.load what would have been announced: a full fence
 *
 * x86-64 reorders neither loads nor stores among themselves, V8 keeps the order of plain stores and moves no load across
 * a branch that depends on another one. There the load of `take` and the store of the device's `publish` may be plain, and
 * `fence` makes up for it in `ask`; elsewhere publish is an Atomics.store, after which an Atomics.load needs no fence.
 */
export const PLAIN_LOAD_ACQUIRES = process.arch === 'x64';
export const PLAIN_STORE_RELEASES = PLAIN_LOAD_ACQUIRES;

const nobodys = new Int32Array(1);

/** Full fence between a store made by `publish` and an Atomics.load that comes next. */
export function fence(): void {
  if (PLAIN_STORE_RELEASES) Atomics.store(nobodys, 0, 0);
}
