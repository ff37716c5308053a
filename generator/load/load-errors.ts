/** Codes of what can be wrong with a file before its meaning is looked at. The rules have codes of their own. */
export const loadErrors = {
  'file-name':
    'Folders and files are called in kebab-case and end in .yaml; `index` is the name of the generated entry.',
  'yaml-syntax': 'The file is not YAML, or a key stands twice in a map.',
  'yaml-feature': 'Anchors, aliases, tags and several documents in a file are not used.',
  'unknown-kind': 'The file does not say which kind it is.',
  'unknown-key': 'The key is not one of those that the map may have.',
  'missing-key': 'The map lacks a key that it must have.',
  'wrong-type': 'The value is of the wrong type.',
  'wrong-value': 'The value is not a legal one.',
  'key-order': 'The keys of a map stand in the one fixed order.',
  'meta-schema': 'A schema of the schemas is itself not in order.',
} as const satisfies Record<string, string>;

export type LoadErrorCode = keyof typeof loadErrors;
