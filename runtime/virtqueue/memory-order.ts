/**
 * How the rings order their accesses, in one place (virtio 1.4, 2.7.13.3, 2.7.14, 2.8.21).
 *
 * JavaScript has plain accesses, which order nothing, and `Atomics`, which are sequentially consistent: on arm64 a load is
 * `ldar`, a store `stlr`, and a store followed by a load keeps its order; on x86-64 a load is a plain `mov` and a store an
 * `xchg`, a full fence. V8 calls a builtin for each, some 10 ns, so the rings spend one acquire and one release a batch:
 *
 *   take       load the index (split) or each head's flags (packed), branch on it, then read what it announces
 *   publish    plain stores of the used elements, then one Atomics.store of the index or of the first element's flags
 *   ask        after publish, Atomics.load the other side's event fields: store, then load, in order (full fence)
 *   re-arm     Atomics.store the own event fields, then Atomics.load what would have been announced (full fence)
 *
 * On x86-64 the processor does not reorder loads, and V8 moves none across a branch that depends on one, so the load of
 * `take` may be plain there.
 */
export const PLAIN_LOAD_ACQUIRES = process.arch === 'x64';
