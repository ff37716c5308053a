import type { NodePath } from '../load/schema-document.js';
import { prefixed, resolveFileBase, resolveItem, type ResolveContext } from './resolve-context.js';
import type { RawBit, RawFeatures } from './raw.js';
import type { FeatureBit, FeatureRef, FeaturesFile } from './types.js';

export function resolveFeatures(raw: RawFeatures, context: ResolveContext): FeaturesFile {
  return context.mark(
    {
      ...resolveFileBase(raw, context.path),
      kind: 'features',
      word: raw.word,
      width: raw.width,
      prefix: raw.prefix,
      bits: raw.bits.map((bit, index) => resolveBit(bit, raw, ['bits', index], context)),
      reserved: (raw.reserved ?? []).map((entry, index) => context.mark({ ...entry }, ['reserved', index])),
    },
    [],
  );
}

function resolveBit(raw: RawBit, file: RawFeatures, path: NodePath, context: ResolveContext): FeatureBit {
  const requires: string[] = [];
  const requiresOther: FeatureRef[] = [];
  for (const word of ['protocol', 'virtio', 'device'] as const) {
    for (const ref of context.features(word, raw.requires?.[word], [...path, 'requires'])) {
      if (ref.file === context.path) requires.push(ref.name);
      else requiresOther.push(ref);
    }
  }
  return context.mark(
    {
      ...resolveItem(raw, prefixed(file.prefix, raw.name)),
      bit: raw.bit,
      requires,
      requiresOther,
      negotiable: raw.negotiable ?? true,
    },
    path,
  );
}
