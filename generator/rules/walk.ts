import { scalarSizes } from '../model/references.js';
import type {
  FeaturesFile,
  Field,
  FieldType,
  Item,
  LayoutsFile,
  MessagesFile,
  Model,
  Request,
  SchemaFile,
  Struct,
} from '../model/types.js';

export function messagesFiles(model: Model): MessagesFile[] {
  return model.files.filter((file) => file.kind === 'messages');
}

export function featuresFiles(model: Model): FeaturesFile[] {
  return model.files.filter((file) => file.kind === 'features');
}

export function layoutsFiles(model: Model): LayoutsFile[] {
  return model.files.filter((file) => file.kind === 'layouts');
}

export function structsOf(model: Model): Struct[] {
  return layoutsFiles(model).flatMap((file) => file.structs);
}

export function requestsOf(model: Model): Request[] {
  return messagesFiles(model).flatMap((file) => file.requests);
}

/** The items of a file that have a place of their own in the reference, outermost first. */
export function itemsOf(file: SchemaFile): Item[] {
  if (file.kind === 'messages') return [...file.requests];
  if (file.kind === 'features') return [...file.bits];
  return [
    ...file.constants,
    ...file.enums.flatMap((enumeration) => [enumeration, ...enumeration.members]),
    ...file.queues,
    ...file.structs.flatMap((struct) => [struct, ...struct.fields]),
  ];
}

export function findStruct(
  model: Model,
  ref: { readonly file: string; readonly name: string },
): Struct | null {
  const file = layoutsFiles(model).find((candidate) => candidate.path === ref.file);
  return file?.structs.find((struct) => struct.name === ref.name) ?? null;
}

/** Bits of a scalar field; null for anything else. */
export function fieldWidth(field: Field): number | null {
  return field.type.kind === 'scalar' ? scalarSizes[field.type.type] * 8 : null;
}

/** Bytes of one element; null for a struct whose size varies. */
export function elementSize(model: Model, type: FieldType): number | null {
  if (type.kind === 'scalar') return scalarSizes[type.type];
  return type.kind === 'bytes' ? 1 : (findStruct(model, type)?.size ?? null);
}

/** Numbers of a revision: `qemu-11.1.50` -> [11, 1, 50], `v1.4-cs01` -> [1, 4]. */
function revisionNumbers(revision: string): number[] {
  return (/\d+(?:\.\d+)*/.exec(revision)?.[0] ?? '').split('.').map(Number);
}

/** Negative when `left` is the earlier revision. */
export function compareRevisions(left: string, right: string): number {
  const [a, b] = [revisionNumbers(left), revisionNumbers(right)];
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
