import type { Struct } from './types.js';

/** Bytes of the typed array's elements that a struct's accessors take: as wide as its alignment allows, at most 4. */
export function accessUnit(struct: Struct): 1 | 2 | 4 {
  return struct.align >= 4 ? 4 : struct.align >= 2 ? 2 : 1;
}
