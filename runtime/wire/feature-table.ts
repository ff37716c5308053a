/** One negotiable bit. */
export interface FeatureBit<Name extends string = string> {
  readonly name: Name;
  /** Full specification name, e.g. `VIRTIO_F_RING_PACKED`. */
  readonly specName: string;
  readonly bit: number;
  /** Names of bits of the same table that must be negotiated with it. */
  readonly requires: readonly Name[];
}

/** A set of bits that is negotiated in one 64-bit word. */
export interface FeatureTable<Name extends string = string> {
  readonly name: string;
  readonly bits: readonly FeatureBit<Name>[];
}

/** Drops every bit of `word` whose dependencies are not in it, until nothing changes. Unknown bits are kept. */
export function closeFeatures(table: FeatureTable, word: bigint): bigint {
  const masks = new Map(table.bits.map((bit) => [bit.name, 1n << BigInt(bit.bit)]));
  let before: bigint;
  do {
    before = word;
    for (const bit of table.bits) {
      const mask = masks.get(bit.name)!;
      if ((word & mask) === 0n) continue;
      if (bit.requires.some((name) => (word & masks.get(name)!) === 0n)) word &= ~mask;
    }
  } while (word !== before);
  return word;
}

/** Specification names of the set bits, unknown ones as `bit N`, for logs and errors. */
export function featureNames(table: FeatureTable, word: bigint): string[] {
  const known = new Map(table.bits.map((bit) => [bit.bit, bit.specName]));
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if ((word >> BigInt(bit)) & 1n) names.push(known.get(bit) ?? `bit ${bit}`);
  }
  return names;
}
