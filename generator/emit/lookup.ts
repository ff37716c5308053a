import type {
  Enumeration,
  FeatureRef,
  FeaturesFile,
  LayoutsFile,
  Model,
  ScalarType,
  Struct,
} from '../model/types.js';

/** Finds what a reference of the model points at. The rules have made sure that it exists. */
export interface Lookup {
  struct(reference: { readonly file: string; readonly name: string }): Struct;
  enumeration(reference: { readonly file: string; readonly name: string }): Enumeration;
  features(reference: FeatureRef): FeaturesFile;
}

export function lookupOf(model: Model): Lookup {
  const layouts = new Map(model.files.filter(isLayouts).map((file) => [file.path, file]));
  const features = new Map(model.files.filter(isFeatures).map((file) => [file.path, file]));
  const find = <Found extends { readonly name: string }>(
    list: readonly Found[] | undefined,
    file: string,
    name: string,
  ) => {
    const found = list?.find((each) => each.name === name);
    if (found === undefined) throw new Error(`schema/${file}.yaml has no ${name}`);
    return found;
  };
  return {
    struct: ({ file, name }) => find(layouts.get(file)?.structs, file, name),
    enumeration: ({ file, name }) => find(layouts.get(file)?.enums, file, name),
    features: ({ file, name }) => {
      const found = features.get(file);
      if (found === undefined) throw new Error(`schema/${file}.yaml declares no feature ${name}`);
      return found;
    },
  };
}

function isLayouts(file: Model['files'][number]): file is LayoutsFile {
  return file.kind === 'layouts';
}

function isFeatures(file: Model['files'][number]): file is FeaturesFile {
  return file.kind === 'features';
}

const SCALAR_SIZE: Readonly<Record<ScalarType, number>> = {
  u8: 1,
  u16: 2,
  u32: 4,
  u64: 8,
  i8: 1,
  i16: 2,
  i32: 4,
  i64: 8,
};

/** Bytes of a scalar. */
export function scalarSize(type: ScalarType): number {
  return SCALAR_SIZE[type];
}

/** True for the types that are a bigint in records. */
export function isWide(type: ScalarType): boolean {
  return SCALAR_SIZE[type] === 8;
}

/** Bytes of one element of a field; null when elements differ in size. */
export function elementSize(lookup: Lookup, type: Struct['fields'][number]['type']): number | null {
  if (type.kind === 'bytes') return 1;
  return type.kind === 'scalar' ? scalarSize(type.type) : lookup.struct(type).size;
}
