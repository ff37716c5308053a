import type { SchemaDocument } from '../load/schema-document.js';
import type { FeatureRef, LayoutRef, ScalarType } from './types.js';
import type { RawFeatures, RawFile, RawLayouts, RawStruct } from './raw.js';

export const scalarSizes: Readonly<Record<ScalarType, number>> = {
  u8: 1,
  u16: 2,
  u32: 4,
  u64: 8,
  i8: 1,
  i16: 2,
  i32: 4,
  i64: 8,
};

export function isScalarType(name: string): name is ScalarType {
  return Object.hasOwn(scalarSizes, name);
}

/** What names stand for. Names of structs and enums are looked up in the file that uses them first, then in all. */
export class References {
  readonly #words = new Map<string, { file: string; raw: RawFeatures }>();
  readonly #devices = new Map<string, { file: string; raw: RawFeatures }>();
  readonly #layouts = new Map<string, RawLayouts>();

  constructor(documents: ReadonlyMap<string, SchemaDocument>) {
    for (const [file, document] of documents) {
      const raw = document.data as RawFile;
      if (raw.kind === 'layouts') this.#layouts.set(file, raw);
      if (raw.kind !== 'features') continue;
      if (raw.word === 'device') this.#devices.set(folderOf(file), { file, raw });
      // A second file for a word is what the rule words-unique reports.
      else if (!this.#words.has(raw.word)) this.#words.set(raw.word, { file, raw });
    }
  }

  /** A bit by name; those of a device type are in the folder of the file that asks. */
  feature(word: 'protocol' | 'virtio' | 'device', name: string, from: string): FeatureRef | null {
    const set = word === 'device' ? this.#devices.get(folderOf(from)) : this.#words.get(word);
    const bit = set?.raw.bits.find((candidate) => candidate.name === name);
    return set && bit ? { file: set.file, name, bit: bit.bit } : null;
  }

  layout(name: string, from: string): LayoutRef | null {
    if (isScalarType(name)) return { kind: 'scalar', type: name };
    const file = this.#find(from, (raw) => raw.structs?.some((struct) => struct.name === name) ?? false);
    return file === null ? null : { kind: 'struct', file, name };
  }

  /** A struct as it is written. */
  struct(ref: { readonly file: string; readonly name: string }): RawStruct | null {
    return this.#layouts.get(ref.file)?.structs?.find((struct) => struct.name === ref.name) ?? null;
  }

  enumeration(name: string, from: string): { file: string; name: string } | null {
    const file = this.#find(from, (raw) => raw.enums?.some((candidate) => candidate.name === name) ?? false);
    return file === null ? null : { file, name };
  }

  #find(from: string, has: (raw: RawLayouts) => boolean): string | null {
    const own = this.#layouts.get(from);
    if (own !== undefined && has(own)) return from;
    for (const [file, raw] of this.#layouts) if (has(raw)) return file;
    return null;
  }
}

function folderOf(file: string): string {
  return file.slice(0, file.lastIndexOf('/') + 1);
}
